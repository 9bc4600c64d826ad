package policy

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestWatch changes files in every way that they are changed in, from a folder that does not exist on.
func TestWatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc", "heddle")
	path := filepath.Join(dir, "policy.toml")
	ctx, cancel := context.WithCancel(t.Context())
	from := Signature(path)
	seen := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, path, from, func() { seen <- struct{}{} }) }()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for name, change := range []func(){
		func() { must(os.MkdirAll(dir, 0o755)); must(os.WriteFile(path, []byte("1"), 0o644)) },
		func() { must(os.WriteFile(path, []byte("2"), 0o644)) },
		func() { must(os.WriteFile(path+".new", []byte("3"), 0o644)); must(os.Rename(path+".new", path)) },
		func() {
			must(os.Mkdir(DropIns(path), 0o755))
			must(os.WriteFile(filepath.Join(DropIns(path), "a.toml"), []byte("4"), 0o644))
		},
		func() { must(os.WriteFile(filepath.Join(DropIns(path), "a.toml"), []byte("5"), 0o644)) },
		func() { must(os.Remove(filepath.Join(DropIns(path), "a.toml"))) },
		func() { must(os.Remove(path)) },
	} {
		change()
		want := Signature(path)
		for deadline := time.After(10 * time.Second); ; {
			select {
			case <-seen:
				n++
			case err := <-done:
				t.Fatalf("change %d: Watch ended: %v", name, err)
			case <-deadline:
				t.Fatalf("change %d was not noticed", name)
			}
			// A change in two steps may be told twice; what counts is that the last is told.
			if Signature(path) == want && len(seen) == 0 {
				break
			}
		}
	}
	if n < 7 {
		t.Errorf("%d changes told, 7 made", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
