package server

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// waiter is a stream that waits for a word of memory.
type waiter struct {
	c     *client
	d     *deviceContext
	memop memop
	ready chan struct{}
	bad   bool // the word cannot be read
	since time.Time
	next  time.Time // when it is polled again
}

// poller reads the words that streams wait for: at once after anything in the
// server may have written one, and every tick because other processes write too.
type poller struct {
	tick time.Duration
	n    atomic.Int64
	wake chan struct{}
	quit chan struct{}
	once sync.Once

	mu      sync.Mutex
	list    []*waiter
	running bool
}

// Waiters younger than calm are polled at every tick, younger than patient at
// every fourth, older ones at every tenth.
const (
	calm    = 5 * time.Millisecond
	patient = 200 * time.Millisecond
)

func newPoller(tick time.Duration) *poller {
	return &poller{tick: tick, wake: make(chan struct{}, 1), quit: make(chan struct{})}
}

func (p *poller) close() { p.once.Do(func() { close(p.quit) }) }

// kick has the words read soon.
func (p *poller) kick() {
	if p.n.Load() == 0 {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *poller) add(w *waiter) {
	w.since = time.Now()
	if w.check() {
		close(w.ready)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, w)
	p.n.Add(1)
	if !p.running {
		p.running = true
		go p.loop()
	}
}

func (p *poller) remove(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.list {
		if o == w {
			p.list = append(p.list[:i], p.list[i+1:]...)
			p.n.Add(-1)
			return
		}
	}
}

// loop polls while there are waiters.
func (p *poller) loop() {
	timer := time.NewTimer(p.tick)
	defer timer.Stop()
	for {
		pause, left := p.scan(false)
		if !left {
			return
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-p.wake:
			if _, left := p.scan(true); !left {
				return
			}
		case <-p.quit:
			return
		}
	}
}

// scan reads the words once. all: also those whose turn it is not.
func (p *poller) scan(all bool) (pause time.Duration, left bool) {
	now := time.Now()
	pause = 10 * p.tick
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.list[:0]
	for _, w := range p.list {
		every := p.tick
		if age := now.Sub(w.since); age > patient {
			every = 10 * p.tick
		} else if age > calm {
			every = 4 * p.tick
		}
		pause = min(pause, every)
		if !all && now.Before(w.next) {
			kept = append(kept, w)
			continue
		}
		w.next = now.Add(every)
		if w.check() {
			close(w.ready)
			p.n.Add(-1)
			continue
		}
		kept = append(kept, w)
	}
	clear(p.list[len(kept):])
	p.list = kept
	p.running = len(kept) > 0
	return pause, p.running
}

// check reads the word and compares.
func (w *waiter) check() (done bool) {
	size := w.memop.size()
	var v uint64
	err := w.c.srv.guard("waiting for a word", func() error {
		at, err := w.c.locate(w.d, w.memop.addr, uint64(size), false)
		if err != nil || at.n < uint64(size) {
			w.bad = true
			return err
		}
		if !at.remote {
			v = load(at.mem[:size])
			return nil
		}
		var b [8]byte
		if err := readProcess(w.c.pid, w.memop.addr, b[:size]); err != nil {
			w.bad = w.c.ctx.Err() == nil
			return nil
		}
		v = binary.LittleEndian.Uint64(b[:])
		return nil
	})
	if err != nil {
		w.bad = true
	}
	return w.bad || compare(w.memop, v)
}

// compare is CUstreamWaitValue_flags.
func compare(m memop, v uint64) bool {
	if m.kind == wire.MemopWait32 {
		a, b := uint32(v), uint32(m.value)
		switch m.flags & 3 {
		case 0:
			return int32(a-b) >= 0
		case 1:
			return a == b
		case 2:
			return a&b != 0
		}
		return ^(a | b) != 0
	}
	switch m.flags & 3 {
	case 0:
		return int64(v-m.value) >= 0
	case 1:
		return v == m.value
	case 2:
		return v&m.value != 0
	}
	return ^(v | m.value) != 0
}
