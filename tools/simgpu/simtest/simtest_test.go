package simtest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/heddle-gpu/heddle/tools/simgpu/server"
	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
)

func TestMain(m *testing.M) { os.Exit(m.Run()) }

func source(name string) string { return filepath.Join("..", "testdata", name) }

// TestVecadd runs the simplest program and checks what the server counted.
func TestVecadd(t *testing.T) {
	srv := simtest.Start(t)
	srv.Run(simtest.CompileC(t, source("vecadd.c")))
	srv.WaitUsed(0)
	st := srv.Stats()
	if st.Launches != 2 || len(st.Processes) != 1 || st.Processes[0].Name != "vecadd" || st.Processes[0].Calls["cuLaunchKernel"] != 2 {
		t.Errorf("stats: %+v", st)
	}
	if st.Images != 0 {
		t.Errorf("%d images left", st.Images)
	}
	_ = server.Rule{}
}
