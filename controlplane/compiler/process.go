package compiler

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/jit/cache"
)

// endPatience is how long a worker that was told to leave, or was killed, is waited for. One that the kernel holds on to (a
// driver call that does not return) is left behind: it ends with its watchdog, and nobody waits.
const endPatience = time.Second

// process is one worker.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	said  tail
	ended chan struct{} // closed when it was reaped
	dead  bool
}

// start makes a worker. Its error stream is read here: were it the executor's own, whoever waits for that to close would wait for
// the worker.
func (s *Service) start() (*process, error) {
	p := &process{ended: make(chan struct{})}
	p.cmd = exec.Command(s.o.Command[0], s.o.Command[1:]...)
	p.cmd.Env = s.o.Env
	p.cmd.Stderr = &p.said
	p.cmd.WaitDelay = endPatience
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReaderSize(out, 1<<16)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.n.Workers++
	s.mu.Unlock()
	return p, nil
}

// end lets a worker without work leave.
func (p *process) end() {
	p.in.Close()
	p.reap()
	select {
	case <-p.ended:
	case <-time.After(endPatience):
		p.kill()
	}
}

// reap waits for the process in the background.
func (p *process) reap() {
	if !p.dead {
		p.dead = true
		go func() {
			_ = p.cmd.Wait()
			close(p.ended)
		}()
	}
}

// kill ends the process and waits a moment for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.in.Close()
	p.reap()
	select {
	case <-p.ended:
	case <-time.After(endPatience):
	}
}

// exchange sends a request and takes the answer, within the bounds of time and memory. When anything is wrong the process is
// ended (p.dead), whatever it may be doing.
func (s *Service) exchange(ctx context.Context, p *process, r *Request) (*Answer, error) {
	type result struct {
		r     reply
		blobs [][]byte
		err   error
	}
	got := make(chan result, 1)
	go func() {
		var x result
		// A worker that answers before it has read all is broken too; the reader finds out.
		if x.err = r.write(p.in); x.err == nil {
			x.blobs, x.err = readFrame(p.out, &x.r, cache.MaxPayload)
		}
		got <- x
	}()
	limit := time.NewTimer(s.o.Timeout)
	defer limit.Stop()
	look := time.NewTicker(s.o.MemoryEvery)
	defer look.Stop()
	var why *Failure
	for {
		select {
		case x := <-got:
			switch f := x.r.Failure; {
			case x.err == nil && f != nil && f.Code != "" && len(f.Code) <= 64 && len(f.Detail) <= maxDetail && len(x.blobs) == 1:
				return nil, f
			case x.err == nil && f == nil && len(x.blobs) == 1 && len(x.blobs[0]) > 0:
				if x.err = r.check(&x.r.Layout); x.err == nil && len(x.r.Origins) == len(r.Bodies) {
					x.r.Code = x.blobs[0]
					a := x.r.Answer
					return &a, nil
				}
			}
			p.kill()
			switch {
			case x.err == nil:
				return nil, fail(Garbage, "the worker's answer is neither a form nor a reason")
			case errors.Is(x.err, io.EOF) || errors.Is(x.err, io.ErrUnexpectedEOF) || errors.Is(x.err, os.ErrClosed) || errors.Is(x.err, unix.EPIPE):
				return nil, fail(Crashed, "%s", p.epitaph())
			}
			return nil, fail(Garbage, "the worker's answer: %v", x.err)
		case <-limit.C:
			why = fail(TimedOut, "not done after %v", s.o.Timeout)
		case <-look.C:
			if n := p.resident(); n > s.o.MemoryBytes {
				why = fail(TooMuchMemory, "%d MiB; at most %d are allowed", n>>20, s.o.MemoryBytes>>20)
			}
		case <-ctx.Done():
			p.kill()
			return nil, ctx.Err()
		case <-s.stop:
			p.kill()
			return nil, context.Canceled
		}
		if why != nil {
			p.kill()
			return nil, why
		}
	}
}

// resident is the process's resident memory; 0 when it cannot be known.
func (p *process) resident() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// epitaph says how a process ended, and its last words.
func (p *process) epitaph() string {
	select {
	case <-p.ended:
	default:
		return "it closed its output"
	}
	out := p.cmd.ProcessState.String()
	if words := p.said.first(); words != "" {
		out += ": " + words
	}
	return out
}

// tail keeps the beginning of what a worker says on its error stream: a crash says first what happened, and then where.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const maxSaid = 1 << 10

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := maxSaid - len(t.b); room > 0 {
		t.b = append(t.b, b[:min(room, len(b))]...)
	}
	return len(b), nil
}

func (t *tail) first() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	line, _, _ := bytes.Cut(bytes.TrimSpace(t.b), []byte("\n"))
	return string(line)
}
