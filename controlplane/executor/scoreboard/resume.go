package scoreboard

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/jit/effects"
	"github.com/heddle-gpu/heddle/shm"
)

// maxDoubt bounds how many ops are looked at pairwise: more than any window lets an executor have in flight.
const maxDoubt = 1024

// Doubt is what Survey found among the ops that the dead executor may have handed to the driver.
type Doubt struct {
	// InDoubt counts ops that may have been executed, in part or in whole, Kernels those among them that are launches, of kernels or graphs.
	InDoubt, Kernels int
	// Why is "" when repeating them all is harmless, and else names the first reason why it is not.
	Why string
	// Last is each lane's last op in doubt.
	Last map[uint32]uint32
}

// Effects gives what is known of a kernel of the session, and its name. A nil Effects is an unknown kernel.
type Effects func(kernel uint32) (e *effects.Effects, name string)

// prior is one op that a dead executor left in the ring.
type prior struct {
	lane, seq     uint32
	kind          uint16
	deps          []shm.Dep
	kernel        uint32
	launch        effects.Launch // of a kernel that was issued
	reads, writes []span
}

// Survey reads what a dead executor left in the ring, from its head on, and prepares the lanes: ops that are known to be done
// will be skipped by Accept. The consumer must have been resumed at the head, and must be resumed there again afterwards. It
// works for a new session too, which has left nothing. The error is the consumer's: the ring cannot be parsed.
//
// Everything below the consumer's head is done. An op is done when its lane's done word says so, or when a done op depends on it:
// the word may lag behind, and repeating a predecessor of a done op could destroy what that op wrote.
//
// Kernels in doubt are judged by what known says of them; the session's memory must have been added before.
func (s *Session) Survey(c *shm.Consumer, known Effects) (Doubt, error) {
	s.head = c.Head()
	done := make([]uint32, len(s.lanes))
	issued := make([]uint32, len(s.lanes))
	first := make([]uint32, len(s.lanes))
	for i := range s.lanes {
		done[i] = atomic.LoadUint32(&s.lanes[i].word.Done)
		issued[i] = atomic.LoadUint32(&s.lanes[i].word.Issued)
	}
	var left []prior
	var cells []shm.Dep
	for {
		v, ok, err := c.Next()
		if err != nil {
			return Doubt{}, err
		}
		if !ok {
			break
		}
		if !shm.HasSeq(v.Kind) {
			continue
		}
		p := prior{lane: v.Lane, seq: v.Seq, kind: v.Kind}
		at := len(cells)
		cells = append(cells, v.Deps()...)
		p.deps = cells[at:len(cells):len(cells)]
		if read, write := touched(v); v.Kind != shm.KindLaunch {
			p.reads, p.writes = []span{read}, []span{write}
		} else if shm.Reached(issued[v.Lane], v.Seq) {
			l, params := v.Launch()
			p.kernel = l.Kernel
			p.launch = effects.Launch{Grid: [3]uint32{l.GridX, l.GridY, l.GridZ}, Block: [3]uint32{l.BlockX, l.BlockY, l.BlockZ}, Params: slices.Clone(params)}
		}
		left = append(left, p)
	}
	for i := len(left) - 1; i >= 0; i-- {
		p := &left[i]
		first[p.lane] = p.seq
		if !shm.Reached(done[p.lane], p.seq) {
			continue
		}
		for _, d := range p.deps {
			if d.Lane&shm.DepReady == 0 && !shm.Reached(done[d.Lane], d.Value) {
				done[d.Lane] = d.Value
			}
		}
	}
	var unsure []prior
	for _, p := range left {
		if !shm.Reached(done[p.lane], p.seq) && shm.Reached(issued[p.lane], p.seq) {
			unsure = append(unsure, p)
		}
	}
	for i := range s.lanes {
		if first[i] != 0 && !shm.Reached(after(done[i]), first[i]) {
			return Doubt{}, &shm.BadRecord{Position: s.head, Reason: fmt.Sprintf("lane %d: done is %d and the oldest record left is number %d: some between are missing", i, done[i], first[i])}
		}
	}
	for i := range s.lanes {
		l := &s.lanes[i]
		l.Done, l.Signalled, l.Issued, l.Whole, l.Scanned = done[i], done[i], done[i], done[i], done[i]
		if first[i] != 0 {
			l.Scanned = before(first[i])
		}
		l.storedWord = issued[i]
		if atomic.LoadUint32(&l.word.Done) != done[i] {
			atomic.StoreUint32(&l.word.Done, done[i])
		}
	}
	d := Doubt{InDoubt: len(unsure), Last: map[uint32]uint32{}}
	for i := range unsure {
		d.Last[unsure[i].lane] = unsure[i].seq
		if unsure[i].kind == shm.KindLaunch || unsure[i].kind == shm.KindGraph {
			d.Kernels++
		}
	}
	d.Why = s.whyNot(unsure, known)
	return d, nil
}

// touched gives the ranges that an op reads and writes; both are empty for a kernel, which may touch anything.
func touched(v *shm.RecordView) (read, write span) {
	at := func(address, bytes uint64) span {
		if address+bytes < address {
			return span{0, ^uint64(0)} // Accept will refuse it; until then it touches everything
		}
		return span{address, address + bytes}
	}
	switch v.Kind {
	case shm.KindMemset:
		m := v.Memset()
		w, over := mulOverflows(m.Width, uint64(m.Element))
		first, n, ok := extent(m.Pitch, m.Height, 0, 0, 0, w, m.Height, 1)
		if over || !ok {
			return read, span{0, ^uint64(0)}
		}
		write = at(m.Dst+first, n)
	case shm.KindCopy:
		c := v.Copy()
		read, write = at(c.Src, c.Bytes), at(c.Dst, c.Bytes)
	case shm.KindCopy3D:
		c := v.Copy3D()
		df, dn, dok := extent(c.DstPitch, c.DstHeight, c.DstX, c.DstY, c.DstZ, c.Width, c.Height, c.Depth)
		sf, sn, sok := extent(c.SrcPitch, c.SrcHeight, c.SrcX, c.SrcY, c.SrcZ, c.Width, c.Height, c.Depth)
		if !dok || !sok {
			return span{0, ^uint64(0)}, span{0, ^uint64(0)}
		}
		read, write = at(c.Src+sf, sn), at(c.Dst+df, dn)
	case shm.KindPut:
		c, _ := v.Put()
		write = at(c.Address, c.Bytes)
	case shm.KindGet:
		c, _ := v.Get()
		read = at(c.Address, c.Bytes)
	}
	return read, write
}

func (a span) overlaps(b span) bool {
	return a.from < a.to && b.from < b.to && a.from < b.to && b.from < a.to
}

// whyNot says why the ops, in ring order, cannot be executed again; "" when they can. Executed again in the same order they give
// the same result if none reads what itself or a later one writes.
func (s *Session) whyNot(unsure []prior, known Effects) string {
	if len(unsure) > maxDoubt {
		return "too many ops were in flight"
	}
	names := make([]string, len(unsure))
	for i := range unsure {
		p := &unsure[i]
		if p.kind == shm.KindGraph {
			return "a graph was in flight, may have been cut in the middle, and is never repeated"
		}
		if p.kind != shm.KindLaunch {
			continue
		}
		e, name := known(p.kernel)
		names[i] = name
		if e == nil {
			return fmt.Sprintf("kernel %s was in flight, may have been cut in the middle, and cannot be repeated: its PTX is not known", name)
		}
		t, why := e.Touches(p.launch, func(at uint64) (effects.Span, bool) {
			r, ok := s.Memory.around(at)
			return effects.Span{From: r.from, To: r.to}, ok
		})
		if why != "" {
			return fmt.Sprintf("kernel %s was in flight, may have been cut in the middle, and cannot be repeated: %s", name, why)
		}
		if slices.ContainsFunc(s.spans(t.Signals), s.Memory.hostHas) {
			return fmt.Sprintf("kernel %s was in flight, may have been cut in the middle, and cannot be repeated: it signals to the host", name)
		}
		p.reads, p.writes = s.spans(t.Reads), s.spans(t.Writes)
	}
	var later []span // what the op looked at and those after it write
	for i := len(unsure) - 1; i >= 0; i-- {
		p := &unsure[i]
		later = append(later, p.writes...)
		for _, r := range p.reads {
			if !slices.ContainsFunc(later, r.overlaps) {
				continue
			}
			if p.kind == shm.KindLaunch {
				return fmt.Sprintf("kernel %s was in flight, may have been cut in the middle, and cannot be repeated: it, or what followed, writes what it reads", names[i])
			}
			return "a copy was in flight whose source was about to be overwritten"
		}
	}
	return ""
}

func (s *Session) spans(of []effects.Span) []span {
	out := make([]span, 0, len(of))
	for _, x := range of {
		out = append(out, span{x.From, x.To})
	}
	return s.Memory.widen(out)
}

// before is the number that precedes n.
func before(n uint32) uint32 {
	if n == 1 {
		return 0 // also the number of a lane that has had none
	}
	return n - 1
}
