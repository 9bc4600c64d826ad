package ptx

import (
	"reflect"
	"strings"
	"testing"
)

// TestClone: a clone equals its original and shares nothing with it that can change.
func TestClone(t *testing.T) {
	for name, src := range samples(t) {
		m, err := Parse(src)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text := string(m.Bytes())
		c := m.Clone()
		if !reflect.DeepEqual(m, c) {
			t.Errorf("%s: clone differs", name)
		}
		scramble(reflect.ValueOf(c), map[uintptr]bool{})
		if string(m.Bytes()) != text {
			t.Errorf("%s: changing the clone changed the original", name)
		}
	}
}

// scramble changes every string, number and flag that can be reached from v.
func scramble(v reflect.Value, seen map[uintptr]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || seen[v.Pointer()] {
			return
		}
		seen[v.Pointer()] = true
		scramble(v.Elem(), seen)
	case reflect.Interface:
		if !v.IsNil() {
			scramble(v.Elem(), seen)
		}
	case reflect.Slice:
		for i := range v.Len() {
			scramble(v.Index(i), seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			scramble(v.Field(i), seen)
		}
	case reflect.String:
		v.SetString("changed")
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 77)
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(v.Uint() ^ 1)
	case reflect.Bool:
		v.SetBool(!v.Bool())
	}
}

// TestWalk: every operand and name is visited and can be replaced.
func TestWalk(t *testing.T) {
	m, err := Parse([]byte(`.version 8.0
.target sm_90
.func f() {
	@!p tex.2d.v4.f32.f32 {a, b, _, d}|q, [t, {x, y.z}], 4;
	{ ld.u32 a, [base+off+8]; call (r), g, (a, 1, s); }
}`))
	if err != nil {
		t.Fatal(err)
	}
	f := m.Func("f")
	var ops int
	Walk(f.Body, func(in *Inst) bool {
		in.WalkOperands(func(o *Operand) bool { ops++; return true })
		in.WalkNames(func(n *string) { *n = "N_" + *n })
		return true
	})
	if ops != 23 {
		t.Errorf("%d operands visited, want 23", ops)
	}
	f.Body = Rewrite(f.Body, func(s Stmt) []Stmt {
		in, ok := s.(*Inst)
		if !ok {
			return []Stmt{s}
		}
		in.WalkOperands(func(o *Operand) bool {
			if o.Kind == Vec {
				*o = Operand{Kind: Sym, Name: "vector"}
			}
			return true
		})
		return []Stmt{s, &Inst{Op: "next"}}
	})
	want := `
.func f
{
	@!N_p tex.2d.v4.f32.f32 vector|N_q, [N_t, vector], 4;
	next;
	{
		ld.u32 N_a, [N_base+N_off+8];
		next;
		call (N_r), N_g, (N_a, 1, N_s);
		next;
	}
}
`
	if got := string(m.Bytes()); !strings.HasSuffix(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
