package conformance

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// refused lists what Rewrite must refuse, as "mapping:kernel:code"; docs/coalescing.md says why. In the debug build of
// warp_handshake the loop waits for shared memory by a generic address, which is not told from global memory.
// Everything else must be taken.
var refused = strings.Fields(`
	by-table:call_pointer:indirect-call
	by-table:call_pointer(debug):indirect-call
	by-table:cluster_async:cluster
	by-table:cluster_exchange:cluster
	by-table:cluster_fixed:cluster
	by-table:cluster_ids:cluster
	by-table:cluster_multicast:cluster
	by-table:cluster_z:cluster
	by-table:grid_barrier:spin-wait
	by-table:printing:device-runtime
	by-table:warp_handshake(debug):spin-wait
	by-table:which_sm:special-register
	by-z:call_pointer:indirect-call
	by-z:call_pointer(debug):indirect-call
	by-z:grid_barrier:spin-wait
	by-z:printing:device-runtime
	by-z:warp_handshake(debug):spin-wait
	by-z:which_sm:special-register
`)

// report collects what was refused, and compares it with the list.
type report struct {
	mu    sync.Mutex
	lines []string
	tried int
}

// add records the outcome of one Rewrite: true when there is a form.
func (r *report) add(t *testing.T, k kernels.Kernel, m coalesce.Mapping, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tried++
	key := fmt.Sprintf("%s:%s", m, k.Name)
	if strings.HasSuffix(k.Source.File, "_debug.ptx") {
		key += "(debug)"
	}
	var no *coalesce.Refusal
	if err != nil && !errors.As(err, &no) {
		t.Errorf("%s: %v", key, err)
		return false
	}
	i := slices.IndexFunc(refused, func(s string) bool { return strings.HasPrefix(s, key+":") })
	switch {
	case err == nil && i >= 0:
		t.Errorf("%s is taken; the list of refusals says %s", key, refused[i])
	case err != nil:
		if !slices.Contains(coalesce.Codes, no.Code) {
			t.Errorf("%s: code %q is not in coalesce.Codes", key, no.Code)
		}
		if i < 0 || refused[i] != key+":"+string(no.Code) {
			t.Errorf("%s:%s is not in the list of refusals: %v", key, no.Code, err)
		}
		r.lines = append(r.lines, key+":"+string(no.Code))
	}
	return err == nil
}

func (r *report) log(t *testing.T) {
	sort.Strings(r.lines)
	t.Logf("%d forms asked for, %d refused:\n%s", r.tried, len(r.lines), strings.Join(r.lines, "\n"))
}

// shape gives the kernel with a grid that the mapping can serve.
func shape(k kernels.Kernel, m coalesce.Mapping) (kernels.Kernel, bool) {
	if m == coalesce.ByTable {
		return k, true
	}
	for _, g := range k.Grids() {
		if g[2] == 1 {
			return k.WithGrid(g), true
		}
	}
	return k, false
}

// instances gives n launches of a kernel with inputs of their own, on grids of their own if the mapping can serve that, and what
// each leaves when it runs alone.
func instances(t *testing.T, k kernels.Kernel, m coalesce.Mapping, body, n int, s uint64) ([]*instance, error) {
	p := program(t, k)
	grids := k.Grids()
	var out []*instance
	for i := range n {
		in := &instance{k: k, p: p, body: body, inputs: s + uint64(i)}
		if m == coalesce.ByTable {
			in.k = k.WithGrid(grids[mix(s+uint64(i))%uint64(len(grids))])
		}
		var err error
		if in.want, err = alone(p, in.k, in.inputs, mix(in.inputs)); err != nil {
			return nil, err
		}
		in.start = in.k.Inputs(in.inputs)
		out = append(out, in)
	}
	return out, nil
}

// TestRewrite: a word of N launches of one kernel leaves what N launches leave, by either mapping, and ptxas takes it.
func TestRewrite(t *testing.T) {
	s := seed(t)
	as, dir := ptxas(t), t.TempDir()
	for _, arch := range architectures(s) {
		var all []kernels.Kernel
		for _, k := range kernels.All() {
			if d, ok := k.DebugBuild(); ok {
				if d, ok := d.For(arch); ok {
					all = append(all, d)
				}
			}
			if k, ok := k.For(arch); ok {
				all = append(all, k)
			}
		}
		some := sample(all, s, 70)
		t.Logf("%s: %d of %d kernels", arch, len(some), len(all))
		var r report
		inParallel(2*len(some), func(i int) {
			k, m := some[i/2], []coalesce.Mapping{coalesce.ByZ, coalesce.ByTable}[i%2]
			k, ok := shape(k, m)
			if !ok {
				return
			}
			name := fmt.Sprintf("%s %s %s %s", arch, m, k.Name, path.Base(k.Source.File))
			form, err := coalesce.Rewrite([]coalesce.Kernel{{Module: module(t, k), Entry: k.Name}}, coalesce.Spec{Mapping: m, Capacity: 32, ClientGlobals: true})
			if !r.add(t, k, m, err) {
				return
			}
			if err := assemble(t.Context(), as, dir, name, arch, []byte(form.PTX)); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			if e, _ := program(t, k).Entry(k.Name); e.Err != nil {
				return
			}
			if err := compare(t, k, m, s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		r.log(t)
	}
}

// compare runs words of 2, 3, 8 and 32 launches of one kernel.
func compare(t *testing.T, k kernels.Kernel, m coalesce.Mapping, s uint64) error {
	ins, err := instances(t, k, m, 0, 32, mix(s))
	if err != nil {
		return fmt.Errorf("alone: %w", err)
	}
	for _, c := range []struct{ capacity, n int }{{2, 2}, {8, 3}, {8, 8}, {32, 32}} {
		form, err := coalesce.Rewrite([]coalesce.Kernel{{Module: module(t, k), Entry: k.Name}}, coalesce.Spec{Mapping: m, Capacity: c.capacity, ClientGlobals: true})
		if err != nil {
			return err
		}
		if form.Layout.Capacity > c.capacity || form.Layout.Capacity < 2 || form.Layout.ParamBytes > coalesce.MaxParamBytes {
			return fmt.Errorf("capacity %d of %d, %d bytes of parameters", form.Layout.Capacity, c.capacity, form.Layout.ParamBytes)
		}
		p, err := interp.Load([]byte(form.PTX))
		if err != nil {
			return err
		}
		n := min(c.n, form.Layout.Capacity)
		silent := -1
		if n == 3 {
			silent = int(mix(s) % 3)
		}
		if err := run(form, p, ins[:n], s+uint64(n), silent, n <= 8); err != nil {
			return fmt.Errorf("%d of %d instances: %w", n, c.capacity, err)
		}
	}
	return nil
}

// TestDeterministic: the same kernel gives the same bytes, from a module that was parsed anew too, and the module stays as it was.
func TestDeterministic(t *testing.T) {
	s := seed(t)
	some := sample(kernels.All(), mix(s), 60)
	inParallel(len(some), func(i int) {
		k := some[i]
		m := module(t, k)
		before := m.Bytes()
		spec := coalesce.Spec{Mapping: coalesce.ByTable, Capacity: 8, ClientGlobals: true}
		a, err := coalesce.Rewrite([]coalesce.Kernel{{Module: m, Entry: k.Name}}, spec)
		if err != nil {
			return // TestRewrite looks at refusals
		}
		again, err := ptx.Parse(before)
		if err != nil {
			t.Errorf("%s: %v", k.Name, err)
			return
		}
		for _, m := range []*ptx.Module{m, again} {
			if b, err := coalesce.Rewrite([]coalesce.Kernel{{Module: m, Entry: k.Name}}, spec); err != nil || b.PTX != a.PTX || fmt.Sprint(b.Layout) != fmt.Sprint(a.Layout) {
				t.Errorf("%s: rewritten again, it differs (%v)", k.Name, err)
			}
		}
		if string(m.Bytes()) != string(before) {
			t.Errorf("%s: Rewrite changed the module", k.Name)
		}
	})
}

// TestPack: words of launches of two and three different kernels, with grids of their own.
func TestPack(t *testing.T) {
	s := seed(t)
	as, dir := ptxas(t), t.TempDir()
	for _, arch := range architectures(s) {
		groups := map[string][]kernels.Kernel{}
		for _, k := range kernels.All() {
			k, ok := k.For(arch)
			if !ok || k.Cluster != [3]uint32{} || slices.ContainsFunc(refused, func(s string) bool { return strings.HasPrefix(s, "by-table:"+k.Name+":") }) {
				continue
			}
			if e, _ := program(t, k).Entry(k.Name); e.Err != nil {
				continue
			}
			key := fmt.Sprint(k.Block, k.Source.Target) // one launch has one block shape
			groups[key] = append(groups[key], k)
		}
		var keys []string
		for key, g := range groups {
			if len(g) >= 3 {
				keys = append(keys, key)
			}
		}
		sort.Strings(keys)
		n := 24
		if nightly {
			n = 150
		}
		var mu sync.Mutex
		codes := map[coalesce.Code]int{}
		inParallel(n, func(i int) {
			r := mix(s + uint64(i)*1000)
			g := groups[keys[r%uint64(len(keys))]]
			var pick []kernels.Kernel
			for j := 0; len(pick) < 2+i%2; j++ {
				if k := g[mix(r+uint64(j))%uint64(len(g))]; !slices.ContainsFunc(pick, func(o kernels.Kernel) bool { return o.Name == k.Name }) {
					pick = append(pick, k)
				}
			}
			code, err := pack(t, pick, r, as, dir, arch)
			if err != nil {
				var names []string
				for _, k := range pick {
					names = append(names, k.Name)
				}
				t.Errorf("%s: %s: %v", arch, strings.Join(names, " + "), err)
			}
			mu.Lock()
			defer mu.Unlock()
			codes[code]++
		})
		t.Logf("%s: %d words, by code: %v", arch, n, codes)
	}
}

// pack makes and runs one word. A refusal that only concerns the pair is given as its code.
func pack(t *testing.T, pick []kernels.Kernel, r uint64, as, dir, arch string) (coalesce.Code, error) {
	var ks []coalesce.Kernel
	for _, k := range pick {
		ks = append(ks, coalesce.Kernel{Module: module(t, k), Entry: k.Name})
	}
	form, err := coalesce.Rewrite(ks, coalesce.Spec{Mapping: coalesce.ByTable, Capacity: 8, ClientGlobals: true})
	var no *coalesce.Refusal
	if errors.As(err, &no) && slices.Contains([]coalesce.Code{coalesce.CodeRegisters, coalesce.CodeParameters, coalesce.CodeTargetsDiffer}, no.Code) {
		return no.Code, nil
	}
	if err != nil {
		return "", err
	}
	if form.Layout.ExactDynamicShared {
		for _, k := range pick {
			if k.Shared != pick[0].Shared {
				return "exact-dynamic-shared", nil
			}
		}
	}
	if err := assemble(t.Context(), as, dir, fmt.Sprintf("pack%d", r), arch, []byte(form.PTX)); err != nil {
		return "", err
	}
	p, err := interp.Load([]byte(form.PTX))
	if err != nil {
		return "", err
	}
	var ins []*instance
	for i := range min(7, form.Layout.Capacity) {
		body := i
		if i >= len(pick) {
			body = int(mix(r+uint64(i)) % uint64(len(pick)))
		}
		one, err := instances(t, pick[body%len(pick)], coalesce.ByTable, body%len(pick), 1, mix(r+uint64(i)))
		if err != nil {
			return "", err
		}
		ins = append(ins, one...)
	}
	return "", run(form, p, ins, r, int(r%uint64(len(ins))), true)
}

// TestNoticed: words that are wrong on purpose are told from right ones, so that the other tests mean something.
func TestNoticed(t *testing.T) {
	var k kernels.Kernel
	for _, o := range kernels.All() {
		if o.Name == "reduce_sum" {
			k = o
		}
	}
	form, err := coalesce.Rewrite([]coalesce.Kernel{{Module: module(t, k), Entry: k.Name}}, coalesce.Spec{Mapping: coalesce.ByTable, Capacity: 4})
	if err != nil {
		t.Fatal(err)
	}
	try := func(spoil func(src string, ins []*instance) string) error {
		ins, err := instances(t, k, coalesce.ByTable, 0, 4, 5)
		if err != nil {
			t.Fatal(err)
		}
		p, err := interp.Load([]byte(spoil(form.PTX, ins)))
		if err != nil {
			t.Fatal(err)
		}
		return run(form, p, ins, 1, -1, true)
	}
	if err := try(func(src string, _ []*instance) string { return src }); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(src string, ins []*instance) string{
		"done comes too early": func(src string, ins []*instance) string {
			ins[2].k.Block[0] /= 2 // Put is told of half the threads
			return src
		},
		"done never comes": func(src string, ins []*instance) string {
			ins[2].k.Block[0]++
			return src
		},
		"an instance with another's inputs": func(src string, ins []*instance) string {
			ins[1].start = ins[3].start
			return src
		},
		"another sum": func(src string, _ []*instance) string { return strings.Replace(src, "add.s32", "sub.s32", 1) },
	} {
		if try(spoil) == nil {
			t.Errorf("%s: not noticed", what)
		}
	}
}
