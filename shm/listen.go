package shm

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Listener accepts connections on a SOCK_SEQPACKET unix socket.
type Listener struct{ l *net.UnixListener }

// Listen binds path ('@' at its start: abstract) with permission bits mode. Closing the listener removes the path. A path that
// exists is an error that wraps unix.EADDRINUSE, also when nobody listens there any more.
func Listen(path string, mode os.FileMode) (*Listener, error) {
	if path == "" {
		return nil, fmt.Errorf("listen: the path is empty")
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if path[0] != '@' {
		if err := os.Chmod(path, mode); err != nil {
			l.Close()
			return nil, fmt.Errorf("listen: %w", err)
		}
	}
	return &Listener{l}, nil
}

// ListenFd takes over a listening socket that somebody else made (socket activation). On success fd belongs to the listener.
func ListenFd(fd int) (*Listener, error) {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, fmt.Errorf("fd %d: %w", fd, err)
	}
	if typ != unix.SOCK_SEQPACKET {
		return nil, fmt.Errorf("fd %d: socket type %d; expected SOCK_SEQPACKET (ListenSequentialPacket= in the socket unit)", fd, typ)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "heddle-listen")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("fd %d: not a unix socket", fd)
	}
	u.SetUnlinkOnClose(false) // the path is its maker's
	unix.Close(fd)
	return &Listener{u}, nil
}

// Accept waits for the next connection.
func (l *Listener) Accept() (*Conn, error) {
	u, err := l.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return newConn(u), nil
}

// Close stops listening; an Accept in progress returns an error that wraps net.ErrClosed.
func (l *Listener) Close() error { return l.l.Close() }

// Dial connects to a listener.
func Dial(path string, timeout time.Duration) (*Conn, error) {
	c, err := net.DialTimeout("unixpacket", path, timeout)
	if err != nil {
		return nil, err
	}
	return newConn(c.(*net.UnixConn)), nil
}

// Peer is who is at the other end, as the kernel knows it from the time of connect.
type Peer struct {
	PID, UID, GID int
	// PidFD refers to the process itself, so that a recycled PID cannot be mistaken for it; readable when the process is gone. It
	// is the caller's to close.
	PidFD int
}

// Peer asks the kernel for the other end's credentials.
func (c *Conn) Peer() (Peer, error) {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var p Peer
	var inner error
	if err := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner != nil {
			return
		}
		p = Peer{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid), PidFD: -1}
		// Since Linux 6.5 the kernel hands out the very process that connected; before, its number must do.
		if p.PidFD, inner = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); inner == unix.ENOPROTOOPT {
			p.PidFD, inner = unix.PidfdOpen(p.PID, 0)
		}
	}); err != nil {
		return Peer{}, err
	}
	if inner != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", inner)
	}
	return p, nil
}
