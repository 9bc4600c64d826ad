package shm

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Seals is what every shared file carries: its size can never change, so no peer can make an access to a mapping fault, and no seal
// can be added.
const Seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// CreateSealedMemfd makes a zero-filled memory file of size bytes with Seals. The fd is close-on-exec and the caller's. name shows
// in /proc/PID/maps.
func CreateSealedMemfd(name string, size int64) (int, error) {
	fd, err := CreateMemfd(name, size)
	if err != nil {
		return -1, err
	}
	if err := SealMemfd(fd, Seals); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// CreateMemfd makes a zero-filled memory file of size bytes that can be sealed later. The fd is close-on-exec and the caller's.
func CreateMemfd(name string, size int64) (int, error) {
	if size < 0 {
		return -1, fmt.Errorf("memfd %s: size %d: expected 0 or more", name, size)
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3; keep ALLOW_SEALING, or the seals would silently not hold
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("memfd %s: %w", name, err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("memfd %s: size %d: %w", name, size, err)
	}
	return fd, nil
}

// SealMemfd adds seals to a memory file.
func SealMemfd(fd, seals int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal memfd: %w", err)
	}
	return nil
}

// CheckSeals reports an error unless fd is a memory file with all of Seals, and returns its size.
func CheckSeals(fd int) (int64, error) {
	have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return 0, fmt.Errorf("fd %d is not a memory file: %w", fd, err)
	}
	if have&Seals != Seals {
		return 0, fmt.Errorf("fd %d has seals %#x; expected at least %#x (SHRINK|GROW|SEAL)", fd, have, Seals)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("fd %d: %w", fd, err)
	}
	return st.Size, nil
}

// mapFile maps a sealed file of exactly size bytes for reading and writing.
func mapFile(fd int, size int64) ([]byte, error) {
	have, err := CheckSeals(fd)
	if err != nil {
		return nil, err
	}
	if have != size {
		return nil, fmt.Errorf("shared file has %d bytes; expected %d: made by another build of heddle?", have, size)
	}
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared file: %w", err)
	}
	return mem, nil
}

// at is a typed pointer into a mapping; the offset is one of ours, never a peer's.
func at[T any](mem []byte, offset int) *T {
	var t T
	_ = mem[offset : offset+int(unsafe.Sizeof(t))]
	return (*T)(unsafe.Pointer(&mem[offset]))
}
