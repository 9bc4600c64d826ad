package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor"
)

// numbaPython is the interpreter of the environment that tools/deps/numba.sh makes.
func numbaPython(t testing.TB) string {
	t.Helper()
	python, err := filepath.Abs("../../.deps/numba/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v; make it with: tools/deps/numba.sh", err)
	}
	return python
}

// runNumba runs clients/numba_program.py, a program that drives the driver API
// from Python: it finds every entry point by cuGetProcAddress, links its PTX by
// cuLink, and launches by cuLaunchKernelEx.
func (b *bed) runNumba(python string, heddle bool, extra ...string) result {
	b.t.Helper()
	program, err := filepath.Abs("clients/numba_program.py")
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	cmd := b.command(ctx, heddle, python, extra...)
	cmd.Args = append(cmd.Args, program)
	return finish(ctx, cmd)
}

// TestNumba: what numba-cuda computes natively it computes under Heddle, alone
// and beside others of its kind, and its launches are the executor's.
func TestNumba(t *testing.T) {
	python := numbaPython(t)
	b := newBed(t)
	seeds := []string{seeded(0), seeded(1), seeded(2)}
	native := make([]result, len(seeds))
	for i, s := range seeds {
		native[i] = b.runNumba(python, false, s)
		if native[i].code != 0 || !strings.HasPrefix(native[i].out, "numba ") {
			t.Fatalf("natively, %s: exit code %d\n%s%s", s, native[i].code, native[i].out, native[i].err)
		}
	}
	if native[0].out == native[1].out {
		t.Fatalf("two seeds, one digest: %s", native[0].out)
	}
	b.startDaemon()
	check := func(i int, r result) {
		t.Helper()
		if r.code != 0 || r.out != native[i].out {
			t.Errorf("%s: exit code %d\nunder Heddle: %snatively: %sstderr:\n%s", seeds[i], r.code, r.out, native[i].out, r.err)
		}
	}
	alone := b.runNumba(python, true, seeds[0], "HEDDLE_LOG=stats")
	check(0, alone)
	if !strings.Contains(alone.err, "native calls by reason: none") {
		t.Errorf("some calls ran natively:\n%s", alone.err)
	}
	// 3 rounds of 4 kernels, and the transposition.
	st, err := b.status()
	if err != nil || len(st.Executors) != 1 {
		t.Fatalf("executors: %+v, %v", st.Executors, err)
	}
	var counters executor.Stats
	if err := json.Unmarshal(st.Executors[0].Counters, &counters); err != nil {
		t.Fatal(err)
	}
	if n := counters.Launches; n != 3*4+1 {
		t.Errorf("the executor issued %d launches, the program makes %d", n, 3*4+1)
	}
	var wg sync.WaitGroup
	together := make([]result, len(seeds))
	for i, s := range seeds {
		wg.Go(func() { together[i] = b.runNumba(python, true, s) })
	}
	wg.Wait()
	for i, r := range together {
		check(i, r)
	}
}
