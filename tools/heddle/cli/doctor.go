package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/inventory"
	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
)

// finding is one line of the doctor's report.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"` // ok, warning or error
	Found string `json:"found"`
	Mend  string `json:"mend,omitempty"` // the command that mends it
}

const (
	stateOK      = "ok"
	stateWarning = "warning"
	stateError   = "error"
)

// minDriver is the oldest driver branch that Heddle promises to work with.
const minDriver = 550

// wantedFiles is what one executor may need: a file a segment, and slack.
const wantedFiles = 65536

// wantedCores is what issuing needs beside the clients: a poller and issue threads.
const wantedCores = 6

func newDoctor(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "What is wrong here, and the command that mends it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := []finding{checkLibrary(), checkPreload(), checkRuntimeDir()}
			status, err := admin.Dial().Status(cmd.Context())
			findings = append(findings, checkDaemon(status, err))
			findings = append(findings, checkGPUs(inventory.Read())...)
			findings = append(findings, checkMPS(), checkFiles(), checkCores(runtime.NumCPU()))
			if o.json {
				if err := o.printJSON(findings); err != nil {
					return err
				}
			} else {
				for _, f := range findings {
					fmt.Fprintf(o.stdout, "%-8s %-14s %s\n", f.State, f.Check, f.Found)
					if f.Mend != "" {
						fmt.Fprintf(o.stdout, "%-8s %-14s → %s\n", "", "", f.Mend)
					}
				}
			}
			return verdict(findings)
		},
	}
}

func verdict(findings []finding) error {
	code := ExitOK
	for _, f := range findings {
		switch f.State {
		case stateError:
			return exitError{ExitFailed, nil}
		case stateWarning:
			code = ExitDegraded
		}
	}
	if code != ExitOK {
		return exitError{code, nil}
	}
	return nil
}

func checkLibrary() finding {
	p, err := findLibrary()
	if err != nil {
		return finding{"library", stateError, err.Error(), "make interposer"}
	}
	return finding{"library", stateOK, p, ""}
}

// checkPreload looks at an LD_PRELOAD that is already set: our library must come
// first, and nobody else who hooks the driver should be there.
func checkPreload() finding {
	value := os.Getenv("LD_PRELOAD")
	if value == "" {
		return finding{"preload", stateOK, "LD_PRELOAD is empty; `heddle run` sets it", ""}
	}
	list := strings.FieldsFunc(value, func(r rune) bool { return r == ':' || r == ' ' })
	for i, p := range list {
		if filepath.Base(p) == libraryName && i > 0 {
			return finding{"preload", stateWarning, fmt.Sprintf("%s comes after %s in LD_PRELOAD, which then sees CUDA calls first", libraryName, list[0]), "put " + p + " first, or leave it to `heddle run`"}
		}
	}
	return finding{"preload", stateOK, value, ""}
}

func checkRuntimeDir() finding {
	dir := runtimedir.Find()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return finding{"runtime", stateOK, dir + " (made when first needed)", ""}
	}
	if dir == runtimedir.System {
		return finding{"runtime", stateOK, dir, ""}
	}
	if err := runtimedir.Prepare(dir); err != nil {
		return finding{"runtime", stateError, err.Error(), "chmod 700 " + dir}
	}
	return finding{"runtime", stateOK, dir, ""}
}

func checkDaemon(s admin.Status, err error) finding {
	switch {
	case err != nil:
		return finding{"daemon", stateOK, "none runs; `heddle run` starts one when needed", ""}
	case s.Version != Version:
		return finding{"daemon", stateWarning, fmt.Sprintf("version %s runs, this binary is %s", s.Version, Version), "heddle drain"}
	}
	for _, c := range s.Clients {
		if c.Error != 0 {
			return finding{"daemon", stateWarning, fmt.Sprintf("client %d (pid %d) has a sticky error %d: %s", c.ID, c.Pid, c.Error, c.ErrorReason), "restart that client"}
		}
	}
	return finding{"daemon", stateOK, fmt.Sprintf("pid %d, %d clients", s.Pid, len(s.Clients)), ""}
}

func checkGPUs(inv inventory.Inventory) []finding {
	if inv.Unavailable != "" {
		if os.Getenv("SIMGPU_SOCKET") != "" {
			return []finding{{"gpu", stateOK, "the software GPU (SIMGPU_SOCKET is set)", ""}}
		}
		return []finding{{"gpu", stateError, inv.Unavailable, "install NVIDIA's driver, or try Heddle on the software GPU: heddle demo"}}
	}
	var out []finding
	var major int
	fmt.Sscanf(inv.Driver, "%d", &major)
	if major < minDriver {
		out = append(out, finding{"driver", stateError, fmt.Sprintf("driver %s is older than %d", inv.Driver, minDriver), "update NVIDIA's driver"})
	} else {
		out = append(out, finding{"driver", stateOK, fmt.Sprintf("%s (CUDA %s)", inv.Driver, inv.CUDAVersion), ""})
	}
	for _, d := range inv.Devices {
		name := fmt.Sprintf("gpu %d", d.Index)
		if err := inv.Serves(d.UUID); err != nil {
			found, mend, _ := strings.Cut(err.Error(), ": ")
			out = append(out, finding{name, stateError, found, mend})
			continue
		}
		out = append(out, finding{name, stateOK, fmt.Sprintf("%s, %s", d.Name, mib(d.MemoryBytes)), ""})
	}
	return out
}

// checkMPS warns of a running MPS control daemon: Heddle's executor would become
// one of its clients, and lose the connections and priorities it counts on.
func checkMPS() finding {
	dir := os.Getenv("CUDA_MPS_PIPE_DIRECTORY")
	if dir == "" {
		dir = "/tmp/nvidia-mps"
	}
	pid, err := os.ReadFile(filepath.Join(dir, "nvidia-cuda-mps-control.pid"))
	if err == nil {
		if p := strings.TrimSpace(string(pid)); p != "" {
			if _, err := os.Stat("/proc/" + p); err == nil {
				return finding{"mps", stateWarning, "an MPS control daemon runs (pid " + p + ")", "echo quit | nvidia-cuda-mps-control"}
			}
		}
	}
	return finding{"mps", stateOK, "no MPS control daemon", ""}
}

func checkFiles() finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return finding{"open files", stateWarning, err.Error(), ""}
	}
	if l.Max < wantedFiles {
		return finding{"open files", stateWarning, fmt.Sprintf("at most %d; a daemon with many clients uses one for each memory segment", l.Max), fmt.Sprintf("ulimit -Hn %d before the daemon starts", wantedFiles)}
	}
	return finding{"open files", stateOK, fmt.Sprintf("at most %d", l.Max), ""}
}

func checkCores(n int) finding {
	if n < wantedCores {
		return finding{"cores", stateWarning, fmt.Sprintf("%d cores; polling and issuing want %d beside the clients'", n, wantedCores), "HEDDLE_ISSUE_THREADS=1 heddle daemon"}
	}
	return finding{"cores", stateOK, fmt.Sprintf("%d", n), ""}
}
