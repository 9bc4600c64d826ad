package cache

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// DefaultBytes bounds a store's folder unless Options say otherwise.
const DefaultBytes = 1 << 30

const (
	suffix     = ".form"
	tempPrefix = ".new-"
	// staleTemp is the age from which a temporary file belongs to a process that died while it wrote it.
	staleTemp = time.Hour
)

// Options of Open.
type Options struct {
	// Bytes bounds the folder; 0: DefaultBytes. The least recently used entries go first.
	Bytes int64
	// Mine tells whether a file belongs to this process's user. Required: only the caller knows of users.
	Mine func(fs.FileInfo) bool
}

// Store is a folder of entries. Its methods may be called from several goroutines.
type Store struct {
	root  *os.Root
	dir   string
	bytes int64
	mine  func(fs.FileInfo) bool

	hits, misses, bad, evicted atomic.Uint64
}

// Counters of a store since Open.
type Counters struct {
	Hits, Misses uint64
	Bad          uint64 // entries that were passed over because they were not valid, not ours, or open to others
	Evicted      uint64
}

// Open opens the folder, which is made (0700, with its parents) when it is not there. A folder of somebody else's, or one that
// others may enter or write, is an error: its content cannot be believed.
func Open(dir string, o Options) (*Store, error) {
	if o.Mine == nil {
		return nil, errors.New("cache: Options.Mine is nil")
	}
	if o.Bytes <= 0 {
		o.Bytes = DefaultBytes
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	fi, err := root.Stat(".")
	if err == nil && (!o.Mine(fi) || fi.Mode().Perm()&0o077 != 0) {
		err = fmt.Errorf("%s has mode %v or another owner; expected a folder of this user's own with mode 0700 "+
			"(chmod 700, or set HEDDLE_CACHE_DIR)", dir, fi.Mode().Perm())
	}
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("cache: %w", err)
	}
	return &Store{root: root, dir: dir, bytes: o.Bytes, mine: o.Mine}, nil
}

// Close gives the folder back.
func (s *Store) Close() error { return s.root.Close() }

// Dir is the folder's name.
func (s *Store) Dir() string { return s.dir }

// Counters since Open.
func (s *Store) Counters() Counters {
	return Counters{Hits: s.hits.Load(), Misses: s.misses.Load(), Bad: s.bad.Load(), Evicted: s.evicted.Load()}
}

// Get gives an entry's content. An entry that cannot be believed is a miss, and removed when it is ours.
func (s *Store) Get(k Key) (meta, payload []byte, ok bool) {
	name := k.String() + suffix
	b, err := s.read(name)
	if err == nil {
		meta, payload, err = Decode(k, b)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.bad.Add(1)
			if fi, err := s.root.Lstat(name); err == nil && s.mine(fi) {
				_ = s.root.Remove(name)
			}
		}
		s.misses.Add(1)
		return nil, nil, false
	}
	s.hits.Add(1)
	now := time.Now()
	_ = s.root.Chtimes(name, now, now) // what was used last goes last
	return meta, payload, true
}

// read gives the bytes of a plain file of our own that nobody else can open.
func (s *Store) read(name string) ([]byte, error) {
	fi, err := s.root.Lstat(name) // before opening: opening a pipe could wait for ever
	if err == nil {
		err = s.plain(fi)
	}
	if err != nil {
		return nil, err
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !os.SameFile(fi, opened) { // replaced by rename in between: what counts is what was opened
		if err := s.plain(opened); err != nil {
			return nil, err
		}
	}
	b := make([]byte, opened.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return b, nil
}

func (s *Store) plain(fi fs.FileInfo) error {
	switch {
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%w: %v is no plain file", ErrEntry, fi.Mode())
	case !s.mine(fi):
		return fmt.Errorf("%w: it belongs to another user", ErrEntry)
	case fi.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: mode %v lets others in", ErrEntry, fi.Mode().Perm())
	case fi.Size() > MaxEntry:
		return fmt.Errorf("%w: %d bytes; at most %d", ErrEntry, fi.Size(), MaxEntry)
	}
	return nil
}

// Put keeps an entry, replacing one of the same key, and then removes what was used longest ago until the folder fits its bound.
func (s *Store) Put(k Key, meta, payload []byte) error {
	b, err := Encode(k, meta, payload)
	if err != nil {
		return err
	}
	if int64(len(b)) > s.bytes {
		return fmt.Errorf("cache: an entry of %d bytes; the folder may hold %d", len(b), s.bytes)
	}
	var random [12]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	temp := tempPrefix + hex.EncodeToString(random[:])
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	_, err = f.Write(b)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = s.root.Rename(temp, k.String()+suffix)
	}
	if err != nil {
		_ = s.root.Remove(temp)
		return fmt.Errorf("cache: %w", err)
	}
	s.trim(k.String() + suffix)
	return nil
}

// trim removes the least recently used entries, all but keep, until the rest fits, and what dead writers left.
func (s *Store) trim(keep string) {
	d, err := s.root.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	type file struct {
		name  string
		bytes int64
		used  time.Time
	}
	var all []file
	var total int64
	for {
		entries, err := d.ReadDir(256)
		for _, e := range entries {
			fi, err := e.Info()
			if err != nil || !fi.Mode().IsRegular() || !s.mine(fi) {
				continue
			}
			switch name := e.Name(); {
			case strings.HasPrefix(name, tempPrefix):
				if time.Since(fi.ModTime()) > staleTemp {
					_ = s.root.Remove(name)
				}
			case strings.HasSuffix(name, suffix):
				total += fi.Size()
				if name != keep {
					all = append(all, file{name, fi.Size(), fi.ModTime()})
				}
			}
		}
		if err != nil {
			break
		}
	}
	slices.SortFunc(all, func(a, b file) int { return a.used.Compare(b.used) })
	for _, f := range all {
		if total <= s.bytes {
			return
		}
		if err := s.root.Remove(f.name); err == nil {
			s.evicted.Add(1)
		}
		total -= f.bytes // gone, by us or by another process that trims
	}
}
