package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
	"github.com/heddle-gpu/heddle/jit/ptx"
)

// mutator changes texts of PTX into others of which ptxas takes a good part.
type mutator struct {
	s       uint64
	opcodes map[string][]string // what the corpus has, by what stands before the first dot
}

var (
	instruction = regexp.MustCompile(`^(\s*)((?:@!?\S+\s+)?)([a-z][a-z0-9]*)((?:\.[A-Za-z0-9_:]+)*)(\s.*)?;$`)
	register    = regexp.MustCompile(`%([a-z]+)\d+\b`)
	integer     = regexp.MustCompile(`(?:, |\+)(\d+)\b`)
)

func newMutator(s uint64, texts [][]byte) *mutator {
	m := &mutator{s: s, opcodes: map[string][]string{}}
	seen := map[string]bool{}
	for _, text := range texts {
		for line := range strings.Lines(string(text)) {
			if f := instruction.FindStringSubmatch(strings.TrimRight(line, "\n")); f != nil && f[4] != "" && !seen[f[3]+f[4]] {
				seen[f[3]+f[4]] = true
				m.opcodes[f[3]] = append(m.opcodes[f[3]], f[4])
			}
		}
	}
	for _, o := range m.opcodes {
		slices.Sort(o)
	}
	return m
}

// next gives a number below n.
func (m *mutator) next(n int) int {
	m.s = mix(m.s)
	return int(m.s % uint64(n))
}

// pick gives one of the places that a pattern's group has in a line; false when there is none.
func (m *mutator) pick(re *regexp.Regexp, line string, group int) ([]int, bool) {
	all := re.FindAllStringSubmatchIndex(line, -1)
	if len(all) == 0 {
		return nil, false
	}
	at := all[m.next(len(all))]
	return at[2*group : 2*group+2], true
}

// mutate makes one to three changes in the instructions of a text.
func (m *mutator) mutate(text string) string {
	lines := strings.SplitAfter(text, "\n")
	var at []int
	byBank := map[string][]string{} // registers by the letters of their names
	for i, line := range lines {
		if instruction.MatchString(strings.TrimRight(line, "\n")) {
			at = append(at, i)
			for _, r := range register.FindAllStringSubmatch(line, -1) {
				if !slices.Contains(byBank[r[1]], r[0]) {
					byBank[r[1]] = append(byBank[r[1]], r[0])
				}
			}
		}
	}
	if len(at) < 2 {
		return text
	}
	for n := 1 + m.next(3); n > 0; n-- {
		k := m.next(len(at) - 1)
		i := at[k]
		line := strings.TrimRight(lines[i], "\n")
		switch m.next(12) {
		case 0:
			line = ""
		case 1: // again elsewhere
			lines[at[m.next(len(at))]] += line + "\n"
		case 2:
			lines[at[k+1]], line = line+"\n", strings.TrimRight(lines[at[k+1]], "\n")
		case 3:
			if p := byBank["p"]; len(p) > 0 && !strings.Contains(line, "@") {
				line = "@" + strings.Repeat("!", m.next(2)) + p[m.next(len(p))] + " " + line
			}
		case 4, 5:
			if r, ok := m.pick(register, line, 0); ok {
				bank := byBank[register.FindStringSubmatch(line[r[0]:r[1]])[1]]
				line = line[:r[0]] + bank[m.next(len(bank))] + line[r[1]:]
			}
		case 6, 7: // the same instruction with other modifiers
			if f := instruction.FindStringSubmatch(line); f != nil && len(m.opcodes[f[3]]) > 0 {
				line = f[1] + f[2] + f[3] + m.opcodes[f[3]][m.next(len(m.opcodes[f[3]]))] + f[5] + ";"
			}
		case 8: // the same number otherwise, or another
			if r, ok := m.pick(integer, line, 1); ok {
				v, err := strconv.ParseUint(line[r[0]:r[1]], 10, 31)
				if err != nil {
					break
				}
				forms := []string{"0x%x", "0X%XU", "0%o", "0b%b", "(%d)", "%dU", "%d+0", "(%d<<1)", "-%d", "~%d", "(%d?1:2)", "!%d", "(%d*2)/2", "(s64)%d"}
				line = line[:r[0]] + fmt.Sprintf(forms[m.next(len(forms))], v) + line[r[1]:]
			}
		case 9: // comments and white space where there is some
			space := []string{" /* a; } \" */ ", "\t\t", " // b; {\n", "\n", " /**/", "\r\n", " /* // */ "}
			line = strings.Replace(line, " ", space[m.next(len(space))], 1+m.next(3))
		case 10:
			line = "{ .reg .b32 mutant<2>; .reg .pred q; " + line + " }"
		case 11:
			line = []string{"MUTANT" + strconv.Itoa(n) + ":", `.pragma "nounroll";`, ";", "$mutant" + strconv.Itoa(n) + ": ;"}[m.next(4)] + " " + line
		}
		lines[i] = line + "\n"
	}
	return strings.Join(lines, "")
}

// only gives a module's text with one of its kernels, and what that may need.
func only(mod *ptx.Module, entry string) string {
	one := mod.Clone()
	drop := func(f *ptx.Func) bool { return f.Entry && f.Name != entry }
	one.Items = slices.DeleteFunc(one.Items, func(i ptx.Item) bool { f, ok := i.(*ptx.Func); return ok && drop(f) })
	one.Funcs = slices.DeleteFunc(one.Funcs, drop)
	return string(one.Bytes())
}

// TestMutants: whatever ptxas takes of the corpus's kernels after random changes is PTX, so it parses; what is printed of it parses,
// prints as the same text and is taken by ptxas; and each mapping gives a refusal, or a form that ptxas takes. By day the
// changes are the same ones every time, unless HEDDLE_SEED chooses others.
func TestMutants(t *testing.T) {
	const arch = "sm_90a"
	s, n := uint64(1), 48
	if nightly || os.Getenv("HEDDLE_SEED") != "" {
		s = seed(t)
	}
	if nightly {
		n = 2000
	}
	as, dir := ptxas(t), t.TempDir()
	var some []kernels.Kernel
	var texts [][]byte
	for _, k := range kernels.All() {
		k, ok := k.For(arch)
		if ok && len(only(module(t, k), k.Name)) < 16000 { // ptxas's time
			some = append(some, k)
		}
		if ok {
			texts = append(texts, k.PTX())
		}
	}
	proto := newMutator(0, texts)
	var taken, forms atomic.Int32
	inParallel(n, func(i int) {
		m := &mutator{s: mix(s*1e6 + uint64(i)), opcodes: proto.opcodes}
		k := some[m.next(len(some))]
		src := m.mutate(only(module(t, k), k.Name))
		made, ok, err := mutant(t.Context(), as, dir, fmt.Sprintf("mutant%d", i), arch, k.Name, src)
		if err != nil {
			t.Errorf("mutant %d of HEDDLE_SEED=%d, kernel %s: %v\n%s", i, s, k.Name, err, src)
		}
		if ok {
			taken.Add(1)
		}
		forms.Add(int32(made))
	})
	t.Logf("%d mutants of %d kernels: ptxas takes %d; %d forms of them", n, len(some), taken.Load(), forms.Load())
	if taken.Load() == 0 || forms.Load() == 0 {
		t.Error("nothing was compared")
	}
}

// mutant checks one text: how many forms were made of it, and whether ptxas takes it.
func mutant(ctx context.Context, as, dir, name, arch, entry, src string) (made int, taken bool, err error) {
	defer func() {
		files, _ := filepath.Glob(filepath.Join(dir, name+".*"))
		for _, f := range files {
			os.Remove(f)
		}
	}()
	mod, err := ptx.Parse([]byte(src))
	if assemble(ctx, as, dir, name, arch, []byte(src)) != nil {
		return 0, false, nil // no PTX: what the parser says of it is its own affair
	}
	if err != nil {
		return 0, true, fmt.Errorf("ptxas takes it, and we do not: %w", err)
	}
	printed := mod.Bytes()
	again, err := ptx.Parse(printed)
	if err != nil {
		return 0, true, fmt.Errorf("printed: %w", err)
	}
	if !bytes.Equal(again.Bytes(), printed) {
		return 0, true, errors.New("printed twice, it differs")
	}
	if err := assemble(ctx, as, dir, name+".printed", arch, printed); err != nil {
		return 0, true, fmt.Errorf("printed: %w", err)
	}
	for _, mapping := range []coalesce.Mapping{coalesce.ByZ, coalesce.ByTable} {
		form, err := coalesce.Rewrite([]coalesce.Kernel{{Module: mod, Entry: entry}}, coalesce.Spec{Mapping: mapping, Capacity: 8, ClientGlobals: true})
		var no *coalesce.Refusal
		if errors.As(err, &no) && slices.Contains(coalesce.Codes, no.Code) {
			continue
		}
		if err != nil {
			return made, true, fmt.Errorf("%s: %w", mapping, err)
		}
		if err := assemble(ctx, as, dir, name+".form", arch, []byte(form.PTX)); err != nil {
			return made, true, fmt.Errorf("%s: %w", mapping, err)
		}
		made++
	}
	return made, true, nil
}
