package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func mine(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}

func open(t testing.TB, dir string, limit int64) *Store {
	t.Helper()
	s, err := Open(dir, Options{Bytes: limit, Mine: mine})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// folder is one as Open would make it.
func folder(t testing.TB) string { return filepath.Join(t.TempDir(), "forms") }

func key(i int) Key { return KeyOf(fmt.Append(nil, i)) }

func file(s *Store, k Key) string { return filepath.Join(s.Dir(), k.String()+suffix) }

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "forms")
	s := open(t, dir, 0)
	if _, _, ok := s.Get(key(1)); ok {
		t.Error("an empty store has an entry")
	}
	for _, c := range []struct{ meta, payload string }{{"", ""}, {"{}", "cubin"}, {strings.Repeat("m", 1000), strings.Repeat("p", 100000)}} {
		if err := s.Put(key(1), []byte(c.meta), []byte(c.payload)); err != nil {
			t.Fatal(err)
		}
		m, p, ok := open(t, dir, 0).Get(key(1))
		if !ok || string(m) != c.meta || string(p) != c.payload {
			t.Errorf("%v: got %d and %d bytes; want %d and %d", ok, len(m), len(p), len(c.meta), len(c.payload))
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the folder has %v, %v; want 0700", fi.Mode(), err)
	}
	if fi, err := os.Stat(file(s, key(1))); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the entry has %v, %v; want 0600", fi.Mode(), err)
	}
	if c := s.Counters(); c.Misses != 1 || c.Bad != 0 {
		t.Errorf("%+v; want one miss", c)
	}
	if err := s.Put(key(2), make([]byte, MaxMeta+1), nil); err == nil {
		t.Error("metadata beyond the bound is kept")
	}
}

func TestFieldsOfAKeyKeepApart(t *testing.T) {
	if KeyOf([]byte("ab"), []byte("c")) == KeyOf([]byte("a"), []byte("bc")) || KeyOf() == KeyOf(nil) {
		t.Error("two lists of fields have one key")
	}
}

// Every byte of an entry counts: one that differs anywhere is no entry, nor is one that is shorter or longer.
func TestCorruption(t *testing.T) {
	s := open(t, folder(t), 0)
	k := key(7)
	good, err := Encode(k, []byte(`{"a":1}`), []byte("some machine code"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := [][]byte{nil, append(bytes.Clone(good), 0)}
	for i := range good {
		for _, flip := range []byte{1, 0x80, 0xff} {
			b := bytes.Clone(good)
			b[i] ^= flip
			damaged = append(damaged, b)
		}
		damaged = append(damaged, good[:i])
	}
	for i, b := range damaged {
		if err := os.WriteFile(file(s, k), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := s.Get(k); ok {
			t.Fatalf("damage %d of %d was not noticed", i, len(damaged))
		}
		if _, err := os.Lstat(file(s, k)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("damage %d: the entry is still there (%v)", i, err)
		}
	}
	if got := s.Counters().Bad; got != uint64(len(damaged)) {
		t.Errorf("%d bad entries counted; want %d", got, len(damaged))
	}
}

func TestForeignEntries(t *testing.T) {
	dir := t.TempDir()
	k := key(3)
	good, _ := Encode(k, nil, []byte("code"))
	plant := map[string]func(path string) error{
		"open to a group": func(p string) error { return errors.Join(os.WriteFile(p, good, 0o600), os.Chmod(p, 0o640)) },
		"open to all":     func(p string) error { return errors.Join(os.WriteFile(p, good, 0o600), os.Chmod(p, 0o602)) },
		"a link": func(p string) error {
			to := filepath.Join(dir, "elsewhere")
			return errors.Join(os.WriteFile(to, good, 0o600), os.Symlink(to, p))
		},
		"a pipe":           func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"a folder":         func(p string) error { return os.Mkdir(p, 0o700) },
		"another key's":    func(p string) error { b, _ := Encode(key(4), nil, []byte("code")); return os.WriteFile(p, b, 0o600) },
		"larger than any":  func(p string) error { return errors.Join(os.WriteFile(p, good, 0o600), os.Truncate(p, 1<<40)) },
		"another format's": func(p string) error { return os.WriteFile(p, []byte("\x7fELF and so on"), 0o600) },
	}
	for name, f := range plant {
		s := open(t, filepath.Join(dir, "forms"), 0)
		_ = os.Remove(file(s, k))
		if err := f(file(s, k)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, _, ok := s.Get(k); ok {
			t.Errorf("%s: believed", name)
		}
		if _, err := os.Lstat(file(s, k)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: not removed (%v)", name, err)
		}
		if err := s.Put(k, nil, []byte("code")); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _, p, ok := s.Get(k); !ok || string(p) != "code" {
			t.Errorf("%s: the place is not usable afterwards", name)
		}
	}
	// Somebody else's: passed over, and left alone.
	s, err := Open(filepath.Join(dir, "forms"), Options{Mine: func(fi fs.FileInfo) bool { return fi.IsDir() }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, ok := s.Get(k); ok {
		t.Error("another user's entry is believed")
	}
	if _, err := os.Lstat(file(s, k)); err != nil {
		t.Errorf("another user's entry is gone: %v", err)
	}
}

func TestFolderMustBeOurs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Mine: mine}); err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("a folder open to a group: %v; want an error that says 0700", err)
	}
	if _, err := Open(t.TempDir(), Options{Mine: func(fs.FileInfo) bool { return false }}); err == nil {
		t.Error("somebody else's folder is taken")
	}
	if _, err := Open("/dev/null/forms", Options{Mine: mine}); err == nil {
		t.Error("a folder that cannot be made is taken")
	}
}

func TestEviction(t *testing.T) {
	const n, size = 10, 1000
	s := open(t, folder(t), 5*(size+headBytes+32))
	for i := range n {
		if err := s.Put(key(i), nil, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1e9+i), 0)
		if err := os.Chtimes(file(s, key(i)), at, at); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			if _, _, ok := s.Get(key(0)); !ok { // used again: it stays
				t.Fatal("entry 0 is gone while there is room")
			}
		}
	}
	for i := range n {
		_, err := os.Stat(file(s, key(i)))
		if want := i == 0 || i >= 6; (err == nil) != want {
			t.Errorf("entry %d: %v; present must be %v", i, err, want)
		}
	}
	if got := s.Counters().Evicted; got != 5 {
		t.Errorf("%d evicted; want 5", got)
	}
	if err := s.Put(key(99), nil, make([]byte, 100*size)); err == nil {
		t.Error("an entry larger than the store is kept")
	}
	old := filepath.Join(s.Dir(), tempPrefix+"dead")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-2 * staleTemp)
	if err := errors.Join(os.Chtimes(old, past, past), s.Put(key(1), nil, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("what a dead writer left is still there")
	}
}

const childEnv = "HEDDLE_TEST_CACHE"

// Several processes read, write and evict in one folder at once: an entry is whole or absent.
func TestProcesses(t *testing.T) {
	dir := os.Getenv(childEnv)
	const keys = 20
	content := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 2000+i) }
	work := func(t *testing.T, dir string, rounds int) {
		s := open(t, dir, 15*2100)
		for n := range rounds {
			i := (n*7 + os.Getpid()) % keys
			if err := s.Put(key(i), nil, content(i)); err != nil {
				t.Fatal(err)
			}
			i = (n * 3) % keys
			if _, p, ok := s.Get(key(i)); ok && !bytes.Equal(p, content(i)) {
				t.Fatalf("entry %d has another's content", i)
			}
		}
		if c := s.Counters(); c.Bad > 0 {
			t.Errorf("%d entries were not valid; want none: they are written whole", c.Bad)
		}
	}
	if dir != "" {
		work(t, dir, 300)
		return
	}
	dir = folder(t)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestProcesses$")
			cmd.Env = append(os.Environ(), childEnv+"="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	work(t, dir, 300)
	all.Wait()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			t.Errorf("%s was left", e.Name())
		}
	}
	if len(left) > 16 {
		t.Errorf("%d entries are left; the bound is 15", len(left))
	}
}

func FuzzDecode(f *testing.F) {
	k := key(1)
	good, _ := Encode(k, []byte("{}"), []byte("code"))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		meta, payload, err := Decode(k, b)
		if err != nil {
			if !errors.Is(err, ErrEntry) {
				t.Errorf("%v does not wrap ErrEntry", err)
			}
			return
		}
		if again, err := Encode(k, meta, payload); err != nil || !bytes.Equal(again, b) {
			t.Errorf("an entry that was taken is not what Encode makes of its content: %v", err)
		}
	})
}
