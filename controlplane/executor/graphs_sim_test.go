package executor

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/heddle-gpu/heddle/shm"
)

// The same on a driver that is not a double: the executor as a process on simgpu's libcuda.so.1. A program of vector additions with the
// dependencies that make its result that of its order, as one graph, several clients at once, each launching it several times.
func TestGraphsOnSimGPU(t *testing.T) {
	s := onSimGPU(t)
	if s == nil {
		return
	}
	n := 300
	if os.Getenv("HEDDLE_NIGHTLY") == "1" {
		n = 5_000
	}
	d := s.process(nil)
	s.image(d)
	const clients, buffers, times = 3, 8, 3
	type program struct {
		c    *tester
		want sums
		seq  uint32
	}
	var all [clients]program
	for id := range all {
		p := &all[id]
		p.c = s.client(d, uint64(id+1))
		r := rand.New(rand.NewPCG(uint64(id), 3))
		p.want = p.c.fill(buffers, r, always(1))
		var of description
		var writer [buffers]uint32
		var readers [buffers][]uint32
		var steps [][2]int
		for range n {
			dst, src := r.IntN(buffers), r.IntN(buffers)
			steps = append(steps, [2]int{dst, src})
			after := readers[dst]
			for _, w := range []uint32{writer[dst], writer[src]} {
				if w != 0 {
					after = append(after, w)
				}
			}
			l, params := p.c.addition(dst, src)
			node := add(&of, shm.KindLaunch, l, params, after...)
			writer[dst], readers[dst] = node, nil
			if readers[src] = append(readers[src], node); len(readers[src]) == 50 {
				readers[src] = []uint32{of.join(readers[src]...)}
			}
		}
		p.c.graph(1, &of)
		for range times {
			p.seq = p.c.run(1, 1, nil)
			for _, step := range steps {
				p.want.add(step[0], step[1])
			}
		}
		p.c.ring.Publish()
	}
	for i := range all {
		p := &all[i]
		p.c.mustSync(1, p.seq)
		p.c.dropGraph(1)
		p.c.compare(p.want, always(1))
	}
	until(t, "graphs are freed", func() bool { return d.stats().Graphs.Live == 0 })
	if st := d.stats().Graphs; st.Launches != clients*times || st.Kernels != uint64(clients*times*n) {
		t.Errorf("%+v", st)
	}

	// A graph with a kernel that faults: its client is blamed, the others' graphs go on with the next executor.
	bad, good := all[0].c, all[1].c
	var wild description
	wild.launch(2, u64s(0xdead0000))
	bad.graph(2, &wild)
	bad.run(2, 1, nil)
	bad.ring.Publish()
	if err := d.end(); ExitCode(err) != ExitFault {
		t.Fatalf("end: %v", err)
	}
	f, err := shm.Decode[shm.Fault]((<-d.faults).Body)
	if err != nil || f.Blamed != bad.id || f.CUDAResult != 700 {
		t.Errorf("%+v, %v; want client %d blamed", f, err, bad.id)
	}
	next := s.process(d.bell)
	s.image(next)
	good.attach(next)
	good.kernel(1, 1, "accumulate")
	var of description
	l, params := good.addition(0, 1)
	add(&of, shm.KindLaunch, l, params)
	good.graph(7, &of)
	good.resume()
	good.mustSync(1, good.run(7, 1, nil))
	got := good.get(1, good.window, 4)
	if v, want := binary.LittleEndian.Uint32(got), all[1].want[0][0]+all[1].want[1][0]; v != want {
		t.Errorf("after the fault: %d; want %d", v, want)
	}
}
