// Package deathwatch tells when processes end.
//
// A pidfd is the truth: it cannot name a process that took over a number, and a
// forked child that still holds the client's socket does not hide the death.
// The netlink process connector, where permitted (CAP_NET_ADMIN, initial
// namespaces), tells it a little earlier and costs nothing to lose.
package deathwatch

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Watcher calls back when a watched process has ended. Safe for concurrent use.
type Watcher struct {
	epoll int
	wake  int // eventfd that ends the loop

	mu      sync.Mutex
	byPidfd map[int]*watch
	closed  bool

	done    chan struct{}
	netDone chan struct{}
}

type watch struct {
	pid   int
	pidfd int
	once  sync.Once
	died  func()
}

// New starts a watcher; the caller closes it.
func New() (*Watcher, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}); err != nil {
		unix.Close(ep)
		unix.Close(wake)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	w := &Watcher{epoll: ep, wake: wake, byPidfd: map[int]*watch{}, done: make(chan struct{}), netDone: make(chan struct{})}
	go w.loop()
	go w.connector()
	return w, nil
}

// Watch calls died once, on its own goroutine, when the process behind pidfd
// has ended. The watcher duplicates pidfd. The returned function stops watching
// (died may then still be running).
func (w *Watcher) Watch(pid, pidfd int, died func()) (stop func(), err error) {
	fd, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watching process %d: %w", pid, err)
	}
	e := &watch{pid: pid, pidfd: fd, died: died}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		unix.Close(fd)
		return nil, errors.New("deathwatch is closed")
	}
	w.byPidfd[fd] = e
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}); err != nil {
		delete(w.byPidfd, fd)
		unix.Close(fd)
		return nil, fmt.Errorf("watching process %d: %w", pid, err)
	}
	return func() { w.forget(e) }, nil
}

func (w *Watcher) forget(e *watch) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byPidfd[e.pidfd] != e {
		return false
	}
	delete(w.byPidfd, e.pidfd)
	unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, e.pidfd, nil)
	unix.Close(e.pidfd)
	return true
}

// Close stops watching everything and waits for the loop to end.
func (w *Watcher) Close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	w.mu.Unlock()
	close(w.netDone)
	unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-w.done
}

func (w *Watcher) loop() {
	defer func() {
		w.mu.Lock()
		for fd := range w.byPidfd {
			unix.Close(fd)
		}
		w.byPidfd = nil
		w.mu.Unlock()
		unix.Close(w.epoll)
		unix.Close(w.wake)
		close(w.done)
	}()
	events := make([]unix.EpollEvent, 16)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		for _, ev := range events[:n] {
			if int(ev.Fd) == w.wake {
				return
			}
			w.mu.Lock()
			e := w.byPidfd[int(ev.Fd)]
			w.mu.Unlock()
			if e != nil {
				w.fire(e)
			}
		}
	}
}

func (w *Watcher) fire(e *watch) {
	e.once.Do(func() {
		w.forget(e)
		go e.died()
	})
}

// connector listens to the kernel's process events while it may. Its word is
// checked against the pidfd, because pids are reused.
func (w *Watcher) connector() {
	if !connectorPermitted() {
		return // the pidfds serve alone
	}
	events := make(chan netlink.ProcEvent, 1024)
	errs := make(chan error, 1)
	if err := netlink.ProcEventMonitor(events, w.netDone, errs); err != nil {
		return
	}
	for {
		select {
		case <-w.netDone:
			return
		case <-errs:
			return
		case ev, open := <-events:
			if !open {
				return
			}
			exit, ok := ev.Msg.(*netlink.ExitProcEvent)
			if !ok || exit.ProcessPid != exit.ProcessTgid {
				continue
			}
			w.mu.Lock()
			var gone []*watch
			for _, e := range w.byPidfd {
				if e.pid == int(exit.ProcessTgid) && ended(e.pidfd) {
					gone = append(gone, e)
				}
			}
			w.mu.Unlock()
			for _, e := range gone {
				w.fire(e)
			}
		}
	}
}

// connectorPermitted asks the kernel whether this process may listen. The library
// must not be asked first: when its bind is refused it closes the socket's fd and
// leaves an os.File for it behind, which the garbage collector closes a second
// time, whoever has the number by then (vishvananda/netlink v1.3.1, nl.Subscribe).
func connectorPermitted() bool {
	const processEvents = 1 // CN_IDX_PROC, the connector's multicast group
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (processEvents - 1)}) == nil
}

// ended reports whether the process behind a pidfd has ended.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}
