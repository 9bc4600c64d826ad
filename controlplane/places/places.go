// Package places finds out where a client keeps the PTX of what it launches: the folders that jit/harvest searches. They follow
// from the environment that the client was started with, read from /proc.
//
// Nothing here needs to be true: whatever harvest finds is known by the machine code itself. So when a client's environment cannot
// be read, or its id has meanwhile passed to another process, the worst that happens is that PTX is not found.
package places

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/heddle-gpu/heddle/jit/harvest"
)

// maxEnviron bounds what is read of a process's environment.
const maxEnviron = 4 << 20

// Of gives the folders of the process pid of user uid, as this process reaches them: through /proc/PID/root when the client has
// another root or mount namespace. When it is gone, not uid's, or closed to us, the defaults of that user are given.
func Of(pid int, uid uint32) harvest.Places { return of("/proc", pid, uid) }

func of(proc string, pid int, uid uint32) harvest.Places {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	env, err := environ(dir, uid)
	if err != nil {
		return folders(nil, uid, "")
	}
	prefix := ""
	if elsewhere(proc, dir) {
		prefix = filepath.Join(dir, "root")
	}
	return folders(env, uid, prefix)
}

// environ reads a process's environment as it was at its start.
func environ(dir string, uid uint32) (map[string]string, error) {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(status, fmt.Appendf(nil, "\nUid:\t%d\t", uid)) {
		return nil, os.ErrPermission
	}
	f, err := os.Open(filepath.Join(dir, "environ"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, kv := range strings.Split(string(b), "\x00") {
		if name, value, ok := strings.Cut(kv, "="); ok {
			if _, twice := env[name]; !twice { // getenv finds the first
				env[name] = value
			}
		}
	}
	return env, nil
}

// elsewhere tells whether a process sees other files than we do under the same names.
func elsewhere(proc, dir string) bool {
	root, err := os.Readlink(filepath.Join(dir, "root"))
	if err != nil {
		return false // not ours to follow
	}
	theirs, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
	if err != nil {
		return false
	}
	ours, err := os.Readlink(filepath.Join(proc, "self/ns/mnt"))
	return root != "/" || err == nil && theirs != ours
}

// unsafe are the characters of a user's name that torch.compile replaces in the name of its folder (default_cache_dir).
var unsafe = regexp.MustCompile(`[\\/:*?"<>|]`)

// folders applies the rules of those who write there: libheddle.so (docs/harvest.md), Triton (TRITON_CACHE_DIR, TRITON_HOME) and
// torch.compile (TORCHINDUCTOR_CACHE_DIR; Python's tempfile.gettempdir and getpass.getuser).
func folders(env map[string]string, uid uint32, prefix string) harvest.Places {
	name := env["LOGNAME"]
	for _, other := range []string{"USER", "LNAME", "USERNAME"} {
		if name == "" {
			name = env[other]
		}
	}
	home := env["HOME"]
	if home == "" || name == "" {
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			if home == "" {
				home = u.HomeDir
			}
			if name == "" {
				name = u.Username
			}
		}
	}
	at := func(parts ...string) string {
		if !filepath.IsAbs(parts[0]) {
			return "" // relative to a folder that we do not know
		}
		return prefix + filepath.Join(parts...)
	}
	var p harvest.Places
	switch own, xdg := env["HEDDLE_CACHE_DIR"], env["XDG_CACHE_HOME"]; {
	case own != "":
		p.Store = at(own, "ptx")
	case filepath.IsAbs(xdg):
		p.Store = at(xdg, "heddle/ptx")
	default:
		p.Store = at(home, ".cache/heddle/ptx")
	}
	triton := at(home, ".triton/cache")
	if h := env["TRITON_HOME"]; h != "" {
		triton = at(h, ".triton/cache")
	}
	if d := env["TRITON_CACHE_DIR"]; d != "" {
		triton = at(d)
	}
	temporary := "/tmp"
	for _, name := range []string{"TMP", "TEMP", "TMPDIR"} {
		if d := env[name]; d != "" {
			temporary = d
		}
	}
	inductor := ""
	if name != "" {
		inductor = at(temporary, "torchinductor_"+unsafe.ReplaceAllString(name, "_"))
	}
	if d := env["TORCHINDUCTOR_CACHE_DIR"]; d != "" {
		inductor = at(d)
	}
	if triton != "" {
		p.Triton = []string{triton}
	}
	if inductor != "" {
		p.Inductor = []string{inductor}
	}
	return p
}
