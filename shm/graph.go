package shm

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bounds of all graphs that a session may keep at a time, together with MaxGraphs.
const (
	SessionGraphBytes = 4 * MaxGraphBytes
	SessionGraphNodes = 8 * MaxGraphNodes
)

// GraphSeals is what the file of a GRAPH message carries: neither its bytes nor its size can change, so it is checked once and mapped
// as it is.
const GraphSeals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// CheckGraph reports an error unless fd is a memory file with GraphSeals that holds what g says, within the bounds of one graph.
func CheckGraph(fd int, g *Graph) error {
	if g.Nodes > MaxGraphNodes || g.Bytes > MaxGraphBytes {
		return fmt.Errorf("a graph of %d nodes in %d bytes; expected at most %d nodes and %d bytes", g.Nodes, g.Bytes, MaxGraphNodes, MaxGraphBytes)
	}
	have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return fmt.Errorf("the graph's file is no memory file that can be sealed: %w", err)
	}
	if have&GraphSeals != GraphSeals {
		return fmt.Errorf("the graph's file has seals %#x; expected at least %#x (SHRINK|GROW|WRITE)", have, GraphSeals)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("the graph's file: %w", err)
	}
	if uint64(st.Size) != g.Bytes {
		return fmt.Errorf("the graph's file has %d bytes; the message says %d", st.Size, g.Bytes)
	}
	return nil
}

// GraphReader reads the nodes of a graph. It allocates nothing but itself, and bounds whatever it reads.
type GraphReader struct {
	c     Consumer // checks records as it does those of a ring
	bytes []byte
	nodes uint32 // that must come
	node  uint32 // number of the last one
	err   error
}

// NewGraphReader reads so many nodes of b, which starts at a multiple of 8 and does not change.
func NewGraphReader(b []byte, nodes uint32) *GraphReader { return &GraphReader{bytes: b, nodes: nodes} }

// Node is the number of the node that Next returned last, 0 before the first one.
func (g *GraphReader) Node() uint32 { return g.node }

// Next returns the next node: a record of KindLaunch, KindMemset, KindCopy, KindCopy3D, or of KindEvent with the last slot, whose
// dependencies name earlier nodes (Dep.Value) of lane 0. It is valid until the next call, its Payload as long as the bytes. false: that
// was all. An error names the node, and is returned from then on.
func (g *GraphReader) Next() (RecordView, bool, error) {
	if g.err != nil {
		return RecordView{}, false, g.err
	}
	v, ok, why := g.next()
	if why != "" {
		g.err = fmt.Errorf("node %d, at byte %d of %d: %s", g.node+1, g.c.read, len(g.bytes), why)
		return RecordView{}, false, g.err
	}
	if ok {
		g.node++
	}
	return v, ok, nil
}

func (g *GraphReader) next() (v RecordView, ok bool, why string) {
	rest := uint64(len(g.bytes)) - g.c.read
	switch {
	case g.node == g.nodes && rest == 0:
		return v, false, ""
	case g.node == g.nodes:
		return v, false, fmt.Sprintf("bytes follow the last of %d nodes", g.nodes)
	case rest < RecordAlign:
		return v, false, fmt.Sprintf("the bytes end before node %d of %d", g.node+1, g.nodes)
	}
	p := unsafe.Pointer(&g.bytes[g.c.read])
	w := word(p, 0)
	size, kind, flags := uint32(w), uint16(w>>32), uint16(w>>48)
	if size < RecordAlign || size%RecordAlign != 0 || size > maxRecord || uint64(size) > rest {
		return v, false, "size is out of bounds"
	}
	switch kind {
	case KindLaunch, KindMemset, KindCopy, KindCopy3D, KindEvent:
	default:
		return v, false, fmt.Sprintf("records of kind %d are no nodes of a graph", kind)
	}
	at := g.c.read
	view, ok, err := g.c.record(p, size, kind, flags)
	if err != nil {
		g.c.read = at
		if bad, is := err.(*BadRecord); is {
			return v, false, bad.Reason
		}
		return v, false, err.Error()
	}
	v = *view
	switch {
	case v.Lane != 0 || v.Seq != g.node+1 || v.Ready != 0 || v.Flags != 0:
		why = fmt.Sprintf("lane %d, number %d, ready %d, flags %d; expected 0, %d, 0, 0", v.Lane, v.Seq, v.Ready, v.Flags, g.node+1)
	case kind == KindEvent && v.Event().Slot != EventSlots-1:
		why = "a node that records an event is not the executor's to run"
	}
	for _, d := range v.Deps() {
		if d.Lane != 0 || d.Value == 0 || d.Value > g.node {
			why = fmt.Sprintf("a dependency on number %d of lane %d; expected an earlier node, of lane 0", d.Value, d.Lane)
		}
	}
	if why != "" {
		g.c.read = at
		return RecordView{}, false, why
	}
	return v, ok, ""
}
