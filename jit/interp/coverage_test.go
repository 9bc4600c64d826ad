package interp

import (
	"flag"
	"os"
	"testing"
)

//go:generate go test -run ^TestCoverage$ -update
var update = flag.Bool("update", false, "write docs/ptx-coverage.md")

// TestCoverage keeps docs/ptx-coverage.md equal to the decode table.
func TestCoverage(t *testing.T) {
	const path = "../../docs/ptx-coverage.md"
	want := Coverage()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != want {
		t.Fatalf("%s is out of date (%v): run go test ./jit/interp -run TestCoverage -update", path, err)
	}
	for op, o := range opTable {
		if o.family == "" || o.decode == nil {
			t.Errorf("opcode %s lacks family or decoder", op)
		}
	}
}
