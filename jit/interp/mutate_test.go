package interp_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// pool cuts the corpus into modules of one kernel, and collects its tokens.
func pool() (mods []string, words []string) {
	seen := map[string]bool{}
	files := map[string]bool{}
	for _, k := range kernels.All() {
		if files[k.File] {
			continue
		}
		files[k.File] = true
		text := string(k.PTX())
		for _, part := range strings.Split(text, ".visible .entry")[1:] {
			body, _, _ := strings.Cut(part, "\n}\n")
			if len(body) < 6000 && !strings.Contains(body, "call") {
				mods = append(mods, head+".visible .entry"+body+"\n}\n")
			}
		}
		for _, w := range strings.Fields(text) {
			w = strings.Trim(w, ",;[](){}")
			if w != "" && !seen[w] && len(w) < 40 && len(words) < 3000 {
				seen[w] = true
				words = append(words, w)
			}
		}
	}
	for _, name := range []string{"vadd", "softmax", "layernorm", "gemm_f16_64"} {
		if b, err := os.ReadFile("kernels/triton/triton_" + name + ".sm_90a.ptx"); err == nil {
			text, _, _ := strings.Cut(string(b), "\n}\n") // without the debug sections
			mods = append(mods, text+"\n}\n")
		}
	}
	mods = append(mods, single()...)
	for _, h := range hostile {
		mods = append(mods, h.src)
	}
	words = append(words, "-1", "0xffffffffffffffff", "_", "{%r1,%r2}", "[%rd1+4]", "0f7FC00000", "!%p1", "%tid", "WARP_SZ", "generic(x)", "%r1|%p1",
		"bar.sync", "shfl.sync.idx.b32", "call", "vote.sync.ballot.b32", "atom.global.cas.b32", "alloca.u64", "brx.idx", "cp.async.ca.shared.global",
		"barrier.cluster.arrive", "barrier.cluster.wait", "mapa.u64", "cvta.shared.u64", "st.param.b32", "ld.param.b64", "st.local.b32", "exit", "ret", "trap",
		"mbarrier.init.shared.b64", "mbarrier.arrive.shared.b64", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
		"{%r1,%r2,%r3,%r4}", "bar.arrive", "stackrestore.u64", "@%p2", ".reg .v4 .f32 v;", "red.global.add.noftz.f16x2")
	return mods, words
}

// single gives a module for each instruction of the parser's ISA corpus, with nothing else in the body: an instruction
// that the interpreter lacks stands in nobody's way.
func single() (mods []string) {
	files, _ := filepath.Glob("../ptx/testdata/isa/*.ptx")
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		m, err := ptx.Parse(src)
		if err != nil {
			continue
		}
		n := 0
		for _, fn := range m.Funcs {
			ptx.Walk(fn.Body, func(*ptx.Inst) bool { n++; return true })
		}
		for i := range n {
			one, k := m.Clone(), 0
			for _, fn := range one.Funcs {
				fn.Body = ptx.Rewrite(fn.Body, func(s ptx.Stmt) []ptx.Stmt {
					if _, ok := s.(*ptx.Inst); ok {
						if k++; k-1 != i {
							return nil
						}
					}
					return []ptx.Stmt{s}
				})
			}
			mods = append(mods, string(one.Bytes()))
		}
	}
	return mods
}

// mutate changes some tokens of a module.
func mutate(mods, words []string, seed uint64) string {
	next := func(n int) int {
		seed += 0x9e3779b97f4a7c15
		z := (seed ^ seed>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return int((z ^ z>>31) % uint64(n))
	}
	lines := strings.SplitAfter(mods[next(len(mods))], "\n")
	for k := next(6) + 1; k > 0; k-- {
		i := next(len(lines))
		switch next(7) {
		case 0: // drop a line
			lines[i] = ""
		case 1: // repeat one elsewhere
			j := next(len(lines))
			lines[j] += lines[i]
		case 2:
			j := next(len(lines))
			lines[i], lines[j] = lines[j], lines[i]
		case 3: // guard it
			lines[i] = "@%p1 " + lines[i]
		default: // replace a word
			f := strings.FieldsFunc(lines[i], func(r rune) bool { return strings.ContainsRune(" ,;[]\t\n", r) })
			if len(f) > 0 {
				lines[i] = strings.Replace(lines[i], f[next(len(f))], words[next(len(words))], 1)
			}
		}
	}
	return strings.Join(lines, "")
}

// FuzzMutated runs modules that are nearly right: they get further than random
// bytes do.
func FuzzMutated(f *testing.F) {
	mods, words := pool()
	for i := uint64(0); i < 300; i++ {
		f.Add(i)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		src := mutate(mods, words, seed*7919)
		defer func() {
			if t.Failed() {
				t.Logf("module:\n%s", src)
			}
		}()
		fuzzLaunch(t, []byte(src), seed)
	})
}
