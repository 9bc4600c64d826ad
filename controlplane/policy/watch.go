package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long the files must be quiet before they are read: editors and package managers write in several steps.
const settle = 20 * time.Millisecond

// Watch calls changed whenever the policy's files differ from what they were at last (their Signature, taken before they were
// loaded), until ctx ends. It watches the file's folder, the drop-in folder, and the folders that they would be made in. Folders are
// watched, not files, because files are replaced by renaming (and Kubernetes switches a link).
func Watch(ctx context.Context, path string, last [32]byte, changed func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("policy: inotify: %w; changes are read with: heddle policy apply", err)
	}
	f := os.NewFile(uintptr(fd), "inotify") // non-blocking: reads end when it is closed
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	defer f.Close()
	buf := make([]byte, 64<<10)
	for {
		if err := watchFolders(f, path); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		// What changed before the watches were in place, or while the last change was served.
		if now := Signature(path); now != last {
			last = now
			changed()
			continue
		}
		_, err := f.Read(buf)
		for quiet := err != nil; !quiet; { // drain until nothing comes for a while
			if err = f.SetReadDeadline(time.Now().Add(settle)); err != nil {
				break
			}
			_, readErr := f.Read(buf)
			quiet = readErr != nil
		}
		if err == nil {
			err = f.SetReadDeadline(time.Time{})
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("policy: inotify: %w", err)
		}
	}
}

// watchFolders adds what exists; adding what is watched already changes nothing. A folder that is missing is waited for in the
// nearest one above it that exists. f may be closed meanwhile: its number is then not used, which may be another file's by then.
func watchFolders(f *os.File, path string) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("policy: inotify: %w", err)
	}
	const mask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_CREATE | unix.IN_ATTRIB | unix.IN_ONLYDIR
	for _, dir := range []string{filepath.Dir(path), DropIns(path)} {
		for {
			if closed := conn.Control(func(fd uintptr) { _, err = unix.InotifyAddWatch(int(fd), dir, mask) }); closed != nil {
				err = closed
			}
			if err == nil {
				break
			}
			up := filepath.Dir(dir)
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) || up == dir {
				return fmt.Errorf("policy: watching %s: %w; changes are read with: heddle policy apply", dir, err)
			}
			dir = up
		}
	}
	return nil
}

// Signature changes whenever the content that Load would read does.
func Signature(path string) [32]byte {
	h := sha256.New()
	add := func(name string) {
		text, err := ReadFile(name, MaxFileBytes)
		fmt.Fprintf(h, "%q %q %v\n", name, text, err)
	}
	add(path)
	entries, err := os.ReadDir(DropIns(path))
	fmt.Fprintln(h, err)
	for i, e := range entries {
		if i < MaxFiles {
			add(filepath.Join(DropIns(path), e.Name()))
		}
	}
	return [32]byte(h.Sum(nil))
}

// Path is where a daemon of this process's user reads its policy: $HEDDLE_POLICY, /etc/heddle/policy.toml for root, else
// heddle/policy.toml in the user's configuration folder.
func Path() string {
	if p := os.Getenv("HEDDLE_POLICY"); p != "" {
		return p
	}
	if os.Getuid() == 0 {
		return "/etc/heddle/policy.toml"
	}
	if dir, err := os.UserConfigDir(); err == nil {
		return filepath.Join(dir, "heddle", "policy.toml")
	}
	return "/etc/heddle/policy.toml"
}
