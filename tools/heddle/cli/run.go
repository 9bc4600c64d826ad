package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
)

// libraryName is the preload library's file name.
const libraryName = "libheddle.so"

func newRun(o *options) *cobra.Command {
	var label string
	var require bool
	cmd := &cobra.Command{
		Use:   "run [--label NAME] [--require] -- COMMAND [ARGUMENT…]",
		Short: "Run a CUDA program through Heddle, unmodified",
		Long: `Runs COMMAND with the preload library in front of the CUDA driver. Joins the
daemon that runs already, or starts one that leaves 60 s after its last client.
When Heddle cannot serve, the program runs natively and one line says why.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := exec.LookPath(args[0])
			if err != nil {
				var lookup *exec.Error
				if errors.As(err, &lookup) {
					err = lookup.Err // without the name once more
				}
				return fail(ExitUsage, "%s: %w; give the program after --, as in: heddle run -- python3 serve.py", args[0], err)
			}
			env, err := clientEnv(label)
			if err != nil {
				if require {
					return exitError{ExitUnreachable, err}
				}
				fmt.Fprintf(o.stderr, "heddle: running natively: %v\n", err)
				env = os.Environ()
			} else if require {
				env = mergeEnv(env, map[string]string{"HEDDLE_REQUIRE": "1"}) // the library may find that it cannot be served
			}
			err = syscall.Exec(program, args, env)
			return fail(ExitFailed, "%s: %w", program, err)
		},
	}
	cmd.Flags().StringVar(&label, "label", "", "name for this client in ps, metrics and policies (HEDDLE_LABEL)")
	cmd.Flags().BoolVar(&require, "require", false, "fail instead of running natively when no daemon can be had")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// clientEnv is this environment with the preload library, and a daemon behind it.
func clientEnv(label string) ([]string, error) {
	library, err := findLibrary()
	if err != nil {
		return nil, err
	}
	dir, err := ensureDaemon()
	if err != nil {
		return nil, err
	}
	set := map[string]string{
		"LD_PRELOAD":    withPreload(os.Getenv("LD_PRELOAD"), library),
		"HEDDLE_SOCKET": filepath.Join(dir, runtimedir.ClientSocket),
	}
	if label != "" {
		set["HEDDLE_LABEL"] = label
	}
	if p := nvtxLibrary(os.Getenv("HEDDLE_NVTX"), os.Getenv("NVTX_INJECTION64_PATH"), library); p != "" {
		set["NVTX_INJECTION64_PATH"] = p
	}
	set["XLA_FLAGS"] = withoutCommandBuffers(os.Getenv("XLA_FLAGS"))
	return mergeEnv(os.Environ(), set), nil
}

// nvtxLibrary is the library that NVTX calls: the one that the user has chosen (a profiler; there is room for one), else ours when
// ranges are to mark requests. "" is none.
func nvtxLibrary(pattern, current, library string) string {
	if current == "" && pattern != "" {
		return library
	}
	return current
}

// withoutCommandBuffers tells XLA (JAX, TensorFlow) to launch its kernels one by
// one, unless the user has decided. XLA wraps nearly everything in CUDA graphs
// otherwise, and a matrix product captured by JAX 0.11 failed to launch under
// Heddle; it was not run again since graphs are forwarded (docs/results.md).
func withoutCommandBuffers(flags string) string {
	const flag = "--xla_gpu_enable_command_buffer"
	if strings.Contains(flags, flag) {
		return flags
	}
	return strings.TrimSpace(flags + " " + flag + "=")
}

// withPreload puts the library first, once.
func withPreload(current, library string) string {
	list := []string{library}
	for _, p := range strings.FieldsFunc(current, func(r rune) bool { return r == ':' || r == ' ' }) {
		if filepath.Base(p) != libraryName {
			list = append(list, p)
		}
	}
	return strings.Join(list, ":")
}

func mergeEnv(env []string, set map[string]string) []string {
	out := make([]string, 0, len(env)+len(set))
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if _, ok := set[name]; !ok {
			out = append(out, kv)
		}
	}
	for k, v := range set {
		out = append(out, k+"="+v)
	}
	return out
}

// findLibrary looks for libheddle.so: $HEDDLE_LIBRARY, then lib/heddle beside
// the folder of this binary.
func findLibrary() (string, error) {
	if p := os.Getenv("HEDDLE_LIBRARY"); p != "" {
		if _, err := os.Stat(p); err != nil {
			return "", fmt.Errorf("HEDDLE_LIBRARY: %w", err)
		}
		return filepath.Abs(p)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	p := filepath.Join(filepath.Dir(filepath.Dir(self)), "lib", "heddle", libraryName)
	if _, err := os.Stat(p); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("%s is missing: build it with `make interposer`, or set HEDDLE_LIBRARY to its path", p)
		}
		return "", err
	}
	return p, nil
}
