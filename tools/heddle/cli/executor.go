package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/executor"
	"github.com/heddle-gpu/heddle/controlplane/executor/issue"
)

// newExecutor is what the daemon starts; nobody else should, so it is hidden.
func newExecutor(o *options) *cobra.Command {
	config := executor.Config{}
	cmd := &cobra.Command{
		Use:    "executor",
		Short:  "Started by the daemon: issue clients' ops on one GPU",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := keepHeapAway(); err != nil {
				return exitError{ExitFailed, err}
			}
			config.Log = slog.New(slog.NewTextHandler(o.stderr, nil)).With("executor", os.Getpid())
			if err := fromEnvironment(&config); err != nil {
				return err
			}
			if s := os.Getenv("HEDDLE_PROFILE"); s != "" {
				stop, err := profile(s)
				if err != nil {
					return fail(ExitUsage, "HEDDLE_PROFILE=%q: %v; expected a folder in which profiles can be made", s, err)
				}
				defer stop()
			}
			if err := executor.Run(cmd.Context(), config); err != nil {
				return exitError{executor.ExitCode(err), err}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&config.ControlFd, "control-fd", 3, "the daemon's socket")
	cmd.Flags().StringVar(&config.DeviceUUID, "device", "", "GPU to use, as nvidia-smi prints its UUID")
	return cmd
}

// fromEnvironment gives an executor what the daemon's environment says of it (docs/cli.md), its compiler and its folders.
func fromEnvironment(config *executor.Config) error {
	var err error
	if config.IssueThreads, err = count("HEDDLE_ISSUE_THREADS", issue.MaxThreads); err != nil {
		return err
	}
	if config.Spill, err = count("HEDDLE_SPILL", issue.MaxSpill); err != nil {
		return err
	}
	gather, err := shortTime("HEDDLE_GATHER")
	if err != nil {
		return err
	}
	config.Tuning.Gather, config.Tuning.Busy = gather, gather
	if config.Tuning.Ahead, err = shortTime("HEDDLE_AHEAD"); err != nil {
		return err
	}
	if config.Tuning.Calm, err = shortTime("HEDDLE_CALM"); err != nil {
		return err
	}
	switch s := os.Getenv("HEDDLE_PREPARED"); s {
	case "", "1":
	case "0":
		config.Tuning.NoRuns = true
	default:
		return fail(ExitUsage, "HEDDLE_PREPARED=%q: expected 0 or 1", s)
	}
	switch s := os.Getenv("HEDDLE_JOIN_GRAPHS"); s {
	case "", "1":
	case "0":
		config.Tuning.JoinGraphs = executor.NeverJoin
	case "always":
		config.Tuning.JoinGraphs = executor.AlwaysJoin
	default:
		return fail(ExitUsage, "HEDDLE_JOIN_GRAPHS=%q: expected 0, 1 or always", s)
	}
	if s := os.Getenv("HEDDLE_MAX_KERNEL_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return fail(ExitUsage, "HEDDLE_MAX_KERNEL_TIME=%q: expected a duration such as 10s", s)
		}
		config.MaxKernelTime = d
	}
	switch s := os.Getenv("HEDDLE_COALESCE"); s {
	case "", "1":
		config.Compiler = []string{"/proc/self/exe", "compile"} // this binary, even when it was replaced on disk
	case "0": // every form of a kernel needs one
	default:
		return fail(ExitUsage, "HEDDLE_COALESCE=%q: expected 0 or 1", s)
	}
	config.CacheDir, config.LearnedDir = cacheDir("forms"), cacheDir("learned")
	return nil
}

// count is a variable of the environment that is a number from 1 to most; 0 when it is not set.
func count(name string, most int) (int, error) {
	s := os.Getenv(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, fail(ExitUsage, "%s=%q: expected 1 to %d", name, s, most)
	}
	return n, nil
}

// shortTime is a variable of the environment that is a duration of up to a second; 0 when it is not set.
func shortTime(name string) (time.Duration, error) {
	s := os.Getenv(name)
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > time.Second {
		return 0, fail(ExitUsage, "%s=%q: expected a duration such as 30us, at most 1s", name, s)
	}
	return d, nil
}

// profile samples this process's CPU time into a file of a folder, for `go tool pprof`, until stop is called.
func profile(dir string) (stop func(), err error) {
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("executor-%d.pprof", os.Getpid())))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}
