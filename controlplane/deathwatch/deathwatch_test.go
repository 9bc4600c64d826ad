package deathwatch

import (
	"os/exec"
	"runtime"
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

// A watcher where the connector is refused must leave nobody's fds alone to the
// garbage collector: see connectorPermitted.
func TestNoForeignFdIsClosed(t *testing.T) {
	for range 20 {
		w, err := New()
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		var fds []int
		for range 16 {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		runtime.GC()
		runtime.GC() // cleanups run after the first
		for _, fd := range fds {
			if err := unix.Close(fd); err != nil {
				t.Fatalf("somebody closed fd %d: %v", fd, err)
			}
		}
	}
}
