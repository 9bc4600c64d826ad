package coalesce

import (
	"errors"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// mutate changes some lines and words of a source; seed 0 leaves it as it is.
func mutate(src string, seed uint64) string {
	if seed == 0 {
		return src
	}
	next := func(n int) int {
		seed += 0x9e3779b97f4a7c15
		z := (seed ^ seed>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return int((z ^ z>>31) % uint64(n))
	}
	lines := strings.SplitAfter(src, "\n")
	word := func(line string) string {
		f := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" ,;[](){}\t\n", r) })
		if len(f) == 0 {
			return ""
		}
		return f[next(len(f))]
	}
	special := []string{"%ctaid.z", "%nctaid.x", "%ctaid", "%smid", "k", "out", "ret", "exit", "bra", "call", "_", "-1", "0xffffffffffffffff",
		".global", ".const", ".param", ".shared", "@%p1", "[%d1+%r1]", "{%r1, %r2}", "heddle_words", "tally", "mov.b64", "cvta.param.u64", ".branchtargets",
		".extern", "tally[1]", "out[%r1]", "ld.volatile.global.u32", "brx.idx", "bar.sync", "{", "}"}
	for n := next(5) + 1; n > 0; n-- {
		i, j := next(len(lines)), next(len(lines))
		switch next(7) {
		case 0:
			lines[i] = ""
		case 1:
			lines[j] += lines[i]
		case 2:
			lines[i], lines[j] = lines[j], lines[i]
		case 3:
			lines[i] = "@%p1 " + lines[i]
		case 4, 5:
			if w := word(lines[i]); w != "" {
				lines[i] = strings.Replace(lines[i], w, special[next(len(special))], 1)
			}
		default:
			if w, x := word(lines[i]), word(lines[j]); w != "" && x != "" {
				lines[i] = strings.Replace(lines[i], w, x, 1)
			}
		}
	}
	return strings.Join(lines, "")
}

// FuzzRewrite: whatever module, each kernel gives a form or a refusal; what is rewritten parses, is the same when rewritten again,
// and can be run if the original can.
func FuzzRewrite(f *testing.F) {
	var seeds []string
	for _, c := range smallCases {
		seeds = append(seeds, c.source())
	}
	for _, c := range refusals {
		if len(c.sources[0]) < 4000 {
			seeds = append(seeds, c.sources[0])
		}
	}
	files := map[string]bool{}
	for _, k := range kernels.All() {
		if !files[k.Source.File] && len(files) < 40 {
			files[k.Source.File] = true
			text := string(k.PTX())
			// The first kernels of a module are enough.
			if len(text) > 8000 {
				if end := strings.Index(text[8000:], "\n}\n"); end >= 0 {
					text = text[:8000+end+3]
				}
			}
			seeds = append(seeds, text)
		}
	}
	for i, s := range seeds {
		for n := range 5 {
			f.Add([]byte(s), uint64(i*100+n)*uint64(min(n, 1)))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, seed uint64) {
		text := mutate(string(src), seed)
		m, err := ptx.Parse([]byte(text))
		if err != nil {
			return
		}
		runnable := map[string]bool{}
		if p, err := interp.LoadModule(m); err == nil {
			for _, e := range p.Entries() {
				runnable[e.Name] = e.Err == nil
			}
		}
		var packed []Kernel
		for _, fn := range m.Funcs {
			if !fn.Entry || len(packed) == 3 {
				continue
			}
			packed = append(packed, Kernel{m, fn.Name})
			for _, mapping := range []Mapping{ByZ, ByTable} {
				check(t, text, []Kernel{{m, fn.Name}}, mapping, runnable[fn.Name])
			}
		}
		if len(packed) > 0 {
			check(t, text, append(packed, packed[0]), ByTable, false)
		}
	})
}

func check(t *testing.T, text string, ks []Kernel, mapping Mapping, runnable bool) {
	spec := Spec{Mapping: mapping, Capacity: 3, ClientGlobals: true}
	form, err := Rewrite(ks, spec)
	if err != nil {
		var r *Refusal
		if !errors.As(err, &r) || r.Code == "" || form != nil {
			t.Errorf("%v is no refusal, for\n%s", err, text)
		}
		return
	}
	again, err := Rewrite(ks, spec)
	if err != nil || again.PTX != form.PTX {
		t.Errorf("rewritten again it differs (%v):\n%s", err, text)
	}
	if _, err := ptx.Parse([]byte(form.PTX)); err != nil {
		t.Errorf("%v in\n%s\nfrom\n%s", err, form.PTX, text)
		return
	}
	if !runnable {
		return
	}
	p, err := interp.Load([]byte(form.PTX))
	if err != nil {
		t.Errorf("%v in\n%s\nfrom\n%s", err, form.PTX, text)
		return
	}
	if e, _ := p.Entry(EntryName); e.Err != nil {
		t.Errorf("%v in\n%s\nfrom\n%s", e.Err, form.PTX, text)
	}
}
