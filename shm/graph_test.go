package shm

import (
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nodes is a description that a test writes node by node. Its bytes start at a multiple of 8: they are words.
type nodes struct {
	words []uint64
	n     uint32
}

func (d *nodes) bytes() []byte {
	if len(d.words) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&d.words[0])), 8*len(d.words))
}

// add writes a node behind others; change may spoil its header.
func (d *nodes) add(kind uint16, body, payload []byte, deps []Dep, change func(*Record)) {
	d.n++
	r := Record{Kind: kind, Seq: d.n, Ndeps: uint32(len(deps))}
	fixed := uint32(recordBytes) + round16(8*uint32(len(deps)))
	r.Size = fixed + uint32(len(body)) + round16(uint32(len(payload)))
	size := r.Size
	if change != nil {
		change(&r)
	}
	b := make([]byte, size)
	*(*Record)(unsafe.Pointer(&b[0])) = r
	for i, dep := range deps {
		*(*Dep)(unsafe.Pointer(&b[recordBytes+8*i])) = dep
	}
	copy(b[fixed:], body)
	copy(b[fixed+uint32(len(body)):], payload)
	d.words = append(d.words, unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), len(b)/8)...)
}

func TestGraphReader(t *testing.T) {
	var d nodes
	params := []byte("0123456789abcdef0123")
	d.add(KindLaunch, Encode(Launch{Kernel: 3, GridX: 7, ParamBytes: uint32(len(params))}), params, nil, nil)
	d.add(KindMemset, Encode(Memset{Dst: 64, Width: 4, Height: 1, Element: 4}), nil, nil, nil)
	d.add(KindCopy, Encode(Copy{Dst: 1, Src: 2, Bytes: 3}), nil, []Dep{{Value: 1}}, nil)
	d.add(KindEvent, Encode(EventMark{Slot: EventSlots - 1}), nil, []Dep{{Value: 2}, {Value: 3}, {Value: 1}}, nil)
	d.add(KindCopy3D, Encode(Copy3D{Width: 9}), nil, []Dep{{Value: 4}}, nil)
	r := NewGraphReader(d.bytes(), d.n)
	var kinds []uint16
	for {
		v, ok, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		kinds = append(kinds, v.Kind)
		if r.Node() != v.Seq || v.Seq != uint32(len(kinds)) {
			t.Fatalf("node %d has number %d", r.Node(), v.Seq)
		}
		switch v.Kind {
		case KindLaunch:
			if l, p := v.Launch(); l.Kernel != 3 || l.GridX != 7 || string(p) != string(params) {
				t.Errorf("launch %+v with %q", l, p)
			}
		case KindEvent:
			if deps := v.Deps(); len(deps) != 3 || deps[1].Value != 3 {
				t.Errorf("dependencies %v", deps)
			}
		}
	}
	if len(kinds) != 5 || kinds[4] != KindCopy3D {
		t.Errorf("kinds %v", kinds)
	}
	if _, ok, err := NewGraphReader(nil, 0).Next(); ok || err != nil {
		t.Errorf("a graph without nodes: %v, %v", ok, err)
	}
}

// Each of these is one change to a good description of three nodes; it must be refused where it stands, and for what it is.
func TestBadGraphs(t *testing.T) {
	third := func(change func(*Record), deps ...Dep) func() *nodes {
		return func() *nodes {
			var d nodes
			d.add(KindCopy, Encode(Copy{}), nil, nil, nil)
			d.add(KindCopy, Encode(Copy{}), nil, nil, nil)
			d.add(KindCopy, Encode(Copy{}), nil, deps, change)
			return &d
		}
	}
	kind := func(k uint16, body []byte) func() *nodes {
		return func() *nodes {
			d := third(nil)()
			d.words, d.n = d.words[:len(d.words)/3*2], 2
			d.add(k, body, nil, nil, nil)
			return d
		}
	}
	for _, c := range []struct {
		name, want string
		make       func() *nodes
		more       int // bytes cut off (negative), or nodes that are promised in addition
	}{
		{"dependency on itself", "dependency", third(nil, Dep{Value: 3}), 0},
		{"dependency on a later one", "dependency", third(nil, Dep{Value: 4}), 0},
		{"dependency on number 0", "dependency", third(nil, Dep{Value: 0}), 0},
		{"dependency on another lane", "dependency", third(nil, Dep{Lane: 1, Value: 1}), 0},
		{"dependency on native work", "dependency", third(nil, Dep{Lane: DepReady, Value: 1}), 0},
		{"lane", "expected 0, 3, 0, 0", third(func(r *Record) { r.Lane = 1 }), 0},
		{"number", "expected 0, 3, 0, 0", third(func(r *Record) { r.Seq = 4 }), 0},
		{"ready", "expected 0, 3, 0, 0", third(func(r *Record) { r.Ready = 1 }), 0},
		{"flags", "expected 0, 3, 0, 0", third(func(r *Record) { r.Flags = RecordFlagWantSignal }), 0},
		{"flags that do not exist", "flags", third(func(r *Record) { r.Flags = 0x80 }), 0},
		{"size 0", "size", third(func(r *Record) { r.Size = 0 }), 0},
		{"size of half a header", "size", third(func(r *Record) { r.Size = 16 }), 0},
		{"size that is odd", "size", third(func(r *Record) { r.Size++ }), 0},
		{"size beyond the end", "size", third(func(r *Record) { r.Size += 16 }), 0},
		{"size huge", "size", third(func(r *Record) { r.Size = ^uint32(15) }), 0},
		{"too many dependencies", "dependencies", third(func(r *Record) { r.Ndeps = 1 << 31 }), 0},
		{"dependencies beyond the record", "size is smaller", third(func(r *Record) { r.Ndeps = 60 }), 0},
		{"pad", "no nodes", kind(KindPad, make([]byte, 32)), 0},
		{"put", "no nodes", kind(KindPut, Encode(InlineCopy{})), 0},
		{"signal", "no nodes", kind(KindSignal, nil), 0},
		{"graph in a graph", "no nodes", kind(KindGraph, Encode(GraphLaunch{Graph: 1})), 0},
		{"kind huge", "no nodes", kind(0xffff, nil), 0},
		{"event with a time", "records an event", kind(KindEvent, Encode(EventMark{Slot: 3})), 0},
		{"event out of bounds", "slot", kind(KindEvent, Encode(EventMark{Slot: EventSlots})), 0},
		{"memset element", "element", kind(KindMemset, Encode(Memset{Element: 3})), 0},
		{"parameters beyond the record", "size is not what", kind(KindLaunch, Encode(Launch{ParamBytes: 48})), 0},
		{"fewer nodes than promised", "end before", third(nil), 1},
		{"a node too many", "follow the last", third(nil), -1},
	} {
		d := c.make()
		r := NewGraphReader(d.bytes(), uint32(int(d.n)+c.more))
		var err error
		read := 0
		for ok := true; ok && err == nil; {
			if _, ok, err = r.Next(); ok {
				read++
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
			continue
		}
		if read < 2 {
			t.Errorf("%s: %d nodes were read before the error", c.name, read)
		}
		if _, _, again := r.Next(); again == nil || again.Error() != err.Error() {
			t.Errorf("%s: then %v", c.name, again)
		}
	}
}

func TestCheckGraph(t *testing.T) {
	for _, c := range []struct {
		name, want string
		size       int64
		seals      int
		g          Graph
	}{
		{"good", "", 64, GraphSeals, Graph{Bytes: 64, Nodes: 1}},
		{"more seals", "", 64, GraphSeals | unix.F_SEAL_SEAL, Graph{Bytes: 64, Nodes: 1}},
		{"empty", "", 0, GraphSeals, Graph{}},
		{"writable", "seals", 64, GraphSeals &^ unix.F_SEAL_WRITE, Graph{Bytes: 64, Nodes: 1}},
		{"writable through a mapping", "seals", 64, GraphSeals&^unix.F_SEAL_WRITE | 0x10 /* F_SEAL_FUTURE_WRITE */, Graph{Bytes: 64, Nodes: 1}},
		{"may shrink", "seals", 64, GraphSeals &^ unix.F_SEAL_SHRINK, Graph{Bytes: 64, Nodes: 1}},
		{"may grow", "seals", 64, GraphSeals &^ unix.F_SEAL_GROW, Graph{Bytes: 64, Nodes: 1}},
		{"size", "64 bytes", 64, GraphSeals, Graph{Bytes: 80, Nodes: 1}},
		{"too many bytes", "at most", 64, GraphSeals, Graph{Bytes: MaxGraphBytes + 16, Nodes: 1}},
		{"too many nodes", "at most", 64, GraphSeals, Graph{Bytes: 64, Nodes: MaxGraphNodes + 1}},
	} {
		fd, err := CreateMemfd("graph", c.size)
		if err != nil {
			t.Fatal(err)
		}
		if err := SealMemfd(fd, c.seals); err != nil {
			t.Fatal(err)
		}
		err = CheckGraph(fd, &c.g)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
		unix.Close(fd)
	}
	pipe := make([]int, 2)
	if err := unix.Pipe(pipe); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	if err := CheckGraph(pipe[0], &Graph{}); err == nil {
		t.Error("a pipe was taken for a graph")
	}
}
