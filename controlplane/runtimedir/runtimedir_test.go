package runtimedir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPrepareRefusesFoldersOthersCanWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Prepare(dir); err != nil {
		t.Fatalf("a private folder: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := Prepare(dir); err == nil || !strings.Contains(err.Error(), "writable by others") {
		t.Fatalf("a world-writable folder: %v", err)
	}
}

func TestPrepareRefusesLinksLongAndRelativePaths(t *testing.T) {
	base := t.TempDir()
	link := filepath.Join(base, "link")
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{link, "relative", filepath.Join(base, strings.Repeat("x", 120))} {
		if err := Prepare(dir); err == nil {
			t.Errorf("%s: accepted", dir)
		}
	}
}

func TestOwnPrefersTheExplicitFolder(t *testing.T) {
	t.Setenv("HEDDLE_RUNTIME_DIR", "/somewhere")
	if got := Own(); got != "/somewhere" {
		t.Fatal(got)
	}
	if got := Find(); got != "/somewhere" {
		t.Fatal(got)
	}
	t.Setenv("HEDDLE_RUNTIME_DIR", "")
	xdg := t.TempDir()
	if err := os.Chmod(xdg, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", xdg)
	if got := Own(); got != filepath.Join(xdg, "heddle") {
		t.Fatal(got)
	}
}
