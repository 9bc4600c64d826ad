package harvest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Bounds of folders.
const (
	// MaxFolder is how many names of one folder are looked at.
	MaxFolder = 1 << 16
	// nonBlocking is O_NONBLOCK of Linux, so that a pipe that took a file's place between two looks holds nobody up.
	nonBlocking = 0x800
)

// folder is a folder whose links cannot lead out of it.
type folder struct {
	root *os.Root
	path string
}

// open opens a folder. fs.ErrNotExist when there is none, or path is "".
func open(path string) (folder, error) {
	if path == "" {
		return folder{}, fs.ErrNotExist
	}
	r, err := os.OpenRoot(path + "/.") // only a folder has that: opening a pipe would wait for ever
	if err != nil {
		return folder{}, err
	}
	return folder{r, path}, nil
}

func (d folder) close() { _ = d.root.Close() }

func (d folder) full(name string) string { return d.path + "/" + name }

// list gives the entries of a folder within d; "." is d itself. More than MaxFolder is TooLarge.
func (d folder) list(name string) ([]fs.DirEntry, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.ReadDir(MaxFolder + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(all) > MaxFolder {
		return nil, missing(TooLarge, "%s holds more than %d files", d.full(name), MaxFolder)
	}
	return all, nil
}

// read reads a regular file of at most limit bytes.
func (d folder) read(name string, limit int64) ([]byte, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file but %v", d.full(name), st.Mode().Type())
	case st.Size() > limit:
		return nil, missing(TooLarge, "%s has %d bytes; at most %d are read", d.full(name), st.Size(), limit)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, missing(TooLarge, "%s grew beyond %d bytes while it was read", d.full(name), limit)
	}
	return b, nil
}
