package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/executor"
)

// What docs/cli.md says of a daemon's environment is what its executors do.
func TestExecutorsEnvironment(t *testing.T) {
	t.Setenv("HEDDLE_CACHE_DIR", t.TempDir())
	for _, tc := range []struct {
		name, value string
		is          func(executor.Config) bool
	}{
		{"HEDDLE_COALESCE", "", func(c executor.Config) bool { return len(c.Compiler) > 0 }},
		{"HEDDLE_COALESCE", "1", func(c executor.Config) bool { return len(c.Compiler) > 0 }},
		{"HEDDLE_COALESCE", "0", func(c executor.Config) bool { return len(c.Compiler) == 0 }},
		{"HEDDLE_PREPARED", "1", func(c executor.Config) bool { return !c.Tuning.NoRuns }},
		{"HEDDLE_PREPARED", "0", func(c executor.Config) bool { return c.Tuning.NoRuns }},
		{"HEDDLE_JOIN_GRAPHS", "0", func(c executor.Config) bool { return c.Tuning.JoinGraphs == executor.NeverJoin }},
		{"HEDDLE_JOIN_GRAPHS", "always", func(c executor.Config) bool { return c.Tuning.JoinGraphs == executor.AlwaysJoin }},
		{"HEDDLE_GATHER", "5us", func(c executor.Config) bool {
			return c.Tuning.Gather == 5*time.Microsecond && c.Tuning.Busy == 5*time.Microsecond
		}},
		{"HEDDLE_ISSUE_THREADS", "2", func(c executor.Config) bool { return c.IssueThreads == 2 }},
		{"HEDDLE_MAX_KERNEL_TIME", "10s", func(c executor.Config) bool { return c.MaxKernelTime == 10*time.Second }},
	} {
		t.Run(tc.name+"="+tc.value, func(t *testing.T) {
			t.Setenv(tc.name, tc.value)
			var c executor.Config
			if err := fromEnvironment(&c); err != nil || !tc.is(c) || c.CacheDir == "" || c.LearnedDir == "" {
				t.Errorf("%v: %+v", err, c)
			}
		})
	}
	for _, name := range []string{"HEDDLE_COALESCE", "HEDDLE_PREPARED", "HEDDLE_JOIN_GRAPHS", "HEDDLE_GATHER", "HEDDLE_AHEAD", "HEDDLE_CALM",
		"HEDDLE_SPILL", "HEDDLE_ISSUE_THREADS", "HEDDLE_MAX_KERNEL_TIME"} {
		t.Run(name+"=no", func(t *testing.T) {
			t.Setenv(name, "no")
			if err := fromEnvironment(&executor.Config{}); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "expected") {
				t.Errorf("%v", err)
			}
		})
	}
}
