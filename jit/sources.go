// Package jit says which version of the rewriting a program holds.
package jit

import (
	"crypto/sha256"
	"embed"
	"io/fs"
	"strings"
	"sync"
)

// sources are those of the packages on which a rewritten kernel depends. controlplane/compiler's test checks that none is missing.
//
//go:embed coalesce/*.go exact/*.go harvest/*.go image/*.go ptx/*.go
var sources embed.FS

// Sources gives the files of sources.
func Sources() fs.FS { return sources }

// Version is a hash of Sources: it changes with the rewriting and nothing else.
var Version = sync.OnceValue(func() [sha256.Size]byte { return HashSources(sources) })

// HashSources hashes names and contents of the files in a file system, Go's tests apart.
func HashSources(files fs.FS) [sha256.Size]byte {
	h := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		h.Write([]byte(path + "\x00"))
		h.Write(sum[:])
		return nil
	})
	if err != nil {
		panic("BUG: sources within the program cannot be read: " + err.Error())
	}
	return [sha256.Size]byte(h.Sum(nil))
}
