// Package runtimedir finds the folder where a Heddle daemon keeps its sockets,
// and refuses folders that somebody else could have prepared.
package runtimedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Names of the files in a runtime folder.
const (
	ClientSocket = "client.sock"  // SOCK_SEQPACKET: clients (docs/protocol.md)
	AdminSocket  = "control.sock" // HTTP: the CLI and Prometheus
	LockFile     = "daemon.lock"  // held by the daemon that owns the folder
	LogFile      = "daemon.log"   // of a daemon that `heddle run` started
)

// System is the folder of a daemon that serves a whole machine.
const System = "/run/heddle"

// maxSocketPath is the room of sockaddr_un.sun_path on Linux, less the final zero.
const maxSocketPath = 107

// Own returns the calling user's folder: $HEDDLE_RUNTIME_DIR, else
// $XDG_RUNTIME_DIR/heddle, else /tmp/heddle-UID. It does not create it.
func Own() string {
	if d := os.Getenv("HEDDLE_RUNTIME_DIR"); d != "" {
		return d
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		if owned(d) == nil {
			return filepath.Join(d, "heddle")
		}
	}
	return filepath.Join(os.TempDir(), "heddle-"+strconv.Itoa(os.Getuid()))
}

// Find returns the folder that a client or the CLI should talk to: an explicit
// $HEDDLE_RUNTIME_DIR, the user's own daemon if there is one, else the system's
// if there is one, else the user's own.
func Find() string {
	own := Own()
	if os.Getenv("HEDDLE_RUNTIME_DIR") != "" {
		return own
	}
	if _, err := os.Stat(filepath.Join(own, ClientSocket)); err == nil {
		return own
	}
	if _, err := os.Stat(filepath.Join(System, ClientSocket)); err == nil {
		return System
	}
	return own
}

// Prepare creates dir (mode 0700, or leaves a stricter or a system one alone)
// and checks that it belongs to this user and that socket paths in it fit.
func Prepare(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("runtime folder %q: expected an absolute path; set HEDDLE_RUNTIME_DIR=%s", dir, "/run/user/"+strconv.Itoa(os.Getuid())+"/heddle")
	}
	if n := len(filepath.Join(dir, AdminSocket)); n > maxSocketPath {
		return fmt.Errorf("runtime folder %q: socket paths in it take %d bytes, the kernel allows %d; set HEDDLE_RUNTIME_DIR to a shorter path", dir, n, maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("runtime folder: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("runtime folder: %w", err)
	}
	if err := owned(dir); err != nil {
		return fmt.Errorf("runtime folder: %w; remove it or set HEDDLE_RUNTIME_DIR", err)
	}
	return nil
}

// owned reports whether dir is a real folder of this user that others cannot write.
func owned(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case !ok || int(st.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to another user", dir)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s is writable by others (mode %#o, expected 0700)", dir, fi.Mode().Perm())
	}
	return nil
}
