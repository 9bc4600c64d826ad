package ptx

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// seeds gives sources to start fuzzing from: small ones of our own, and the
// corpus that nvcc made.
func seeds(f *testing.F) {
	for _, s := range []string{
		"", ".version 8.0\n.target sm_90\n", ".version 8.0\n.target sm_90\n.address_size 64\n.global .u32 x[2] = {1, 0xFF00(x)};\n",
		".version 8.0 .entry k(.param .u64 p) .maxntid 32,1,1 { .reg .b32 %r<3>; @!%p bra L; L: ret; { ts: .branchtargets L; } }",
		".version 8.0\n.section .debug_info { .b8 1 { } }\n.func (.reg .u32 a) f(.reg .b64 b);\n",
		".version 8.0\n.func f() { ld.global.v4.f32 {a,b,c,d}, [%rd1+-8]; mov.b32 r, 0f3F800000; tex.2d.v4.f32.f32 {a,b,c,d}, [t, {x,y}]; }",
	} {
		f.Add([]byte(s))
	}
	for _, file := range glob(f, "testdata/*.ptx", "testdata/isa/*.ptx") {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, line := range strings.SplitAfter(string(b), "\n") { // small pieces mutate better
			f.Add([]byte(".version 8.6\n.target sm_90\n.func f() {" + line + "}"))
			f.Add([]byte(".version 8.6\n.target sm_90\n" + line))
		}
	}
}

// FuzzParse: any bytes give a module or errors with positions, never both,
// never a panic; a module is the same after it was printed and parsed again, and
// so is its clone.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		m, err := Parse(src)
		if (m == nil) == (err == nil) {
			t.Fatalf("module %v and error %v", m != nil, err)
		}
		if err != nil {
			var l ErrorList
			if !errors.As(err, &l) || len(l) == 0 || len(l) > MaxErrors {
				t.Fatalf("error is %T with %d entries", err, len(l))
			}
			for _, e := range l {
				if e.Line < 1 || e.Col < 1 || e.Msg == "" {
					t.Fatalf("error without position: %+v", e)
				}
			}
			return
		}
		for _, fn := range m.Funcs {
			fn.Layout()
			fn.Limits()
			Walk(fn.Body, func(in *Inst) bool { return in.String() != "" })
		}
		for _, v := range m.Vars {
			v.Size()
			v.Alignment()
		}
		text := m.Bytes()
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("printed module does not parse: %v\n%s", err, text)
		}
		forget(reflect.ValueOf(m))
		forget(reflect.ValueOf(again))
		if !reflect.DeepEqual(m, again) {
			t.Fatalf("changed by printing (-read +reread):\n%s\n%s", cmp.Diff(m, again), text)
		}
		if !reflect.DeepEqual(m, m.Clone()) {
			t.Fatal("the clone differs")
		}
	})
}
