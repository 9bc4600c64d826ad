package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	include   = "../../.deps/cuda/nvidia/cu13/include"
	tablePath = "../../interposer/src/hooks/table.toml"
	out       = "../../interposer/src/hooks"
)

// The generated files are checked in: the library builds without Go. They must be what header and table give today.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	if err := run(include, tablePath, out, true); err != nil {
		t.Fatal(err)
	}
}

func TestCheckSeesADifference(t *testing.T) {
	dir := t.TempDir()
	if err := run(include, tablePath, dir, false); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "table_gen.c")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), "cuInit", "cuExit", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(include, tablePath, dir, true); err == nil || !strings.Contains(err.Error(), "table_gen.c") {
		t.Fatalf("got %v, want an error that names table_gen.c", err)
	}
}

func TestMissingHeaderSaysWhatToDo(t *testing.T) {
	err := run(t.TempDir(), tablePath, t.TempDir(), false)
	if err == nil || !strings.Contains(err.Error(), "tools/deps/fetch.sh cuda") {
		t.Fatalf("got %v", err)
	}
}
