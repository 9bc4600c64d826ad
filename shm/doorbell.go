package shm

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Doorbell wakes an idle executor. All clients of an executor share one; a hostile client can clear sleeping or ring for nothing,
// so a sleep always has a timeout, and waking up means no more than looking again.
type Doorbell struct {
	fd    int
	mem   []byte
	words *DoorbellWords
}

// CreateDoorbell makes, sizes and seals a doorbell file. The doorbell owns its fd.
func CreateDoorbell() (*Doorbell, error) {
	fd, err := CreateSealedMemfd("heddle-doorbell", Page)
	if err != nil {
		return nil, err
	}
	mem, err := mapFile(fd, Page)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	w := at[DoorbellWords](mem, 0)
	w.Magic, w.LayoutHash = DoorbellMagic, LayoutHash
	return &Doorbell{fd: fd, mem: mem, words: w}, nil
}

// OpenDoorbell maps a doorbell that CreateDoorbell made. On success the doorbell owns fd; on error fd stays the caller's.
func OpenDoorbell(fd int) (*Doorbell, error) {
	mem, err := mapFile(fd, Page)
	if err != nil {
		return nil, fmt.Errorf("doorbell: %w", err)
	}
	w := at[DoorbellWords](mem, 0)
	if w.Magic != DoorbellMagic || w.LayoutHash != LayoutHash {
		err := fmt.Errorf("doorbell: magic %#x, layout %#x; expected %#x, %#x: both sides must come from one build of heddle", w.Magic, w.LayoutHash, uint64(DoorbellMagic), uint64(LayoutHash))
		_ = unix.Munmap(mem)
		return nil, err
	}
	return &Doorbell{fd: fd, mem: mem, words: w}, nil
}

// Fd is the doorbell's descriptor, still owned by the doorbell.
func (d *Doorbell) Fd() int { return d.fd }

// Close unmaps the doorbell and closes its fd. Nobody may be in Sleep.
func (d *Doorbell) Close() error {
	err := unix.Munmap(d.mem)
	d.mem, d.words = nil, nil
	if cerr := unix.Close(d.fd); err == nil {
		err = cerr
	}
	d.fd = -1
	return err
}

// Sleep blocks until somebody rings, or timeout is over (give one: see the type's comment). recheck looks at everything that could
// hold work once more and returns true when there is some; Sleep then returns at once. One goroutine sleeps at a time.
//
// Order: the bell is read, sleeping is stored, then recheck loads every tail. A client stores its tail, fences, loads sleeping. So
// either recheck sees the tail, or the client sees sleeping and changes the bell, and the kernel refuses to sleep.
func (d *Doorbell) Sleep(recheck func() bool, timeout time.Duration) {
	bell := atomic.LoadUint32(&d.words.Bell)
	atomic.StoreUint32(&d.words.Sleeping, 1) // sequentially consistent: also the fence
	if !recheck() {
		// Every outcome, an error of the kernel too, means: look again.
		_ = FutexWait(&d.words.Bell, bell, timeout)
	}
	atomic.StoreUint32(&d.words.Sleeping, 0)
}

// Ring wakes the executor if it sleeps. The caller has stored what there is to see before.
func (d *Doorbell) Ring() {
	if atomic.LoadUint32(&d.words.Sleeping) != 0 {
		d.Wake()
	}
}

// Wake wakes the executor whether it says that it sleeps or not: for the daemon, and for stopping.
func (d *Doorbell) Wake() {
	atomic.AddUint32(&d.words.Bell, 1)
	wakeEverybody(&d.words.Bell)
}
