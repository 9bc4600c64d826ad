package cli

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/compiler"
)

// compilePatience bounds one request of a worker whose executor is gone and cannot end it.
const compilePatience = 2 * time.Minute

// newCompile is what an executor starts to compile rewritten kernels; nobody else should, so it is hidden.
func newCompile(o *options) *cobra.Command {
	return &cobra.Command{
		Use:    "compile",
		Short:  "Started by an executor: compile rewritten kernels",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := compiler.Work(cmd.InOrStdin(), o.stdout, compilePatience); err != nil {
				return exitError{ExitFailed, err}
			}
			return nil
		},
	}
}

// cacheDir is a folder in which this user's executors keep what the next ones can use; "" when the user has no place for it. An
// executor that root's daemon started for somebody has root's environment, whose folders are not this user's.
func cacheDir(what string) string {
	dir := os.Getenv("HEDDLE_CACHE_DIR")
	if dir == "" {
		base, err := os.UserCacheDir()
		home := os.Getenv("HOME")
		if u, known := user.LookupId(strconv.Itoa(os.Getuid())); known == nil && (err != nil || home != u.HomeDir && !own(home)) {
			base, err = filepath.Join(u.HomeDir, ".cache"), nil
		}
		if err != nil {
			return ""
		}
		dir = filepath.Join(base, "heddle")
	}
	if !filepath.IsAbs(dir) {
		return "" // an executor runs in /, not where the user was
	}
	return filepath.Join(dir, what)
}

// own tells whether a folder is this user's.
func own(dir string) bool {
	fi, err := os.Stat(dir)
	return err == nil && compiler.Mine(fi)
}
