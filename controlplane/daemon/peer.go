package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// peer is who is behind a connection, as the kernel says.
type peer struct {
	pid    int32
	uid    uint32
	gid    uint32
	exe    string // as /proc told at hello; "" when unreadable
	cgroup string // of the unified hierarchy
	pidfd  int
}

// describe fills what /proc knows. It is for people and policies that name an
// executable, never for identity: that is the credentials'.
func (p *peer) describe() {
	proc := fmt.Sprintf("/proc/%d", p.pid)
	if exe, err := os.Readlink(filepath.Join(proc, "exe")); err == nil {
		p.exe = exe
	}
	if b, err := os.ReadFile(filepath.Join(proc, "cgroup")); err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "0::"); ok {
				p.cgroup = strings.TrimSpace(rest)
			}
		}
	}
}
