package interp

import (
	"fmt"
	"sort"
	"strings"
)

// missing lists the opcodes of PTX ISA 9.0 that opTable lacks, by chapter, so
// that the documentation says what is absent too.
var missing = []struct{ family, ops string }{
	{"Cluster launch control (9.7.13.17)", "clusterlaunchcontrol"},
	{"Multimem and tensor maps (9.7.9)", "multimem tensormap"},
	{"Texture and surface (9.7.10, 9.7.11)", "tex tld4 txq istypep suld sust sured suq"},
	{"Tensor core, 5th generation (9.7.16)", "tcgen05"},
	{"Video (9.7.18)", "vadd vsub vabsdiff vmin vmax vshl vshr vmad vset vset2 vset4"},
}

// Coverage gives docs/ptx-coverage.md: what the interpreter executes, made
// from its own decode table.
func Coverage() string {
	var b strings.Builder
	b.WriteString(`# PTX that the interpreter executes

Generated from the decode table of jit/interp by ` + "`go test ./jit/interp -run TestCoverage -update`" + `; a test keeps it current.
Every form of PTX parses; this is about execution. A kernel that contains something else loads, and its launch is refused
with the line and column of the first such instruction.

Every form of PTX ISA 9.0 parses and prints, so that ptxas makes the same machine code of it: ` + "`jit/ptx/testdata/isa`" + ` holds them by
chapter, each taken by ptxas 13.0. Which of those do not execute: ` + "`go test -v -run TestISA ./jit/interp`" + `.

| family | opcodes |
|---|---|
`)
	families := map[string][]string{}
	for op, info := range opTable {
		families[info.family] = append(families[info.family], op)
	}
	var names []string
	for f := range families {
		names = append(names, f)
		sort.Strings(families[f])
	}
	sort.Strings(names)
	absent := 0
	for _, m := range missing {
		for _, op := range strings.Fields(m.ops) {
			if opTable[op] == nil {
				absent++
			}
		}
	}
	for _, f := range names {
		fmt.Fprintf(&b, "| %s | %d |\n", f, len(families[f]))
	}
	fmt.Fprintf(&b, "| all | %d of %d |\n", len(opTable), len(opTable)+absent)
	for _, f := range names {
		fmt.Fprintf(&b, "\n## %s\n\n| opcode | forms |\n|---|---|\n", f)
		for _, op := range families[f] {
			fmt.Fprintf(&b, "| `%s` | %s |\n", op, strings.ReplaceAll(opTable[op].forms, "|", "\\|"))
		}
	}
	b.WriteString("\n## Not executed yet\n\n| chapter | opcodes |\n|---|---|\n")
	for _, m := range missing {
		var left []string
		for _, op := range strings.Fields(m.ops) {
			if opTable[op] == nil {
				left = append(left, "`"+op+"`")
			}
		}
		if len(left) > 0 {
			fmt.Fprintf(&b, "| %s | %s |\n", m.family, strings.Join(left, " "))
		}
	}
	b.WriteString(`
Of the opcodes above, these forms: atomics on ` + "`.b128`" + `, tensor copies other than tiled
ones (` + "`.im2col`, `.tile::gather4`, `.tile::scatter4`" + `) and their arithmetic reductions, sparse, block-scaled and sub-byte ` + "`mma` and `wmma`" + `,
f16 ` + "`mma` of `m8n8k4`" + `, array elements chosen by a register (` + "`a[%r]`" + `), masks and selectors of the video opcodes.
Tensor maps are the software GPU's own 128 bytes (` + "`interp.TensorMap`" + `), as its cuTensorMapEncodeTiled would make them.
`)
	b.WriteString("\n## Special registers\n\n")
	var regs []string
	for r := range specials {
		regs = append(regs, "`"+r+"`")
	}
	sort.Strings(regs)
	b.WriteString(strings.Join(regs, " ") + "; `%envreg0`…`%envreg31` as the launch sets them; `%pm…` read as zero.\n")
	b.WriteString(`
## What is exact, and what is not

- Integers, bits, comparisons, conversions, f64, f32, f16 and bf16 arithmetic with every rounding mode, ` + "`.ftz`" + `, ` + "`.sat`" + ` and fused
  multiply-add: bit for bit as the ISA defines them. A NaN that f32 arithmetic makes is 0x7fffffff, f16 and bf16 0x7fff;
  f64 keeps the payload of the first NaN operand.
- ` + "`.approx`" + ` forms (and ` + "`div.full`" + `): computed in double precision and rounded once. Within the bounds that the ISA
  states, but not the bits that a chip gives.
- Caches, eviction hints, prefetches and priorities have no effect. Memory is sequentially consistent within a launch; ordered
  and volatile accesses, and atomics, are single atomic operations on the host's memory, so that launches and host
  threads that share it see them whole.
- Asynchronous copies finish at once.
`)
	return b.String()
}
