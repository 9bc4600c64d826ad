package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
)

// idleExit is how long a daemon that `heddle run` started stays without clients.
const idleExit = 60 * time.Second

// startTimeout bounds how long a new daemon may take to listen.
const startTimeout = 10 * time.Second

// ensureDaemon returns the runtime folder of a daemon that listens, starting one
// if there is none. Several `heddle run` at once end up with one daemon: whoever
// loses the daemon's lock finds the winner's socket.
func ensureDaemon() (string, error) {
	dir := runtimedir.Find()
	if listens(filepath.Join(dir, runtimedir.ClientSocket)) {
		return dir, nil
	}
	if dir == runtimedir.System {
		return "", fmt.Errorf("the system daemon's socket in %s does not answer: systemctl status heddle", dir)
	}
	if err := runtimedir.Prepare(dir); err != nil {
		return "", err
	}
	if err := startDaemon(dir); err != nil {
		return "", err
	}
	return dir, nil
}

// listens reports whether somebody accepts connections on a client socket.
func listens(path string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) == nil
}

// startDaemon starts `heddle daemon` in a session of its own and waits for its
// word on a pipe: "ready", or why not. It starts through a process that leaves at
// once: `heddle run` becomes the program by exec, and a program must not find a
// child that it did not start (wait(2) would block on it as long as it lives).
func startDaemon(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, runtimedir.LogFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("daemon's log: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(self, "daemon", "--runtime-dir", dir, "--idle-exit", idleExit.String(), "--ready-fd", "3", "--detach")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.Dir = "/"
	cmd.Env = withoutPreload(os.Environ())
	err = cmd.Run()
	w.Close()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w: see %s", err, log.Name())
	}

	if err := r.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case line == "ready" || line == "exists":
		return nil
	case line != "":
		return errors.New(line)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the daemon did not listen within %s: see %s", startTimeout, log.Name())
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the daemon ended before it listened: see %s", log.Name())
	default:
		return fmt.Errorf("the daemon's first word: %w", err)
	}
}

// startDetached starts the daemon of startDaemon and returns without waiting for
// it, so that the daemon is adopted by init when this process ends.
func startDetached(dir string, idle time.Duration, readyFd int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"daemon", "--runtime-dir", dir, "--idle-exit", idle.String()}
	cmd := exec.Command(self, args...)
	if readyFd >= 0 {
		ready := os.NewFile(uintptr(readyFd), "ready")
		defer ready.Close()
		cmd.ExtraFiles = []*os.File{ready}
		cmd.Args = append(cmd.Args, "--ready-fd", "3")
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	return cmd.Process.Release()
}

// withoutPreload removes what would load the interposer into the daemon and its
// executors: they are the other side of it.
func withoutPreload(env []string) []string {
	var out []string
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case name == "LD_PRELOAD":
			var rest []string
			for _, p := range strings.FieldsFunc(value, func(r rune) bool { return r == ':' || r == ' ' }) {
				if filepath.Base(p) != libraryName {
					rest = append(rest, p)
				}
			}
			if len(rest) > 0 {
				out = append(out, "LD_PRELOAD="+strings.Join(rest, ":"))
			}
		case name == "HEDDLE_SOCKET" || name == "HEDDLE_LABEL":
		default:
			out = append(out, kv)
		}
	}
	return out
}
