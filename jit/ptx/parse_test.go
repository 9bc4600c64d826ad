package ptx

import (
	"errors"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// samples gives our own odd sources, the forms of the ISA and the corpus.
func samples(t testing.TB) map[string][]byte {
	out := map[string][]byte{}
	for _, f := range glob(t, "testdata/*.ptx", "testdata/isa/*.ptx", "../interp/kernels/ptx/*.ptx", "../interp/kernels/triton/*.ptx") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[f] = b
	}
	return out
}

// forget clears every position in a tree.
func forget(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			forget(v.Elem())
		}
	case reflect.Slice:
		for i := 0; i < v.Len(); i++ {
			forget(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Pos]() {
			v.SetZero()
			return
		}
		for i := 0; i < v.NumField(); i++ {
			if k := v.Field(i).Kind(); k == reflect.Pointer || k == reflect.Interface || k == reflect.Slice || k == reflect.Struct {
				forget(v.Field(i))
			}
		}
	}
}

// TestPrint: parse → print → parse is the identity, and printing is stable.
func TestPrint(t *testing.T) {
	for name, src := range samples(t) {
		a, err := Parse(src)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := a.Bytes()
		b, err := Parse(text)
		if err != nil {
			t.Errorf("%s printed: %v", name, err)
			continue
		}
		forget(reflect.ValueOf(a))
		forget(reflect.ValueOf(b))
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s changed by printing (-read +reread):\n%s", name, clipTo(cmp.Diff(a, b), 2000))
		}
		if again := b.Bytes(); string(again) != string(text) {
			t.Errorf("%s: second printing differs from the first", name)
		}
	}
}

func clipTo(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// TestErrors: message and position of what is wrong, several per source.
func TestErrors(t *testing.T) {
	const head = ".version 8.0\n.target sm_90\n.address_size 64\n"
	for _, c := range []struct {
		src  string
		want []string // "line:col: start of message", lines counted after head
	}{
		{"junk;", []string{`1:1: found "junk", expected a directive`}},
		{".entry k( { ret; }", []string{`1:11: declaration lacks a state space`}},
		{".entry k() {\n add.u32 a b;\n ret\n }", []string{`2:12: found "b", expected "," or ";"`, `4:2: found "}", expected an operand`}},
		{".entry k() {\n mov.u32 %r1, ;\n mov.u32 %r1, %r2;\n @%p ret %r1 %r2;\n}\n.global .u32 x[;\n", []string{`2:15: found ";", expected an operand`, `4:14: found "%r2"`, `6:16: found ";"`}},
		{".entry k() {\n ld.global.u32 %r1, [];\n}", []string{"2:21: [] is empty"}},
		{".entry k() {", []string{`1:12: "{" is not closed`}},
		{".global .u32 x = 1 / 0;", []string{"1:20: division by zero"}},
		{".global .u32 x = 99999999999999999999;", []string{`1:18: "99999999999999999999" is not a number`}},
		{".global .f32 x = 1.0 + 2;", []string{`1:22: "+" has operands of different`}},
		{".global .u32 x = 1.0 & 2.0;", []string{`1:22: "&" takes integers only`}},
		{".global .u32 x[1.5];", []string{"1:16: found a floating-point number, expected an integer"}},
		{".global .u32 x = 0(y);", []string{"1:18: mask 0"}},
		{".global .u32 x = {y.z, -r};", []string{`1:19: found "y.z", expected a constant address`}},
		{".global .b8 x[4] = \"abc\";", []string{`1:20: found "abc", expected an operand`}},
		{".func f() .attribute(.unified(1, 2)) { ret; }", []string{"1:11: found .attribute after the head"}},
		{".const[11] .u32 x;", []string{"1:1: constant bank 11 is out of range"}},
		{".section .debug_info { .b8 1; }", []string{`1:29: found ";" in a section, expected .b8`}},
		{".section .debug_info { .b32 1+2 }", []string{`1:30: found "+" in a section`}},
		{".section .debug_info { .b32 a+b }", []string{`1:31: found "b" after "+"`}},
		{".section .debug_info { .b8 1", []string{`1:22: .section is not closed`}},
		{".file one;\n.loc 1 2\n.target 90\n.address_size 16\n", []string{
			`1:7: found "one" in .file, expected an integer`, `3:1: found ".target" in .loc, expected an integer`, `4:1: .address_size is 32 or 64`}},
		{".entry k() {\n .loc 1 2 3, inlined_at 1 2 3\n mov.u32 r, 1;\n}\n", []string{`2:14: found "inlined_at" in .loc, expected function_name`}},
		{".entry k() {\n a: .branchtargets x, y\n }\n", []string{`3:2: found "}" in .branchtargets, expected ";"`}},
		{".entry k() {\n mov.u32 r, -;\n mov.u32 r, 1 +;\n mov.u32 r, (1;\n ld.u32 r, [a+1.5];\n ld.u32 r, a[;\n mov.b64 {a, b, d;\n}\n", []string{
			`2:14: found ";", expected an operand`, `3:16: found ";"`, `4:15: found ";", expected ")"`, `5:15: found a floating-point`, `6:14: found ";"`, `7:18: found ";", expected ","`}},
		{".entry k() {\n @p { ret; }\n}", []string{`2:5: found "{", expected an opcode`}},
		{".global .align 3 .u32 x;", []string{"1:9: alignment 3 is not a power of two"}},
		{".global .u31 x;", []string{`1:9: found ".u31", expected a type`}},
		{".entry k() {\n /* never closed\n ret; }", []string{"2:2: comment is not closed"}},
		{".entry k() {\n mov.u32 %r1, \x01;\n}", []string{`2:15: byte '\x01' does not belong`}},
		{".entry k() {\n.reg .u32 %r<0>;\n}", []string{`2:14: found "0", expected the number of registers`}},
		{".entry a() { ret;\n.entry b() { ret; }", []string{`2:1: found .entry in a function body`}},
		{strings.Repeat(".entry k() { x y z; }\n", 30), nil},
		{".entry k() {" + strings.Repeat("{", 100), []string{"1:76: nested deeper than 64"}},
		{".global .u32 x = " + strings.Repeat("(", 1000), []string{"1:50: nested deeper"}},
	} {
		m, err := Parse([]byte(head + c.src))
		var l ErrorList
		if m != nil || !errors.As(err, &l) {
			t.Errorf("%q: module %v, error %v", clipTo(c.src, 40), m != nil, err)
			continue
		}
		if len(l) > MaxErrors {
			t.Errorf("%d errors", len(l))
		}
		for i, w := range c.want {
			if i >= len(l) {
				t.Errorf("%q: %d errors, expected %q too", c.src, len(l), w)
				break
			}
			e := *l[i]
			e.Line -= 3
			if got := strings.TrimPrefix(e.Error(), "ptx:"); !strings.HasPrefix(got, w) {
				t.Errorf("%q: error %d is %q, want %q", clipTo(c.src, 40), i, got, w)
			}
		}
	}
	if _, err := Parse([]byte(".target sm_90\n")); err == nil || !strings.Contains(err.Error(), "1:1: .target before .version") {
		t.Errorf("no .version: %v", err)
	}
	if _, err := Parse(make([]byte, MaxSource+1)); err == nil {
		t.Error("source above MaxSource was read")
	}
	defer func() { nodeLimit = MaxNodes }()
	nodeLimit = 1000
	if _, err := Parse([]byte(head + ".global .b8 x[] = {" + strings.Repeat("1,", 1000) + "1};")); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("more than MaxNodes: %v", clipTo(err.Error(), 100))
	}
}

// TestLayout: places in the parameter block.
func TestLayout(t *testing.T) {
	m, err := Parse([]byte(`.version 8.0
.target sm_90
.address_size 64
.entry k(.param .u8 a, .param .align 8 .b8 b[13], .param .f16 c, .param .u64 .ptr .global .align 16 d, .param .v4 .f32 e)
.maxntid 128, 2
.minnctapersm 3 .maxnreg 40 .reqnctapercluster 2, 1, 1 { ret; }`))
	if err != nil {
		t.Fatal(err)
	}
	f := m.Func("k")
	p, n, err := f.Layout()
	want := []Param{{"a", 0, 1, 1}, {"b", 8, 13, 8}, {"c", 22, 2, 2}, {"d", 24, 8, 8}, {"e", 32, 16, 16}}
	if d := cmp.Diff(want, p); d != "" || n != 48 || err != nil {
		t.Errorf("size %d, %v\n%s", n, err, d)
	}
	l := f.Limits()
	if l.MaxNTID != [3]uint32{128, 2, 1} || l.MinCTAPerSM != 3 || l.MaxReg != 40 || l.ReqNCTAPerClstr != [3]uint32{2, 1, 1} {
		t.Errorf("%+v", l)
	}
	if d := f.Params[3]; !d.Ptr || d.PtrSpc != ".global" || d.PtrAln != 16 {
		t.Errorf("%+v", d)
	}
}

// TestMemory: a module takes no more memory than the stated cap says, whatever it
// is made of: so many bytes a node at most.
func TestMemory(t *testing.T) {
	const perNode = 1 << 30 / MaxNodes
	const head = ".version 9.0\n.target sm_90\n"
	const n = 20000
	for name, src := range map[string]string{
		"values":       ".global .b8 x[] = {" + strings.Repeat("1,", n) + "1};",
		"braces":       ".global .b8 x[] = {" + strings.Repeat("{},", n) + "1};",
		"variables":    ".global .b8 x" + strings.Repeat(",x", n) + ";",
		"statements":   ".func f() {" + strings.Repeat("a;", n) + "}",
		"labels":       ".func f() {" + strings.Repeat("a:", n) + "}",
		"blocks":       ".func f() {" + strings.Repeat("{}", n) + "}",
		"operands":     ".func f() { a b" + strings.Repeat(",b", n) + "; }",
		"modifiers":    ".func f() {" + strings.Repeat("a"+strings.Repeat(".b", 32)+";", n/32) + "}",
		"components":   ".func f() { a b" + strings.Repeat(".x.x.x.x,b", n) + "; }",
		"vectors":      ".func f() { a b" + strings.Repeat(",{}", n) + "; }",
		"declarations": strings.Repeat(".func f;", n),
		"parameters":   ".func f(.reg .b32 a" + strings.Repeat(",.reg .b32 a", n) + ");",
		"attributes":   ".func f " + strings.Repeat(".a ", n) + ";",
		"directives":   ".func f() {" + strings.Repeat(".a;", n) + "}",
		"arguments":    ".func f() { .a b" + strings.Repeat(",b", n) + "; }",
		"lines":        ".func f() {" + strings.Repeat(".loc 1 1 1 ", n) + "}",
		"prototypes":   ".func f() {" + strings.Repeat(".callprototype _;", n) + "}",
		"linkage":      strings.Repeat(".weak.weak.weak.weak.func f;", n/4),
		"old debug":    strings.Repeat("@@\n", n),
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		p := &parser{m: &Module{}}
		p.lex = lexer{src: head + src, line: 1, fail: p.report}
		p.run()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if len(p.errs) > 0 {
			t.Errorf("%s: %v", name, p.errs)
		}
		if got := int(after.HeapAlloc-before.HeapAlloc) / p.nodes; got > perNode {
			t.Errorf("%s: %d bytes a node, %d nodes; at most %d are promised", name, got, p.nodes, perNode)
		}
		runtime.KeepAlive(p)
	}
}

// TestTime: what would take hours if some step were quadratic takes moments.
func TestTime(t *testing.T) {
	const head = ".version 9.0\n.target sm_90\n"
	const n = 1 << 18
	for name, src := range map[string]string{
		"targets":       ".target a" + strings.Repeat(",a", n),
		"components":    ".func f() { a b" + strings.Repeat(".x", n),
		"joined":        ".a x" + strings.Repeat("+x", n) + ";",
		"hashes":        strings.Repeat(" ", n) + strings.Repeat("#", n),
		"hash and gap":  strings.Repeat("# ", n),
		"bad line":      ".func f() {" + strings.Repeat("x y z;", n),
		"bad lines":     ".func f() {" + strings.Repeat("x y z;\n", n),
		"bad bytes":     strings.Repeat("\x01\xff", n),
		"digits":        ".func f() { a " + strings.Repeat("1", n) + "." + strings.Repeat("1", n),
		"points":        ".func f() { a " + strings.Repeat("1.1.", n),
		"exponents":     ".func f() { a " + strings.Repeat(".1e1", n),
		"dots":          ".func f() { a" + strings.Repeat(".1", n) + "x;",
		"open comments": strings.Repeat("/*", n),
		"open strings":  strings.Repeat("\"\n", n),
		"expressions":   ".func f() { a 1" + strings.Repeat("+1", n) + "; }",
		"ternaries":     ".func f() { a 1" + strings.Repeat("?1:1", n) + "; }",
		"offsets":       ".func f() { a [b" + strings.Repeat("+1-1", n) + "]; }",
		"braces":        strings.Repeat("{", n),
		"closing":       strings.Repeat("}", n),
		"labels":        ".func f() {" + strings.Repeat("a:", n),
		"attributes":    ".func f .attribute(" + strings.Repeat("(", n),
		"sections":      ".section .a {" + strings.Repeat("a:", n),
	} {
		start := time.Now()
		m, err := Parse([]byte(head + src))
		if (m == nil) == (err == nil) {
			t.Errorf("%s: module %v and error %v", name, m != nil, err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s: %v for %d bytes", name, d, len(src))
		}
	}
}
