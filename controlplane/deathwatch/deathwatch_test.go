package deathwatch

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start runs a process that waits for its standard input to close.
func start(t *testing.T) (pid, pidfd int, end func()) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); unix.Close(fd) })
	return cmd.Process.Pid, fd, func() { in.Close() }
}

func TestCallsOncePerDeath(t *testing.T) {
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	pid, fd, end := start(t)
	died := make(chan struct{}, 2)
	if _, err := w.Watch(pid, fd, func() { died <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-died:
		t.Fatal("reported while alive")
	default:
	}
	end()
	select {
	case <-died:
	case <-time.After(10 * time.Second):
		t.Fatal("death not reported")
	}
}

func TestStopForgets(t *testing.T) {
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	pid, fd, end := start(t)
	other, otherFd, endOther := start(t)
	stop, err := w.Watch(pid, fd, func() { t.Error("reported after stop") })
	if err != nil {
		t.Fatal(err)
	}
	died := make(chan struct{})
	if _, err := w.Watch(other, otherFd, func() { close(died) }); err != nil {
		t.Fatal(err)
	}
	stop()
	end()
	endOther()
	<-died
	w.Close()
	if _, err := w.Watch(pid, fd, func() {}); err == nil {
		t.Fatal("watching on a closed watcher succeeded")
	}
}
