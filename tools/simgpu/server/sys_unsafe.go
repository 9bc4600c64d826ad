package server

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapAnonymous gives n zeroed bytes outside the Go heap; pages cost nothing until touched.
func mapAnonymous(n uint64) ([]byte, error) {
	if n == 0 || n > 1<<46 {
		return nil, fmt.Errorf("simgpu: cannot map %d bytes", n)
	}
	return unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
}

// readProcess reads len(buf) bytes at addr of process pid.
func readProcess(pid int, addr uint64, buf []byte) error {
	for len(buf) > 0 {
		n, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}},
			[]unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("simgpu: reading %d bytes at %#x of process %d: %w", len(buf), addr, pid, err)
		}
		if n == 0 {
			return fmt.Errorf("simgpu: reading %d bytes at %#x of process %d: %w", len(buf), addr, pid, unix.EFAULT)
		}
		buf = buf[n:]
		addr += uint64(n)
	}
	return nil
}

// writeProcess writes buf at addr of process pid.
func writeProcess(pid int, addr uint64, buf []byte) error {
	for len(buf) > 0 {
		n, err := unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}},
			[]unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("simgpu: writing %d bytes at %#x of process %d: %w", len(buf), addr, pid, err)
		}
		if n == 0 {
			return fmt.Errorf("simgpu: writing %d bytes at %#x of process %d: %w", len(buf), addr, pid, unix.EFAULT)
		}
		buf = buf[n:]
		addr += uint64(n)
	}
	return nil
}

// load reads an aligned word of 4 or 8 bytes as one access.
func load(b []byte) uint64 {
	if len(b) == 8 {
		return atomic.LoadUint64((*uint64)(unsafe.Pointer(&b[0])))
	}
	return uint64(atomic.LoadUint32((*uint32)(unsafe.Pointer(&b[0]))))
}

// store writes an aligned word of 4 or 8 bytes as one access.
func store(b []byte, v uint64) {
	if len(b) == 8 {
		atomic.StoreUint64((*uint64)(unsafe.Pointer(&b[0])), v)
		return
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[0])), uint32(v))
}

// fileID identifies an open file across descriptors and processes.
type fileID struct{ dev, ino uint64 }

func identify(fd int) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fileID{}, err
	}
	return fileID{uint64(st.Dev), st.Ino}, nil
}

// sealedFile gives a memfd of n bytes that nobody can resize, and its mapping.
func sealedFile(name string, n int) (*os.File, []byte, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(int64(n)); err != nil {
		f.Close()
		return nil, nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, nil, err
	}
	mem, err := unix.Mmap(fd, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, mem, nil
}

// textFile gives a memfd that holds text, for answers larger than a packet.
func textFile(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("simgpu-text", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "simgpu-text")
	if _, err := f.Write(text); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// mapShared maps n bytes at offset (any, not only page-aligned) of a client's
// file. It returns the bytes and the whole mapping, which unmap takes.
func mapShared(fd int, offset, n uint64, writable bool) (mem, whole []byte, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, nil, err
	}
	if offset+n < offset || st.Size < 0 || offset+n > uint64(st.Size) {
		return nil, nil, fmt.Errorf("simgpu: a file of %d bytes cannot hold %d bytes at %d", st.Size, n, offset)
	}
	slack := offset % 4096
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	whole, err = unix.Mmap(fd, int64(offset-slack), int(n+slack), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	return whole[slack : slack+n : slack+n], whole, nil
}

func unmap(mem []byte) {
	if len(mem) > 0 {
		unix.Munmap(mem[:cap(mem)])
	}
}
