package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/policy"
	"github.com/heddle-gpu/heddle/shm"
)

// writePolicy replaces a policy file as editors do.
func writePolicy(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// rulesFor has this process's clients in class a.
func rulesFor(priority int) string {
	return fmt.Sprintf("schema_version = 1\n[class.a]\npriority = %d\nlatency_p99 = \"5ms\"\n[[match]]\nclass = \"a\"\nuid = %d\n", priority, os.Getuid())
}

func TestAReloadReachesTheExecutorAndAMistakeDoesNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.toml")
	writePolicy(t, path, rulesFor(7))
	h := start(t, func(c *Config) { c.PolicyPath = path })
	c := h.dial()
	eventually(t, "live", func() bool { return c.state() == shm.StateLive })
	if want := "CLASS client=1 fds=0 name=a priority=7 latency=5000000 flags=1"; !strings.Contains(h.told(), want) {
		t.Fatalf("the executor heard\n%s\nexpected %s", h.told(), want)
	}
	ctx := context.Background()
	if st, err := h.conn.Status(ctx); err != nil || st.Clients[0].Class != "a" {
		t.Errorf("status: %+v, %v", st.Clients, err)
	}

	// The file alone: nobody says apply.
	began := time.Now()
	writePolicy(t, path, rulesFor(9))
	eventually(t, "the new priority", func() bool { return strings.Contains(h.told(), "priority=9") })
	t.Logf("in force after %v", time.Since(began))

	// A mistake changes nothing, and is told with its place.
	writePolicy(t, path, rulesFor(11)+"[class.b]\nprioritty = 1\n")
	if _, err := h.conn.ApplyPolicy(ctx); err == nil || !strings.Contains(err.Error(), path+`:9:1: class.b.prioritty: unknown key; did you mean "priority"?`) {
		t.Errorf("apply of a mistake: %v", err)
	}
	p, err := h.conn.Policy(ctx)
	if err != nil || !strings.Contains(p.Text, "priority = 9") || !strings.Contains(p.Problem, "prioritty") || !strings.Contains(p.Origins, path+":3") {
		t.Errorf("policy in force: %+v, %v", p, err)
	}
	if strings.Contains(h.told(), "priority=11") {
		t.Error("half of a wrong policy was applied")
	}

	// The class goes: its clients have the default.
	writePolicy(t, path, "schema_version = 1\n")
	eventually(t, "the default class", func() bool { return strings.Contains(h.told(), "name=default priority=0") })
	s, err := h.conn.TestPolicy(ctx, os.Getpid())
	if err != nil || s.Class != "default" || s.UID != uint32(os.Getuid()) || len(s.Steps) == 0 {
		t.Errorf("test of this process: %+v, %v", s, err)
	}
	if _, err := h.conn.TestPolicy(ctx, 1<<30); err == nil {
		t.Error("the policy was tested for a process that does not exist")
	}

	// A successor of the executor hears the class as it is now.
	c.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: c.image(t, "x")}), []byte("die"))
	eventually(t, "the successor", func() bool { return c.state() == shm.StateLive && atomic.LoadUint32(&c.file.Status().Epoch) == 2 })
	if told := h.told(); strings.Count(told, "CLASS") != 1 || !strings.Contains(told, "name=default priority=0") {
		t.Errorf("the successor heard\n%s", told)
	}
}

func TestADaemonDoesNotStartWithAWrongPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.toml")
	writePolicy(t, path, "schema_version = 1\n[class.a]\npriority = true\n")
	err := Run(context.Background(), Config{Dir: t.TempDir(), PolicyPath: path, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), path+":3:1: class.a.priority") {
		t.Errorf("error %v", err)
	}
}

// Who shares an executor is the policy's word: with "any" the slot is the daemon's own user's, whoever the client is.
func TestWhoSharesAnExecutor(t *testing.T) {
	for share, want := range map[string]uint32{"same-uid": 4242, "any": 7} {
		d := &Daemon{uid: 7}
		p, err := policy.Parse([]policy.File{{Name: "f", Text: "schema_version = 1\n[daemon]\nshare = \"" + share + "\"\n"}})
		if err != nil {
			t.Fatal(err)
		}
		d.policies.current.Store(p)
		if got := d.sharers(peer{uid: 4242}); got != want {
			t.Errorf("share = %q: executor of uid %d; expected %d", share, got, want)
		}
	}
}
