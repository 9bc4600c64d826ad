package coalesce

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/ptx"
)

// module makes a module for sm_90 with a kernel k of these parameters, and body in its braces. head is what precedes the kernel.
func source(head, params, body string) string {
	return ".version 8.5\n.target sm_90\n.address_size 64\n" + head + "\n.visible .entry k(" + params + ")\n{\n" + body + "\n}\n"
}

func parse(t testing.TB, src string) *ptx.Module {
	t.Helper()
	m, err := ptx.Parse([]byte(src))
	if err != nil {
		t.Fatalf("%v in\n%s", err, src)
	}
	return m
}

const regs = ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<9>;\n"

// refusals has at least one case for each code. A case is one kernel, or several to pack.
var refusals = []struct {
	code    Code
	spec    Spec
	sources []string
}{
	{CodeNoEntry, Spec{}, []string{".version 8.5\n.target sm_90\n.address_size 64\n"}},
	{CodeNoEntry, Spec{}, []string{".version 8.5\n.target sm_90\n.address_size 64\n.func k() { ret; }"}},
	{CodeMalformed, Spec{}, []string{source("", "", regs+"mov.u32 %r1, nobody;\nret;")}},
	{CodeMalformed, Spec{}, []string{source("", "", regs+"@%q1 ret;")}},
	{CodeMalformed, Spec{}, []string{source("", "", regs+"bra 5;")}},
	{CodeMalformed, Spec{}, []string{source("", ".param .b64 a", regs+"ld.param.b64 %d1, [a+%r1];\nret;")}},
	{CodeReservedName, Spec{}, []string{source("", "", ".reg .b32 %word$x;\nret;")}},
	{CodeReservedName, Spec{}, []string{source(".func heddle_word() { ret; }", "", "call heddle_word;\nret;")}},
	{CodeTarget, Spec{}, []string{strings.Replace(source("", "", "ret;"), "sm_90", "sm_61", 1)}},
	{CodeTarget, Spec{}, []string{strings.Replace(source("", "", "ret;"), "sm_90", "sm_90, map_f64_to_f32", 1)}},
	{CodeTarget, Spec{}, []string{strings.Replace(source("", "", "ret;"), "address_size 64", "address_size 32", 1)}},
	{CodeTargetsDiffer, Spec{Mapping: ByTable}, []string{source("", "", "ret;"), strings.Replace(source("", "", "ret;"), "sm_90", "sm_80", 1)}},
	{CodeMapping, Spec{}, []string{source("", "", "ret;"), source("", "", "ret;")}},
	{CodeParameters, Spec{}, []string{source("", ".param .align 8 .b8 a[16400]", "ret;")}},
	{CodeParameterUse, Spec{}, []string{source("", ".param .b64 a", regs+"mov.u32 %r1, a;\nret;")}},
	{CodeParameterUse, Spec{}, []string{source("", ".param .b64 a", regs+"ld.global.b64 %d1, [a];\nret;")}},
	{CodeParameterUse, Spec{}, []string{source("", ".param .b64 a", regs+"add.u64 %d1, %d2, a;\nret;")}},
	{CodeGlobals, Spec{}, []string{source(".global .u32 g;", "", regs+"ld.global.u32 %r1, [g];\nret;")}},
	{CodeGlobals, Spec{}, []string{source(".const .f32 g = 0f3F800000;", "", regs+"ld.const.u32 %r1, [g];\nret;")}},
	{CodeGlobals, Spec{}, []string{source(".global .u32 $str = 5;", "", regs+"st.global.u32 [$str], 1;\nret;")}},
	{CodeGlobalUse, Spec{ClientGlobals: true}, []string{source(".global .u32 g;", "", regs+"setp.eq.u64 %p1, %d1, g;\nret;")}},
	{CodeGlobalUse, Spec{ClientGlobals: true}, []string{source(".global .u32 g;\n.global .u64 $str = g;", "", regs+"ld.global.u64 %d1, [$str];\nret;")}},
	{CodeGlobalUse, Spec{ClientGlobals: true}, []string{source(".const .u32 g;", "", regs+"mov.u64 %d1, g;\nisspacep.const %p1, %d1;\nret;")}},
	{CodeGlobalUse, Spec{ClientGlobals: true}, []string{source(".global .u32 g[4];", "", regs+"ld.global.u32 %r1, g[%r2];\nret;")}},
	{CodeGlobalUse, Spec{Mapping: ByTable}, []string{source("", "", "ret;"), source("", "", regs+".shared .u32 s[4];\nld.shared.u32 %r1, s[%r2];\nret;")}},
	{CodeParameterUse, Spec{}, []string{source("", ".param .u32 a[4]", regs+"ld.param.u32 %r1, a[%r2];\nret;")}},
	{CodeCluster, Spec{}, []string{strings.Replace(source("", "", "ret;"), "k()", "k() .reqnctapercluster 1, 1, 2", 1)}},
	{CodeCluster, Spec{Mapping: ByTable}, []string{source("", "", regs+"mov.u32 %r1, %cluster_ctarank;\nret;")}},
	{CodeCluster, Spec{Mapping: ByTable}, []string{source("", "", "barrier.cluster.arrive;\nbarrier.cluster.wait;\nret;")}},
	{CodeCooperative, Spec{}, []string{source("", "", regs+"mov.b32 %r1, %envreg2;\nret;")}},
	{CodeSpin, Spec{}, []string{source("", ".param .b64 a", regs+"L: ld.acquire.gpu.global.u32 %r1, [%d1];\nsetp.ne.u32 %p1, %r1, 4;\n@%p1 bra L;\nret;")}},
	{CodeSpin, Spec{}, []string{source("", "", regs+"L: ld.volatile.global.u32 %r1, [%d1];\nadd.u32 %r2, %r1, 1;\nsetp.ne.u32 %p1, %r2, 4;\n@%p1 bra M;\nbra L;\nM: ret;")}},
	{CodeSpin, Spec{}, []string{source("", "", regs+"L: atom.global.add.u32 %r1, [%d1], 0;\nsetp.ne.u32 %p1, %r1, 4;\n@%p1 bra L;\nret;")}},
	{CodeSpin, Spec{}, []string{source("", "", regs+"mov.u32 %r2, 1;\nL: atom.global.acq_rel.gpu.cas.b32 %r1, [%d1], %r2, %r2;\nsetp.ne.u32 %p1, %r1, 1;\n@%p1 bra L;\nret;")}},
	{CodeSpecialRegister, Spec{}, []string{source("", "", regs+"mov.u32 %r1, %smid;\nret;")}},
	{CodeSpecialRegister, Spec{}, []string{source("", "", regs+"mov.u64 %d1, %gridid;\nret;")}},
	{CodeSpecialRegister, Spec{}, []string{source("", "", regs+"mov.u32 %r1, %warpid;\nret;")}},
	{CodeSpecialRegister, Spec{}, []string{source("", "", regs+"mov.u32 %r1, %total_smem_size;\nret;")}},
	{CodeSpecialRegister, Spec{}, []string{source("", "", regs+"mov.u32 %r1, %of_the_future;\nret;")}},
	{CodeSpecialUse, Spec{}, []string{source("", "", regs+"add.u32 %r1, %ctaid.z, 1;\nret;")}},
	{CodeSpecialUse, Spec{}, []string{source("", "", regs+"mov.u32 %r1, %ctaid;\nret;")}},
	{CodeLaunchControl, Spec{}, []string{source("", "", regs+"clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%r1], [%r2];\nret;")}},
	{CodeTexture, Spec{}, []string{source("", ".param .texref a", "ret;")}},
	{CodeTexture, Spec{}, []string{source("", "", regs+"tex.1d.v4.f32.s32 {%r1,%r2,%r3,%r4}, [%d1, {%r5}];\nret;")}},
	{CodeTexture, Spec{}, []string{source(".global .surfref s;", "", regs+"mov.u64 %d1, s;\nret;")}},
	{CodeDeviceRuntime, Spec{}, []string{source(".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);", "",
		regs+"{ .param .b32 r; .param .b64 a; .param .b64 b;\ncall (r), vprintf, (a, b); }\nret;")}},
	{CodeDeviceRuntime, Spec{}, []string{source(".extern .func (.param .b64 r) malloc (.param .b64 a);", "",
		regs+"{ .param .b64 r; .param .b64 a;\ncall (r), malloc, (a); }\nret;")}},
	{CodeExternal, Spec{}, []string{source(".extern .func other();", "", "call other;\nret;")}},
	{CodeDirective, Spec{}, []string{source(".frobnicate 4;", "", "ret;")}},
	{CodeDirective, Spec{}, []string{strings.Replace(source("", "", "ret;"), "k()", "k() .blocksareclusters", 1)}},
	{CodeDirective, Spec{}, []string{source("", "", ".frobnicate 4;\nret;")}},
	{CodeAlias, Spec{}, []string{source(".func f() { ret; }\n.visible .func g();\n.alias g, f;", "", "call g;\nret;")}},
	{CodeEntryAddress, Spec{}, []string{source("", "", regs+"mov.u64 %d1, k;\nret;")}},
	{CodeEntryAddress, Spec{}, []string{source(".entry other() { ret; }", "", "call other;\nret;")}},
	{CodeIndirectCall, Spec{Mapping: ByTable}, []string{source(".func f() { .reg .b32 %r; mov.u32 %r, %ctaid.x; ret; }", "",
		regs+"mov.u64 %d1, f;\nP: .callprototype _ ();\ncall %d1, P;\nret;")}},
	{CodeIndirectCall, Spec{}, []string{source("", ".param .b64 a", regs+"ld.param.b64 %d1, [a];\nP: .callprototype _ ();\ncall %d1, P;\nret;")}},
	{CodeExitInFunction, Spec{}, []string{source(".func f() { exit; }", "", "call f;\nret;")}},
	{CodeAsyncStore, Spec{}, []string{source("", "", regs+"red.async.mmio.release.sys.global.add.u32 [%d1], %r1;\nret;")}},
	{CodeBlockSize, Spec{Mapping: ByTable}, []string{strings.Replace(source("", "", "ret;"), "k()", "k() .reqntid 64", 1),
		strings.Replace(source("", "", "ret;"), "k()", "k() .reqntid 128", 1)}},
	{CodeBlockSize, Spec{Mapping: ByTable}, []string{strings.Replace(source("", "", "ret;"), "k()", "k() .reqntid 64", 1),
		strings.Replace(source("", "", "ret;"), "k()", "k() .maxntid 32", 1)}},
	{CodeRegisters, Spec{Mapping: ByTable}, []string{strings.Replace(source("", "", "setmaxnreg.inc.sync.aligned.u32 64;\nret;"), "k()", "k() .maxntid 128", 1),
		strings.Replace(source("", "", "ret;"), "k()", "k() .maxntid 128", 1)}},
	{CodeTooLarge, Spec{}, []string{source("", "", ".shared .b8 s[5000000];\nret;")}},
	{CodeTooLarge, Spec{}, []string{source("", "", regs+strings.Repeat("@%p1 ret;\n", maxExits+1)+"bar.sync 0;\nret;")}},
}

// TestRefusals: each case is refused with its code, by a message with the kernel's name, and every code has a case.
func TestRefusals(t *testing.T) {
	tested := map[Code]bool{}
	for _, c := range refusals {
		var ks []Kernel
		for _, s := range c.sources {
			ks = append(ks, Kernel{parse(t, s), "k"})
		}
		c.spec.Capacity = 4
		form, err := Rewrite(ks, c.spec)
		var r *Refusal
		if !errors.As(err, &r) || r.Code != c.code || form != nil {
			t.Errorf("%s: got %v for\n%s", c.code, err, c.sources[len(c.sources)-1])
			continue
		}
		if !strings.HasPrefix(err.Error(), "k:") || !strings.Contains(err.Error(), string(c.code)) {
			t.Errorf("message is %q", err)
		}
		tested[c.code] = true
	}
	for _, c := range Codes {
		if !tested[c] {
			t.Errorf("no case for code %s", c)
		}
	}
}

// TestCodes: the constants, the list and docs/coalescing.md name the same codes.
func TestCodes(t *testing.T) {
	src, err := os.ReadFile("refuse.go")
	if err != nil {
		t.Fatal(err)
	}
	var declared []Code
	for _, m := range regexp.MustCompile(`(?m)^\tCode\w+ Code = "([^"]+)"`).FindAllSubmatch(src, -1) {
		declared = append(declared, Code(m[1]))
	}
	page, err := os.ReadFile("../../docs/coalescing.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []Code
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllSubmatch(page, -1) {
		rows = append(rows, Code(m[1]))
	}
	if !slices.Equal(declared, Codes) {
		t.Errorf("refuse.go declares %v, Codes has %v", declared, Codes)
	}
	if !slices.Equal(rows, Codes) {
		t.Errorf("docs/coalescing.md has rows for %v, Codes has %v", rows, Codes)
	}
}
