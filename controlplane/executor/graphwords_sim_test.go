package executor

import (
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
		want  sums
		steps [][2]int
	}
	var all [clients]program
	for id := range all {
		p := &all[id]
		p.c = s.client(d, uint64(id+1))
		r := rand.New(rand.NewPCG(uint64(id), 5))
		p.want = p.c.fill(buffers, r, always(0))
		var of description
		last := uint32(0)
		for range nodes {
			dst, src := r.IntN(buffers), r.IntN(buffers)
			p.steps = append(p.steps, [2]int{dst, src})
			l, params := p.c.addition(dst, src)
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
				p.want.add(step[0], step[1])
			}
		}
	}
	for i := range all {
		p := &all[i]
		p.c.compare(p.want, always(0))
	}
	st := d.stats().Graphs.Joined
	if st.Refused != 0 || st.Kernels != st.Launches*nodes {
		t.Errorf("%+v", st)
	}
}
