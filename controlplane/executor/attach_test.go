package executor

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/shm"
)

// picky is a driver that asks a test before it makes some calls.
type picky struct {
	*fakeGPU
	judging sync.Mutex
	judge   func(call string, address uint64) gpu.Result // nil: all are made
}

func (p *picky) open() (Driver, Facts, error) { return p, p.facts(), nil }

// asks sets who judges from now on.
func (p *picky) asks(judge func(call string, address uint64) gpu.Result) {
	p.judging.Lock()
	defer p.judging.Unlock()
	p.judge = judge
}

func (p *picky) ask(call string, address uint64) gpu.Result {
	p.judging.Lock()
	judge := p.judge
	p.judging.Unlock()
	if judge == nil {
		return gpu.Success
	}
	return judge(call, address)
}

func (p *picky) EventCreate(timed bool) (gpu.Event, gpu.Result) {
	if r := p.ask("event", 0); r != gpu.Success {
		return 0, r
	}
	return p.fakeGPU.EventCreate(timed)
}

func (p *picky) HostRegister(address, bytes uint64) (uint64, gpu.Result) {
	if r := p.ask("register", address); r != gpu.Success {
		return 0, r
	}
	return p.fakeGPU.HostRegister(address, bytes)
}

func (p *picky) Map(address, bytes uint64, h gpu.Memory) gpu.Result {
	if r := p.ask("map", address); r != gpu.Success {
		return r
	}
	return p.fakeGPU.Map(address, bytes, h)
}

// held is what the driver holds for clients: windows, registrations and events.
func (p *picky) held() [3]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return [3]int{len(p.windows), len(p.hosts), len(p.events)}
}

// Whichever step of an ATTACH the driver refuses, nothing of those before it stays behind: the windows are the next client's, and the
// client itself may come again.
func TestRefusedAttach(t *testing.T) {
	g := &picky{fakeGPU: newFakeGPU()}
	t.Cleanup(g.unmapAll)
	d := start(t, g.open, nil, nil)
	first := d.client(1) // and what the executor itself holds
	first.resume()
	before := g.held()
	file, err := shm.CreateSessionFile(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	late := d.session(2, file, memfd(t, nil, segmentBytes))
	refusing := func(call string, n int) {
		var calls atomic.Int64
		g.asks(func(c string, _ uint64) gpu.Result {
			if c == call && calls.Add(1) == int64(n) {
				return gpu.OutOfMemory
			}
			return gpu.Success
		})
	}
	for name, refuse := range map[string]func(m *shm.Message){
		"the session file": func(*shm.Message) { refusing("register", 1) },
		"the first event":  func(*shm.Message) { refusing("event", 1) },
		"a later event":    func(*shm.Message) { refusing("event", 2) }, // others are kept, and made no more
		"a window": func(m *shm.Message) { // the second one is taken
			m.Tail = append(m.Tail, shm.Encode(shm.Range{Address: first.window, Bytes: windowStep})...)
			m.Body = shm.Encode(shm.Attach{ClientID: 2, Windows: 2})
		},
	} {
		m := late.attaching()
		refuse(&m)
		if r := d.do(m); r.Status == shm.StatusOK || len(r.Tail) == 0 {
			t.Errorf("%s is refused: ATTACH is answered with %d %q", name, r.Status, r.Tail)
		}
		d.must(shm.Message{Type: shm.TypeDetach, ClientID: 2})
		g.asks(nil)
		// Events that were made are kept for who comes next.
		if now := g.held(); now[0] != before[0] || now[1] != before[1] || now[2] >= before[2]+preparedEvents {
			t.Errorf("%s is refused: %v windows, registrations and events are held; before ATTACH %v", name, now, before)
		}
	}
	late.attach(d)
	late.resume()
	if now := g.held(); now[2] != before[2]+preparedEvents {
		t.Errorf("%d events are held for the second client; want %d, those that were made before among them", now[2]-before[2], preparedEvents)
	}
	put(late, shm.KindMemset, 1, shm.Memset{Dst: late.window, Width: 64, Height: 1, Element: 1, Value: 7}, nil, nil)
	if got := late.get(1, late.window, 64); got[63] != 7 {
		t.Errorf("memory holds %d; want 7", got[63])
	}
}

// Memory can be named when it is mapped, not before, and not when the driver does not map it.
func TestNamedBeforeItIsMapped(t *testing.T) {
	for name, result := range map[string]gpu.Result{"mapped": gpu.Success, "refused": gpu.OutOfMemory} {
		t.Run(name, func(t *testing.T) {
			g := &picky{fakeGPU: newFakeGPU()}
			t.Cleanup(g.unmapAll)
			d := start(t, g.open, nil, nil)
			c, other := d.client(1), d.client(2)
			c.resume()
			other.resume()
			mapping, goOn := make(chan struct{}), make(chan struct{})
			g.asks(func(call string, _ uint64) gpu.Result {
				if call != "map" {
					return gpu.Success
				}
				close(mapping)
				<-goOn
				return result
			})
			at := c.window + segmentBytes
			reply := d.send(c.segment(at))
			<-mapping
			put(c, shm.KindMemset, 1, shm.Memset{Dst: at, Width: 64, Height: 1, Element: 1, Value: 7}, nil, nil)
			c.ring.Publish()
			until(t, "what is not mapped may not be named", func() bool { _, reason := c.sticky(); return reason == shm.ReasonBadRecord })
			close(goOn)
			if m := d.wait(reply); (m.Status == shm.StatusOK) != (result == gpu.Success) {
				t.Errorf("the driver says %v: SEGMENT is answered with %d %s", result, m.Status, m.Tail)
			}
			put(other, shm.KindMemset, 1, shm.Memset{Dst: other.window, Width: 64, Height: 1, Element: 1, Value: 7}, nil, nil)
			if got := other.get(1, other.window, 64); got[63] != 7 {
				t.Errorf("the other client's memory holds %d; want 7", got[63])
			}
			d.must(shm.Message{Type: shm.TypeDetach, ClientID: 1})
			g.mu.Lock()
			defer g.mu.Unlock()
			if len(g.mapped) != 1 {
				t.Errorf("%d segments are mapped when their client is gone; want the other's", len(g.mapped))
			}
		})
	}
}

// A client leaves when no event can be made any more, and nobody else notices.
func TestLeavesWithoutEvents(t *testing.T) {
	g := &picky{fakeGPU: newFakeGPU()}
	g.define("check", adder)
	t.Cleanup(g.unmapAll)
	d := start(t, g.open, nil, nil)
	d.image(1, testImage)
	var all []*tester
	for id := uint64(1); id <= 2; id++ {
		c := d.client(id)
		c.kernel(1, 1, "check")
		c.resume()
		all = append(all, c)
	}
	g.asks(func(call string, _ uint64) gpu.Result {
		if call == "event" {
			return gpu.OutOfMemory
		}
		return gpu.Success
	})
	for _, c := range all {
		for lane := range uint32(3) {
			seq := c.launch(1, lane, u64s(c.window, 1), nil)
			c.mustSync(lane, seq)
		}
	}
	d.must(shm.Message{Type: shm.TypeDetach, ClientID: 1})
	all[1].mustSync(1, all[1].launch(1, 1, u64s(all[1].window, 1), nil))
}
