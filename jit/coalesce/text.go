package coalesce

import (
	"fmt"
	"strings"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// paramName is the one parameter of a rewritten kernel, the array of instances.
const paramName = "heddle_words"

// prologue finds the block's instance: %word$base is its address in parameter space, and with ByTable %word$x … %word$nz are
// what the block believes to be %ctaid and %nctaid, as far as somebody reads them.
func (m *module) prologue() string {
	var words uint8
	globals := 0
	for _, b := range m.bodies {
		for _, f := range b.funcs {
			if f.f.Entry {
				words |= f.words
			}
		}
		globals = max(globals, len(b.globals))
	}
	var t strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&t, format+"\n", args...) }
	p(".reg .pred %%word$p;")
	p(".reg .b32 %%word$t, %%word$m, %%word$x, %%word$y, %%word$z, %%word$nx, %%word$ny, %%word$nz;")
	p(".reg .b64 %%word$base, %%word$d, %%word$e;")
	if globals > 0 {
		p(".reg .b64 %%word$g<%d>;", globals)
	}
	l := &m.l
	p("mov.b64 %%word$base, heddle_words;")
	if l.Mapping == ByZ {
		p("mov.u32 %%word$t, %%ctaid.z;")
		p("mad.wide.u32 %%word$base, %%word$t, %d, %%word$base;", l.Stride)
		if words&wordZ != 0 {
			p("mov.u32 %%word$z, 0;")
		}
		if words&wordNZ != 0 {
			p("mov.u32 %%word$nz, 1;")
		}
		return t.String()
	}
	// The last instance whose first block is not behind this one. Instances that are not launched begin behind all blocks.
	p("mov.u32 %%word$x, %%ctaid.x;")
	first := l.Tail + OffFirst
	for n := l.Capacity; n > 1; {
		half := n / 2
		p("ld.param.b32 %%word$t, [%%word$base+%d];", first+half*l.Stride)
		p("setp.ge.u32 %%word$p, %%word$x, %%word$t;")
		p("@%%word$p add.s64 %%word$base, %%word$base, %d;", half*l.Stride)
		n -= half
	}
	grid := l.Tail + OffGrid
	if words&wordNX != 0 || words&(wordX|wordY|wordZ) != 0 {
		p("ld.param.b32 %%word$nx, [%%word$base+%d];", grid)
	}
	if words&wordNY != 0 || words&(wordY|wordZ) != 0 {
		p("ld.param.b32 %%word$ny, [%%word$base+%d];", grid+4)
	}
	if words&wordNZ != 0 {
		p("ld.param.b32 %%word$nz, [%%word$base+%d];", grid+8)
	}
	if words&(wordX|wordY|wordZ) == 0 {
		return t.String()
	}
	p("ld.param.b32 %%word$t, [%%word$base+%d];", first)
	p("sub.u32 %%word$x, %%word$x, %%word$t;")
	if words&(wordY|wordZ) != 0 {
		p("mov.u32 %%word$y, 0;")
		p("mov.u32 %%word$z, 0;")
	}
	// Blocks of the first row need no division; the whole block takes the same way.
	p("setp.lt.u32 %%word$p, %%word$x, %%word$nx;")
	p("@%%word$p bra.uni $word$here;")
	if words&(wordY|wordZ) == 0 {
		p("rem.u32 %%word$x, %%word$x, %%word$nx;")
	} else {
		p("div.u32 %%word$y, %%word$x, %%word$nx;")
		p("mul.lo.u32 %%word$t, %%word$y, %%word$nx;")
		p("sub.u32 %%word$x, %%word$x, %%word$t;")
		p("div.u32 %%word$z, %%word$y, %%word$ny;")
		p("mul.lo.u32 %%word$t, %%word$z, %%word$ny;")
		p("sub.u32 %%word$y, %%word$y, %%word$t;")
	}
	p("$word$here:")
	return t.String()
}

// epilogues are what the kernel's exits lead to.
//
// Without a done word the thread is gone. With one, threads are counted, and the last of the instance stores its done word. Threads
// are counted rather than blocks, because whoever returns early must not be waited for at a barrier. Of threads that end together
// the assembler makes one addition for their warp, since address and addend are the same for all.
//
// Why the store tells the truth (PTX ISA 9.0, chapter 8, Memory Consistency Model):
//
//   - Each thread's atom.release is a release pattern behind all that the thread did ("Release and Acquire Patterns").
//   - The thread whose addition completes the number observes all the others' through a chain of atomics ("Observation Order"). Its
//     strong read and the fence behind it are an acquire pattern: what any thread of the instance wrote precedes the fence in
//     causality order. The operations are morally strong in gpu scope, as the instance runs on one device.
//   - fence.acq_rel.sys and the strong store behind it are a release pattern in system scope: whoever acquires the done word sees
//     all of those writes, since causality order is transitive, and the counter at 0 again.
//
// Bulk copies from shared to global memory are not ordered after the thread that started them until it has waited for their group
// (cp.async.bulk.wait_group), which ends with the fence between the proxies; without a done word the kernel's end does it, as in
// the original.
func (r *rewriter) epilogues() []ptx.Stmt {
	var t strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&t, format+"\n", args...) }
	l := r.l
	for n := 1; n <= r.exits; n++ {
		p("%s:", r.exitLabel(n))
		p("ld.param.b64 %%word$d, [%%word$base+%d];", l.Tail+OffDone)
		p("setp.eq.s64 %%word$p, %%word$d, 0;")
		p("@%%word$p exit;")
		if r.bulk {
			p("cp.async.bulk.commit_group;")
			p("cp.async.bulk.wait_group 0;")
		}
		p("ld.param.b64 %%word$e, [%%word$base+%d];", l.Tail+OffCounter)
		p("atom.release.gpu.global.add.u32 %%word$t, [%%word$e], 1;")
		p("add.u32 %%word$t, %%word$t, 1;")
		p("ld.param.b32 %%word$m, [%%word$base+%d];", l.Tail+OffThreads)
		p("setp.ne.u32 %%word$p, %%word$t, %%word$m;")
		p("@%%word$p exit;")
		p("st.relaxed.gpu.global.u32 [%%word$e], 0;")
		p("ld.param.b32 %%word$m, [%%word$base+%d];", l.Tail+OffValue)
		p("fence.acq_rel.sys;")
		p("st.relaxed.sys.global.u32 [%%word$d], %%word$m;")
		p("exit;")
	}
	return statements(t.String())
}
