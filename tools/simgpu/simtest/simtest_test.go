package simtest_test

import (
	"path/filepath"
	"testing"

	"github.com/heddle-gpu/heddle/tools/simgpu/server"
	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
)

func source(name string) string { return filepath.Join("..", "testdata", name) }

// TestVecadd runs the simplest program and checks what the server counted.
func TestVecadd(t *testing.T) {
	srv := simtest.Start(t)
	srv.Run(simtest.CompileC(t, source("vecadd.c")), "alone")
	srv.WaitUsed(0)
	st := srv.Stats()
	if st.Launches != 2 || len(st.Processes) != 1 || st.Processes[0].Name != "vecadd" || st.Processes[0].Calls["cuLaunchKernel"] != 2 {
		t.Errorf("stats: %+v", st)
	}
	if st.Images != 0 {
		t.Errorf("%d images left", st.Images)
	}
}

// TestPrograms runs each program alone; it checks itself. Afterwards the
// server must hold nothing.
func TestPrograms(t *testing.T) {
	for _, name := range []string{"streams", "vmm_share", "memops", "errors", "memory", "host", "threads", "fork", "modules", "procaddr", "context", "ipc", "graphs", "devices", "lifetimes", "truncate", "tensormaps", "green"} {
		t.Run(name, func(t *testing.T) {
			srv := simtest.Start(t, func(o *server.Options) {
				o.MaxInstructions = 2e7
				o.Devices = 2
			})
			srv.Run(simtest.CompileC(t, source(name+".c")))
			srv.WaitUsed(0)
			if st := srv.Stats(); st.Images != 0 || st.Exports != 0 {
				t.Errorf("left behind: %d images, %d exported objects", st.Images, st.Exports)
			}
		})
	}
}

// TestRegisteredWithoutFiles has host memory registered as where the files
// behind shared pages cannot be opened, as without privileges.
func TestRegisteredWithoutFiles(t *testing.T) {
	srv := simtest.Start(t)
	for _, name := range []string{"host", "memops"} {
		cmd := srv.Command(simtest.CompileC(t, source(name+".c")))
		cmd.Env = append(cmd.Env, "SIMGPU_HOST_FILES=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	srv.WaitUsed(0)
}

// TestWide runs a launch as Heddle coalesces them, and compares what it costs in virtual time with what an H100 was measured to take.
func TestWide(t *testing.T) {
	srv := simtest.Start(t)
	t.Logf("%s", srv.Run(simtest.CompileC(t, source("wide.c"))))
}
