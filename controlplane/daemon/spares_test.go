package daemon

import (
	"bytes"
	"os/exec"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

// A session file serves again for the same user when its client is dead and nothing writes to it any more, and then as a new one.
func TestASpareIsTheNextClients(t *testing.T) {
	program := exec.Command("cat") // until its input ends
	in, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	p := peer{uid: 7}
	if p.pidfd, err = unix.PidfdOpen(program.Process.Pid, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p.pidfd)
	var s spares
	defer s.close()
	make1 := func(change func(*shm.SessionFile)) *shm.SessionFile {
		f, err := shm.CreateSessionFile(1)
		if err != nil {
			t.Fatal(err)
		}
		change(f)
		s.give(f, p)
		return f
	}
	f := make1(func(f *shm.SessionFile) {
		for i := range f.Bytes()[shm.Page:] {
			f.Bytes()[shm.Page+i] = 0xa5
		}
		for i := range uint32(shm.Lanes) {
			l := f.Lane(i)
			l.Ready, l.ReadyDue = 3, 3
		}
	})
	if s.take(7, 2) != nil {
		t.Error("a client that is alive may write to its file")
	}
	in.Close()
	if err := program.Wait(); err != nil {
		t.Fatal(err)
	}
	if s.take(8, 2) != nil {
		t.Error("another user's")
	}
	if got := s.take(7, 2); got != f {
		t.Fatalf("%p; expected the file of the dead client, %p", got, f)
	}
	defer f.Close()
	fresh, err := shm.CreateSessionFile(2)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if !bytes.Equal(f.Bytes(), fresh.Bytes()) {
		t.Error("something of the client before is left")
	}
	if s.take(7, 3) != nil {
		t.Error("the same file twice")
	}
	make1(func(f *shm.SessionFile) { atomic.StoreUint32(&f.Lane(shm.Lanes-1).ReadyDue, 1) })
	if s.take(7, 4) != nil || len(s.free) != 0 {
		t.Error("a file to which a GPU may still write")
	}
	for range mostSpares + 1 {
		make1(func(*shm.SessionFile) {})
	}
	if len(s.free) != mostSpares {
		t.Errorf("%d files are kept; expected %d", len(s.free), mostSpares)
	}
	s.close()
	make1(func(*shm.SessionFile) {})
	if s.take(7, 5) != nil || len(s.free) != 0 {
		t.Error("a slot that is closed keeps files")
	}
}
