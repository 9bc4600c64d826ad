package harvest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A pipe where a folder is expected holds nobody up: clients choose the names that are looked at.
func TestPipesInFoldersPlace(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for what, look := range map[string]func() error{
		"open": func() error { _, err := open(filepath.Join(dir, "pipe")); return err },
		"list": func() error { _, err := d.list("pipe"); return err },
	} {
		done := make(chan error, 1)
		go func() { done <- look() }()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s took a pipe for a folder", what)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s waits for somebody to write into the pipe", what)
			if f, err := os.OpenFile(filepath.Join(dir, "pipe"), os.O_RDWR, 0); err == nil { // lets it go
				defer f.Close()
			}
		}
	}
}
