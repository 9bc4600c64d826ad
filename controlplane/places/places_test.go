package places

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/heddle-gpu/heddle/jit/harvest"
)

func TestFolders(t *testing.T) {
	const nobody = 4000000000 // has no entry in any list of users
	for _, c := range []struct {
		name   string
		env    map[string]string
		prefix string
		want   harvest.Places
	}{
		{"defaults", map[string]string{"HOME": "/home/ada", "USER": "ada"}, "", harvest.Places{
			Store: "/home/ada/.cache/heddle/ptx", Triton: []string{"/home/ada/.triton/cache"}, Inductor: []string{"/tmp/torchinductor_ada"}}},
		{"all set, another root", map[string]string{"HOME": "/home/ada", "LOGNAME": "a/da", "USER": "x", "XDG_CACHE_HOME": "/x", "TRITON_HOME": "/th", "TMPDIR": "/var/tmp"},
			"/proc/7/root", harvest.Places{Store: "/proc/7/root/x/heddle/ptx", Triton: []string{"/proc/7/root/th/.triton/cache"}, Inductor: []string{"/proc/7/root/var/tmp/torchinductor_a_da"}}},
		{"folders named", map[string]string{"HOME": "/h", "HEDDLE_CACHE_DIR": "/c", "XDG_CACHE_HOME": "/x", "TRITON_CACHE_DIR": "/t/../u", "TORCHINDUCTOR_CACHE_DIR": "/i"}, "",
			harvest.Places{Store: "/c/ptx", Triton: []string{"/u"}, Inductor: []string{"/i"}}},
		{"relative ones are passed over", map[string]string{"HOME": "/h", "HEDDLE_CACHE_DIR": "c", "TRITON_CACHE_DIR": "t", "TORCHINDUCTOR_CACHE_DIR": "i"}, "", harvest.Places{}},
		{"nothing known", nil, "", harvest.Places{}},
	} {
		if d := cmp.Diff(c.want, folders(c.env, nobody, c.prefix)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// A real process: its environment counts, not ours.
func TestOf(t *testing.T) {
	t.Setenv("HEDDLE_CACHE_DIR", "/not/this")
	uid := uint32(os.Getuid())
	cmd := exec.Command("cat")
	cmd.Env = []string{"HOME=/home/them", "HEDDLE_CACHE_DIR=/their/cache", "TRITON_CACHE_DIR=/their/triton", "USER=them"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Start returns when exec closes its files, which is before the kernel has put the new environment in place
	// (begin_new_exec, then create_elf_tables): /proc/PID/environ is empty in between. A child that answers runs.
	if _, err := io.WriteString(in, "up\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}
	want := harvest.Places{Store: "/their/cache/ptx", Triton: []string{"/their/triton"}, Inductor: []string{"/tmp/torchinductor_them"}}
	if d := cmp.Diff(want, Of(cmd.Process.Pid, uid)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	defaults := folders(nil, uid+1, "")
	if d := cmp.Diff(defaults, Of(cmd.Process.Pid, uid+1)); d != "" {
		t.Errorf("of another user (-want +got):\n%s", d)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(folders(nil, uid, ""), Of(cmd.Process.Pid, uid)); d != "" {
		t.Errorf("gone (-want +got):\n%s", d)
	}
}

// Containers: files are reached through the client's root when its mount namespace or root is another.
func TestElsewhere(t *testing.T) {
	for _, c := range []struct {
		root, mnt string
		want      bool
	}{
		{"/", "mnt:[1]", false}, {"/", "mnt:[2]", true}, {"/srv/jail", "mnt:[1]", true},
	} {
		proc := t.TempDir()
		for name, target := range map[string]string{"7/root": c.root, "7/ns/mnt": c.mnt, "self/ns/mnt": "mnt:[1]"} {
			path := filepath.Join(proc, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string]string{"7/status": "Name:\tx\nUid:\t5\t5\t5\t5\n", "7/environ": "HEDDLE_CACHE_DIR=/c\x00HEDDLE_CACHE_DIR=/second\x00HOME=/h\x00"} {
			if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want := "/c/ptx"
		if c.want {
			want = fmt.Sprintf("%s/7/root/c/ptx", proc)
		}
		if got := of(proc, 7, 5); got.Store != want {
			t.Errorf("%v: %s; want %s", c, got.Store, want)
		}
	}
}
