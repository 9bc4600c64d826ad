package effects

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// arena is device memory that remembers every address that a kernel touches; a module's variables are elsewhere.
type arena struct {
	base uint64
	mem  []byte
	vars interp.Memory

	mu            sync.Mutex
	reads, writes []bool
}

const arenaBase = 0x5000_0000_0000

func newArena(n int) *arena {
	return &arena{base: arenaBase, mem: make([]byte, n), reads: make([]bool, n), writes: make([]bool, n)}
}

func (a *arena) Slice(addr uint64, n int, write bool) []byte {
	if addr < a.base || addr-a.base > uint64(len(a.mem)) || uint64(n) > uint64(len(a.mem))-(addr-a.base) {
		return a.vars.Slice(addr, n, write)
	}
	at := addr - a.base
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := at; i < at+uint64(n); i++ {
		if write {
			a.writes[i] = true
		} else {
			a.reads[i] = true
		}
	}
	return a.mem[at:][:n]
}

func repeatable(reads, writes []Span) bool {
	for _, r := range reads {
		for _, w := range writes {
			if r.Overlaps(w) {
				return false
			}
		}
	}
	return true
}

func holds(spans []Span, at uint64) bool {
	for _, s := range spans {
		if at >= s.From && at < s.To {
			return true
		}
	}
	return false
}

var modules sync.Map // source → *ptx.Module

func parse(t testing.TB, src []byte) *ptx.Module {
	if m, ok := modules.Load(string(src)); ok {
		return m.(*ptx.Module)
	}
	m, err := ptx.Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	modules.Store(string(src), m)
	return m
}

// tried is what became of one launch.
type tried struct {
	repeatable bool
	why        string
}

// try runs a kernel and, if it is judged repeatable, again on what the first run left. place puts the buffers into the arena, and
// around says what the analysis is told of them.
func try(t testing.TB, k kernels.Kernel, src []byte, seed uint64) map[bool]tried {
	t.Helper()
	e, err := Of(parse(t, src), k.Name)
	if err != nil {
		t.Fatal(err)
	}
	inputs := k.Inputs(seed)
	size := 0
	for _, b := range inputs {
		size += len(b) + 256
	}
	a := newArena(size)
	var buffers []Span
	next := uint64(arenaBase)
	at := make([]uint64, len(inputs))
	block := k.ParamBlock(inputs, func(i int) uint64 {
		at[i] = next
		buffers = append(buffers, Span{next, next + uint64(len(inputs[i]))})
		next = (next + uint64(len(inputs[i])) + 127) &^ 127 // less than a block of 256 threads overshoots
		return at[i]
	})
	for i := range inputs {
		if at[i] != 0 {
			copy(a.mem[at[i]-arenaBase:], inputs[i])
		}
	}
	apart := false
	around := func(x uint64) (Span, bool) {
		for _, b := range buffers {
			if x >= b.From && x < b.To {
				if apart {
					return b, true
				}
				return Span{arenaBase, next}, true
			}
		}
		return Span{}, false
	}
	out := map[bool]tried{}
	judged := map[bool]Touched{}
	again := false
	for _, apart = range []bool{true, false} {
		touched, why := e.Touches(Launch{k.Grid, k.Block, block}, around)
		out[apart] = tried{false, why}
		if why != "" {
			continue
		}
		judged[apart] = touched
		out[apart] = tried{false, "it reads what it writes"}
		if repeatable(touched.Reads, touched.Writes) {
			out[apart], again = tried{true, ""}, true
		}
	}
	if len(judged) == 0 {
		return out
	}
	p, err := interp.Load(src)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := a.vars.Load(p)
	if err != nil {
		t.Fatal(err)
	}
	run := func(seed uint64) {
		if _, err := inst.Launch(context.Background(), k.Launch(a, block, seed)); err != nil {
			t.Fatalf("%s: %v", k.Name, err)
		}
	}
	run(seed)
	for _, touched := range judged {
		for i := range a.mem {
			if a.reads[i] && !holds(touched.Reads, arenaBase+uint64(i)) {
				t.Fatalf("%s reads byte %d of the arena, which is not among %x", k.Name, i, touched.Reads)
			}
			if a.writes[i] && !holds(touched.Writes, arenaBase+uint64(i)) {
				t.Fatalf("%s writes byte %d of the arena, which is not among %x", k.Name, i, touched.Writes)
			}
		}
	}
	if !again {
		return out
	}
	after := bytes.Clone(a.mem)
	run(seed + 1)
	if !bytes.Equal(after, a.mem) {
		t.Fatalf("%s was judged repeatable, and its second run changes memory; %v", k.Name, judged)
	}
	return out
}

// Every kernel of the corpus touches only what the analysis says, and changes nothing when it is run again if the analysis says so.
func TestCorpus(t *testing.T) {
	times := 0
	if os.Getenv("HEDDLE_NIGHTLY") != "" {
		times = 3
	}
	counts := map[bool]int{}
	whys := map[string]int{}
	total := 0
	for _, k := range kernels.All() {
		for v, src := range map[string][]byte{"": k.PTX(), "debug": k.Debug()} {
			if src == nil || parse(t, src).Func(k.Name) == nil {
				continue // not every source is compiled without optimisation
			}
			for n := range times { // more seeds at night
				try(t, k, src, uint64(10*n+1))
			}
			for apart, r := range try(t, k, src, 3) {
				if v == "" && apart {
					total++
				}
				if r.repeatable && v == "" {
					counts[apart]++
				}
				if !r.repeatable && v == "" && !apart {
					why := r.why[strings.LastIndex(r.why, ": ")+1:]
					whys[why]++
				}
			}
		}
	}
	t.Logf("why not: %v", whys)
	t.Logf("of %d kernels %d can be repeated with each buffer in memory of its own, %d with all in one", total, counts[true], counts[false])
	if counts[true] < total/3 || counts[false] < total/5 {
		t.Errorf("only %v of %d kernels are repeatable: the analysis understands too little to be of use", counts, total)
	}
}

// header begins a hand-written kernel with parameters a, b (pointers) and n (32 bits).
const header = `.version 8.0
.target sm_90
.address_size 64
.global .align 4 .u32 counter;
.visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n, .param .u64 d)
{
	.reg .pred %p<5>;
	.reg .b32 %r<10>;
	.reg .b64 %rd<20>;
	.reg .b64 %x;
	ld.param.u64 %rd1, [a];
	ld.param.u64 %rd2, [b];
	ld.param.u32 %r1, [n];
	ld.param.u64 %rd9, [d];
	mov.u32 %r2, %ctaid.x;
	mov.u32 %r3, %ntid.x;
	mov.u32 %r4, %tid.x;
	mad.lo.s32 %r5, %r2, %r3, %r4;
`

// Kernels that a careless analysis would take for repeatable, and some that are.
func TestByHand(t *testing.T) {
	const a, b = 0x1000, 0x10000
	for name, c := range map[string]struct {
		body    string
		b       uint64 // instead of b
		n       uint32
		d       uint64
		around  map[uint64]Span
		harmful bool
		why     string
	}{
		"copy":                                 {body: "mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd5], %r6; ret;"},
		"in place":                             {body: "mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; add.s32 %r6, %r6, 1; st.global.u32 [%rd4], %r6; ret;", harmful: true},
		"the same pointer twice":               {b: a, body: "mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd5], %r6; ret;", harmful: true},
		"the second a part of the first":       {b: a + 252, body: "mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2], %r6; ret;", harmful: true},
		"just behind the first":                {b: a + 256, body: "mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2], %r6; ret;"},
		"a bound by a branch":                  {b: a + 40, n: 10, body: "setp.ge.s32 %p1, %r5, %r1; @%p1 bra END; mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2], %r6; END: ret;"},
		"a bound by a mask":                    {b: a + 40, n: 10, body: "setp.lt.s32 %p1, %r5, %r1; mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; @%p1 ld.global.u32 %r6, [%rd4]; @%p1 st.global.u32 [%rd2], %r6; ret;"},
		"the branch that does not bound":       {b: a + 40, n: 10, body: "setp.lt.s32 %p1, %r5, %r1; @%p1 bra END; mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2], %r6; END: ret;", harmful: true},
		"a guarded instruction before a label": {b: a, n: 10, body: "setp.lt.s32 %p1, %r5, %r1; @%p1 mov.u32 %r7, 1; LINE: mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2], %r6; ret;", harmful: true},
		"a mask of another value":              {b: a + 40, n: 10, body: "setp.lt.s32 %p1, %r4, %r1; mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; @%p1 ld.global.u32 %r6, [%rd4]; @%p1 st.global.u32 [%rd2], %r6; ret;", harmful: true},
		"a mask that is set anew":              {b: a + 40, n: 10, body: "setp.lt.s32 %p1, %r5, %r1; setp.ge.s32 %p1, %r5, 0; mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; @%p1 ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2], %r6; ret;", harmful: true},
		"an index that grows after the check": {b: a + 40, n: 10, body: `mov.u32 %r7, %r5; setp.ge.s32 %p1, %r7, %r1; @%p1 bra END; add.s32 %r7, %r7, 100;
			mul.wide.s32 %rd3, %r7, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2+400], %r6; END: ret;`, harmful: true},
		// The guarded load uses the address of the round before, whose index was not what the guard compares now.
		"a guard of the next round": {b: a + 40, n: 10, body: `mov.u32 %r7, 63;
LOOP:
	setp.lt.s32 %p1, %r8, %r1; @%p1 ld.global.u32 %r6, [%rd4];
	add.s32 %r8, %r7, 0; mul.wide.s32 %rd3, %r8, 4; add.s64 %rd4, %rd1, %rd3;
	sub.s32 %r7, %r7, 9; setp.gt.s32 %p2, %r7, 0; @%p2 bra LOOP;
	st.global.u32 [%rd2], %r6; ret;`, harmful: true},
		"a loop":                          {body: "LOOP: ld.global.u32 %r6, [%rd1]; st.global.u32 [%rd2], %r6; add.s64 %rd1, %rd1, 4; add.s64 %rd2, %rd2, 4; add.s32 %r1, %r1, -1; setp.gt.s32 %p1, %r1, 0; @%p1 bra LOOP; ret;"},
		"a loop in one allocation":        {b: a + 2048, body: "LOOP: ld.global.u32 %r6, [%rd1]; st.global.u32 [%rd2], %r6; add.s64 %rd1, %rd1, 4; add.s64 %rd2, %rd2, 4; add.s32 %r1, %r1, -1; setp.gt.s32 %p1, %r1, 0; @%p1 bra LOOP; ret;", harmful: true},
		"either pointer":                  {body: "setp.gt.s32 %p1, %r5, 3; selp.b64 %rd3, %rd1, %rd2, %p1; ld.global.u32 %r6, [%rd3]; st.global.u32 [%rd2], %r6; ret;", harmful: true},
		"through the difference":          {d: b - a, body: "add.s64 %rd3, %rd1, %rd9; ld.global.u32 %r6, [%rd3]; st.global.u32 [%rd2], %r6; ret;", harmful: true},
		"a pointer from memory":           {body: "ld.global.u64 %rd3, [%rd1]; ld.global.u32 %r6, [%rd3]; st.global.u32 [%rd2], %r6; ret;", harmful: true, why: "from memory"},
		"a pointer in halves":             {body: "ld.global.v2.u32 {%r6, %r7}, [%rd1]; mov.b64 %rd3, {%r6, %r7}; ld.global.u32 %r6, [%rd3]; st.global.u32 [%rd2], %r6; ret;", harmful: true, why: "from memory"},
		"halves by shift":                 {body: "ld.global.u32 %r6, [%rd1]; cvt.u64.u32 %rd3, %r6; shl.b64 %rd4, %rd3, 32; add.s64 %rd5, %rd4, %rd1; ld.global.u32 %r6, [%rd5]; st.global.u32 [%rd2], %r6; ret;", harmful: true, why: "from memory"},
		"a pointer through shared memory": {body: ".shared .align 8 .b64 box; st.shared.u64 [box], %rd2; ld.shared.u64 %rd3, [box]; ld.global.u32 %r6, [%rd1]; st.global.u32 [%rd3], %r6; ret;", harmful: true, why: "from memory"},
		"a pointer by shuffle":            {body: "mov.b64 {%r6, %r7}, %rd2; shfl.sync.idx.b32 %r6, %r6, 0, 31, -1; mov.b64 %rd3, {%r6, %r7}; ld.global.u32 %r8, [%rd1]; st.global.u32 [%rd3], %r8; ret;"},
		"a gather":                        {body: "ld.global.u32 %r6, [%rd1]; mul.wide.u32 %rd3, %r6, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2], %r6; ret;"},
		"a scatter":                       {body: "ld.global.u32 %r6, [%rd1]; mul.wide.u32 %rd3, %r6, 4; add.s64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r6; ret;"},
		"an atomic":                       {body: "atom.global.add.u32 %r6, [%rd1], 1; ret;", harmful: true, why: "atomic"},
		"a reduction":                     {body: "red.global.add.u32 [%rd1], 1; ret;", harmful: true, why: "atomic"},
		"an atomic in shared memory":      {body: ".shared .align 4 .b32 box; atom.shared.add.u32 %r6, [box], 1; ret;"},
		"a module's variable":             {body: "st.global.u32 [counter], %r5; ret;", harmful: true, why: "variable"},
		"a module's variable by register": {body: "mov.u64 %rd3, counter; st.global.u32 [%rd3+4], %r5; ret;", harmful: true, why: "variable"},
		"a clock":                         {body: "mov.u64 %rd3, %clock64; st.global.u64 [%rd2], %rd3; ret;", harmful: true, why: "clock"},
		"a volatile store":                {body: "st.volatile.global.u32 [%rd2], %r5; ret;"},
		"a store to a device's register":  {body: "st.mmio.relaxed.sys.global.u32 [%rd2], %r5; ret;", harmful: true, why: "talks to others"},
		"a flag for others":               {body: "ld.volatile.global.u32 %r6, [%rd1]; st.global.u32 [%rd2], %r6; ret;", harmful: true, why: "talks to others"},
		"a call":                          {body: "{ .param .b32 v; st.param.b32 [v], %r5; call.uni f, (v); } ret;", harmful: true, why: "calls"},
		"nothing is executed":             {b: a, n: 0, body: "setp.ge.s32 %p1, %r5, %r1; @%p1 ret; mul.wide.s32 %rd3, %r5, 4; add.s64 %rd4, %rd1, %rd3; ld.global.u32 %r6, [%rd4]; st.global.u32 [%rd2], %r6; ret;"},
		"wherever nothing is":             {b: 0x1234, body: "st.global.u32 [%rd2], %r5; ret;"},
		"an address of no parameter":      {body: "mov.u64 %rd3, 4096; LOOP: st.global.u32 [%rd3], %r5; add.s64 %rd3, %rd3, 64; bra LOOP;", harmful: true, why: "does not come from a pointer"},
	} {
		t.Run(name, func(t *testing.T) {
			src := header + c.body + "\n}\n"
			if strings.Contains(c.body, "call.uni f") {
				src = strings.Replace(src, ".visible .entry", ".extern .func f(.param .b32 v);\n.visible .entry", 1)
			}
			m, err := ptx.Parse([]byte(src))
			if err != nil {
				t.Fatal(err)
			}
			e, err := Of(m, "k")
			if err != nil {
				t.Fatal(err)
			}
			pb := uint64(b)
			if c.b != 0 {
				pb = c.b
			}
			n := c.n
			if n == 0 && name != "nothing is executed" {
				n = 64
			}
			params := binary.LittleEndian.AppendUint64(nil, a)
			params = binary.LittleEndian.AppendUint64(params, pb)
			params = binary.LittleEndian.AppendUint32(params, n)
			params = binary.LittleEndian.AppendUint32(params, 0)
			params = binary.LittleEndian.AppendUint64(params, c.d)
			touched, why := e.Touches(Launch{Grid: [3]uint32{2, 1, 1}, Block: [3]uint32{32, 1, 1}, Params: params}, func(at uint64) (Span, bool) {
				for _, s := range []Span{{a, a + 4096}, {b, b + 4096}} {
					if at >= s.From && at < s.To {
						return s, true
					}
				}
				return Span{}, false
			})
			reads, writes := touched.Reads, touched.Writes
			if (len(touched.Signals) > 0) != (name == "a volatile store") {
				t.Errorf("signals %x", touched.Signals)
			}
			if harmful := why != "" || !repeatable(reads, writes); harmful != c.harmful || !strings.Contains(why, c.why) || c.why != "" && why == "" {
				t.Errorf("reads %x, writes %x, why %q; expected harmful %v, %q", reads, writes, why, c.harmful, c.why)
			}
		})
	}
}

func TestNoSuchKernel(t *testing.T) {
	m := parse(t, []byte(header+"ret;\n}\n"))
	if _, err := Of(m, "other"); err == nil {
		t.Error("a kernel that the module does not have")
	}
	if _, why := mustOf(t, m).Touches(Launch{Params: make([]byte, 8)}, nil); why != "" {
		t.Errorf("%q: nothing is touched, so the parameters do not matter", why)
	}
}

func mustOf(t *testing.T, m *ptx.Module) *Effects {
	e, err := Of(m, "k")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The place of a parameter of large alignment depends on the device (image.Entry), so what its kernel reads is not known.
func TestAlignedParameter(t *testing.T) {
	for align, why := range map[string]string{"16": "", "64": "aligned to 64"} {
		m, err := ptx.Parse([]byte(".version 8.0\n.target sm_90\n.address_size 64\n" +
			".visible .entry k(.param .u64 a, .param .align " + align + " .b8 map[128], .param .u64 b) {\n" +
			".reg .b64 %rd<2>; ld.param.u64 %rd1, [b]; st.global.u64 [%rd1], %rd1; ret;\n}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if e := mustOf(t, m); (why == "") != (e.Why == "") || !strings.Contains(e.Why, why) {
			t.Errorf("aligned to %s: %q; want %q", align, e.Why, why)
		}
	}
}
