package cli

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The addresses that the daemon gives to clients (controlplane/daemon/windows.go). An executor must be able to map all of
// them, so nothing of its own may lie there.
const (
	clientsFrom = uintptr(16) << 40
	clientsTo   = uintptr(86) << 40
)

// heapTries bounds how often an executor starts anew: each has one chance in four.
const heapTries = 64

const heapTriesEnv = "HEDDLE_HEAP_TRIES"

var heapProbe *[1 << 16]byte

// keepHeapAway starts this process anew, by exec, until Go's heap lies outside the clients' addresses. Go 1.26 places it
// at random below 64 TiB; before, it began at 0xc000000000. It returns when the heap is well placed.
func keepHeapAway() error {
	heapProbe = new([1 << 16]byte)
	at := uintptr(unsafe.Pointer(heapProbe))
	if at < clientsFrom || at >= clientsTo {
		return os.Unsetenv(heapTriesEnv)
	}
	tries, _ := strconv.Atoi(os.Getenv(heapTriesEnv))
	if tries >= heapTries {
		return fmt.Errorf("the heap of Go lies at %#x, among the addresses of clients, after %d starts: build heddle with GOEXPERIMENT=norandomizedheapbase64", at, tries)
	}
	if err := os.Setenv(heapTriesEnv, strconv.Itoa(tries+1)); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return os.NewSyscallError("exec "+self, unix.Exec(self, os.Args, syscall.Environ()))
}
