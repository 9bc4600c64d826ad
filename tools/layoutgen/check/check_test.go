package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFindsDifferences gives check a header that differs from the Go side: in the hash, in an offset, in a size.
func TestFindsDifferences(t *testing.T) {
	const root = "../../.."
	header, err := os.ReadFile(filepath.Join(root, headers, "heddle_wire.h"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"", "", ""},
		{"#define HEDDLE_WIRE_LAYOUT_HASH UINT64_C(0x", "#define HEDDLE_WIRE_LAYOUT_HASH UINT64_C(0xf0 ^ 0x", "hash"},
		{"struct heddle_wire_dep {\n  uint32_t lane;\n  uint32_t value;", "struct heddle_wire_dep {\n  uint32_t value;\n  uint32_t lane;", "dep.lane, dep.value"},
		{"struct heddle_wire_elapsed {\n", "struct heddle_wire_elapsed {\n  uint64_t more;\n", "elapsed, elapsed.start"},
		{"struct heddle_wire_fault {", "struct heddle_wire_blame {", "cc"},
	} {
		text := strings.Replace(string(header), c.old, c.new, 1)
		if c.old != "" && text == string(header) {
			t.Fatalf("%q is not in the header", c.old)
		}
		// The header's own assertions would stop the compiler first.
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			if c.old != "" && strings.HasPrefix(line, "_Static_assert") {
				lines[i] = ""
			}
		}
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, headers), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, headers, "heddle_wire.h"), []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		err := offsets(io.Discard, dir, "cc")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: error %v; expected one with %q", c.new, err, c.want)
		}
	}
}
