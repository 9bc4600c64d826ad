package ptx

import (
	"bytes"
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAssemble: ptxas makes the same machine code of a source and of what we print
// for it. Every file of testdata/isa is taken (they hold the statement and operand
// forms of the ISA's chapters; that ptxas takes them says that they are PTX), and a
// part of the corpus that changes with the day; HEDDLE_NIGHTLY=1 takes all of it.
// HEDDLE_SEED repeats another day's choice.
func TestAssemble(t *testing.T) {
	ptxas, err := filepath.Abs("../../.deps/cuda/nvidia/cu13/bin/ptxas")
	if err == nil {
		_, err = os.Stat(ptxas)
	}
	if err != nil {
		t.Fatalf("%v: run tools/deps/fetch.sh cuda", err)
	}
	isa, corpus := glob(t, "testdata/isa/*.ptx"), glob(t, "../interp/kernels/ptx/*.ptx", "../interp/kernels/triton/*.ptx")
	if os.Getenv("HEDDLE_NIGHTLY") == "" {
		const few = 12
		seed := time.Now().Unix() / 86400
		if v := os.Getenv("HEDDLE_SEED"); v != "" {
			if seed, err = strconv.ParseInt(v, 10, 64); err != nil {
				t.Fatalf("HEDDLE_SEED: %v", err)
			}
		}
		step := len(corpus)/few + 1
		var some []string
		for i := int(uint64(seed) % uint64(step)); i < len(corpus); i += step {
			some = append(some, corpus[i])
		}
		t.Logf("HEDDLE_SEED=%d: %d of %d corpus files", seed, len(some), len(corpus))
		corpus = some
	}
	files := append(isa, corpus...)
	dir := t.TempDir()
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				if err := sameCode(t, ptxas, filepath.Join(dir, strconv.Itoa(i)), files[i], i < len(isa)); err != nil {
					t.Errorf("%s: %v", files[i], err)
				}
			}
		})
	}
	for i := range files {
		next <- i
	}
	close(next)
	wg.Wait()
}

func glob(t testing.TB, patterns ...string) []string {
	var out []string
	for _, p := range patterns {
		files, err := filepath.Glob(p)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", p, len(files), err)
		}
		out = append(out, files...)
	}
	return out
}

// sameCode assembles a file and its printed form, and compares what the GPU would see.
func sameCode(t *testing.T, ptxas, stem, file string, isa bool) error {
	src, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	m, err := Parse(src)
	if err != nil {
		return err
	}
	arch := m.Target[0]
	args := []string{"-arch", arch}
	if isa { // nothing is optimised away
		args = append(args, "-O0")
	}
	if _, extra, ok := strings.Cut(string(src), "// ptxas: "); ok {
		extra, _, _ = strings.Cut(extra, "\n")
		args = append(args, strings.Fields(extra)...)
	}
	texts := [2][]byte{src, m.Bytes()}
	if m.Major == 9 { // Triton brings an assembler of its own, newer than ours
		version := fmt.Sprintf(".version %d.%d\n", m.Major, m.Minor)
		for i := range texts {
			texts[i] = bytes.Replace(texts[i], []byte(version), []byte(".version 9.0\n"), 1)
		}
	}
	// ptxas has been seen to make different code of one source (on sm_100a, with the
	// same file): so what differs is assembled again.
	var seen [2][]map[string][]byte
	for try := 0; ; try++ {
		for i, text := range texts {
			in, out := fmt.Sprintf("%s.%d.ptx", stem, i), fmt.Sprintf("%s.%d.cubin", stem, i)
			if err := os.WriteFile(in, text, 0o644); err != nil {
				return err
			}
			if msg, err := exec.CommandContext(t.Context(), ptxas, append(args, in, "-o", out)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ptxas %s takes not %s: %w\n%s", strings.Join(args, " "), [2]string{"the source", "what we print"}[i], err, clipTo(string(msg), 1500))
			}
			code, err := sections(out)
			if err != nil {
				return err
			}
			if len(code) == 0 {
				return fmt.Errorf("no code or data in the cubin: nothing was compared")
			}
			seen[i] = append(seen[i], code)
		}
		for _, a := range seen[0] {
			for _, b := range seen[1] {
				if maps.EqualFunc(a, b, bytes.Equal) {
					return nil
				}
			}
		}
		if try == 4 {
			break
		}
	}
	for name, a := range seen[0][0] {
		if b, ok := seen[1][0][name]; !ok || !bytes.Equal(a, b) {
			return fmt.Errorf("section %s has %d bytes assembled from the source, and differs assembled from what we print (%d bytes)", name, len(a), len(b))
		}
	}
	return fmt.Errorf("%d sections assembled from the source, %d from what we print", len(seen[0][0]), len(seen[1][0]))
}

// sections reads what matters of a cubin: code, constants, initial values, the
// sizes of shared and zeroed memory, parameters and registers (.nv.info).
func sections(cubin string) (map[string][]byte, error) {
	f, err := elf.Open(cubin)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string][]byte{}
	for _, s := range f.Sections {
		for _, prefix := range []string{".text", ".nv.constant", ".nv.global", ".nv.shared", ".nv.local", ".nv.info", ".rel"} {
			if !strings.HasPrefix(s.Name, prefix) || strings.Contains(s.Name, "debug") {
				continue
			}
			if s.Type == elf.SHT_NOBITS {
				out[s.Name] = strconv.AppendUint(nil, s.Size, 10)
			} else if out[s.Name], err = s.Data(); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
