package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// TestCurrent fails when a generated file is not what the source gives.
func TestCurrent(t *testing.T) {
	if err := run(root, []string{"check"}); err != nil {
		t.Fatal(err)
	}
}

// TestCheckFindsStaleFiles generates into an empty tree, edits one file and expects check to name it.
func TestCheckFindsStaleFiles(t *testing.T) {
	dir := t.TempDir()
	source, err := os.ReadFile(filepath.Join(root, sourceFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"shm/c", "shm/layout"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, sourceFile), source, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, nil); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, []string{"check"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{cFile, goFile} {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := run(dir, []string{"check"}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("edited %s: error %v", name, err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(dir, []string{"chekc"}); err == nil {
		t.Error("an unknown command was accepted")
	}
}

// TestHash shows what the layout hash covers: values, members, order and bodies; not comments, Go names, or the order of constants.
func TestHash(t *testing.T) {
	const base = `version = 1
[const]
A = "1"
B = "2"
[enum.type]
X = 1
[body]
X = ["s", ""]
[[struct]]
name = "s"
fields = ["u32 a", "u32 b"]
`
	want, err := parse(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		old, new string
		same     bool
	}{
		{"version = 1", "version = 1 # comment", true},
		{"A = \"1\"\nB = \"2\"", "B = \"2\"\nA = \"1\"", true},
		{"[body]", "[go]\nA = \"First\"\n[body]", true},
		{"version = 1", "version = 2", false},
		{`A = "1"`, `A = "3"`, false},
		{"X = 1", "X = 2", false},
		{`["s", ""]`, `["", "s"]`, false},
		{`"u32 a", "u32 b"`, `"u32 b", "u32 a"`, false},
		{`"u32 a"`, `"i32 a"`, false},
	} {
		text := strings.Replace(base, c.old, c.new, 1)
		got, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if (got.hash == want.hash) != c.same {
			t.Errorf("%q instead of %q: same hash %v; expected %v", c.new, c.old, !c.same, c.same)
		}
	}
}

// TestBadSources expects an error that names the place.
func TestBadSources(t *testing.T) {
	st := func(fields string) string {
		return fmt.Sprintf("version = 1\n[[struct]]\nname = \"s\"\nfields = [%s]\n", fields)
	}
	for _, c := range []struct{ text, want string }{
		{"", "version"},
		{"version = 1\nextra = 2\n", "extra"},
		{"version = 1\n[const]\nA = \"x\"\n", "const A"},
		{st(`"u8 a", "u32 b"`), "not a multiple of 4"},
		{st(`"u32 a", "u8 b"`), "add a pad field"},
		{st(`"u33 a"`), "u33 a"},
		{st(`"u32"`), "u32"},
		{st(`"u32 a", "u32 a"`), "fresh name"},
		{st(`"u8[x] a"`), "array length"},
		{st(`"u8[0] a"`), "array length"},
		{st(""), "0 bytes"},
		{st(`"u32 a"`) + "[[struct]]\nname = \"s\"\nfields = [\"u32 a\"]\n", "twice"},
		{st(`"u32 a"`) + "[enum.type]\nX = 1\n", "body.X"},
		{st(`"u32 a"`) + "[enum.type]\nX = 1\n[body]\nX = [\"t\", \"\"]\n", "body.X"},
		{st(`"u32 a"`) + "[enum.type]\nX = 1\n[body]\nX = [\"s\", \"\"]\nY = [\"\", \"\"]\n", "body.Y"},
		{"version = [", "layout:"},
	} {
		if _, err := parse(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("source %q: error %v; expected one with %q", c.text, err, c.want)
		}
	}
}
