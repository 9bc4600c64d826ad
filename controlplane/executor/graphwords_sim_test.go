package executor

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/shm"
)

// On simgpu's driver: the kernel that ends chains, and programs of vector additions as graphs of several clients, joined. Each computes bit
// for bit what it does by itself.
func TestGraphsJoinedOnSimGPU(t *testing.T) {
	s := onSimGPU(t)
	if s == nil {
		return
	}
	t.Setenv(joiningEnv, "1")
	d := s.process(nil)
	s.image(d)
	const clients, buffers, nodes = 4, 4, 8
	type program struct {
		c     *tester
		want  [buffers][]uint32
		steps [][2]int
	}
	var all [clients]program
	for id := range all {
		p := &all[id]
		p.c = s.client(d, uint64(id+1))
		r := rand.New(rand.NewPCG(uint64(id), 5))
		for i := range p.want {
			p.want[i] = make([]uint32, vector)
			b := make([]byte, vector*4)
			for k := range p.want[i] {
				p.want[i][k] = r.Uint32()
				binary.LittleEndian.PutUint32(b[4*k:], p.want[i][k])
			}
			put(p.c, shm.KindPut, 0, shm.InlineCopy{Address: p.c.window + uint64(i)*vector*4, Bytes: uint64(len(b))}, b, nil)
		}
		var of description
		last := uint32(0)
		for range nodes {
			dst, src := r.IntN(buffers), r.IntN(buffers)
			p.steps = append(p.steps, [2]int{dst, src})
			params := u64s(p.c.window+uint64(dst)*vector*4, p.c.window+uint64(src)*vector*4)
			params = binary.LittleEndian.AppendUint32(params, vector)
			l := shm.Launch{Kernel: 1, GridX: 2, GridY: 1, GridZ: 1, BlockX: 128, BlockY: 1, BlockZ: 1, ParamBytes: uint32(len(params))}
			var after []uint32
			if last != 0 {
				after = []uint32{last}
			}
			last = add(&of, shm.KindLaunch, l, params, after...)
		}
		p.c.graph(1, &of)
	}
	for end := time.Now().Add(3 * patience); d.stats().Graphs.Joined.Words < 10; {
		if time.Now().After(end) {
			t.Fatalf("graphs are not joined: %+v", d.stats().Graphs)
		}
		var seqs [clients]uint32
		for i := range all {
			seqs[i] = all[i].c.run(1, 0, nil)
			all[i].c.signal(0, seqs[i])
		}
		for i := range all {
			all[i].c.ring.Publish()
		}
		for i := range all {
			p := &all[i]
			if err := p.c.await(0, seqs[i]); err != nil {
				t.Fatal(err)
			}
			for _, step := range p.steps {
				dst, src := p.want[step[0]], p.want[step[1]]
				for k := range dst {
					dst[k] += src[k]
				}
			}
		}
	}
	for i := range all {
		p := &all[i]
		for b, want := range p.want {
			got := p.c.get(0, p.c.window+uint64(b)*vector*4, vector*4)
			for k := range want {
				if v := binary.LittleEndian.Uint32(got[4*k:]); v != want[k] {
					t.Fatalf("client %d buffer %d element %d: %d; want %d", p.c.id, b, k, v, want[k])
				}
			}
		}
	}
	st := d.stats().Graphs.Joined
	if st.Refused != 0 || st.Kernels != st.Launches*nodes {
		t.Errorf("%+v", st)
	}
}
