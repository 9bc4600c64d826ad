package shm

import (
	"errors"
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrTimeout is returned by waits whose time is over.
var ErrTimeout = errors.New("shm: timed out")

const (
	futexWait = 0 // FUTEX_WAIT, shared between processes
	futexWake = 1 // FUTEX_WAKE
)

// FutexWait sleeps while *word is expected, until somebody wakes the word or timeout is over (negative: for ever). It returns nil
// when woken, when the word had another value already, and on a signal: look at the word again. It blocks an OS thread.
func FutexWait(word *uint32, expected uint32, timeout time.Duration) error {
	var ts *unix.Timespec
	if timeout >= 0 {
		t := unix.NsecToTimespec(int64(timeout))
		ts = &t
	}
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(expected), uintptr(unsafe.Pointer(ts)), 0, 0)
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR:
		return nil
	case unix.ETIMEDOUT:
		return ErrTimeout
	}
	return errno
}

// FutexWake wakes at most count sleepers on word, in any process that maps it, and returns how many it woke.
func FutexWake(word *uint32, count int) int {
	n, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, uintptr(count), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// wakeEverybody wakes all sleepers: a hostile peer must not be able to take the one wake that was meant for another.
func wakeEverybody(word *uint32) { FutexWake(word, math.MaxInt32) }
