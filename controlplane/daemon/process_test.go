package daemon

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/shm"
)

func TestAnExecutorGetsItsUsersOwnGroup(t *testing.T) {
	gid, err := primaryGroup(0)
	if err != nil || gid != 0 {
		t.Errorf("root: group %d, %v", gid, err)
	}
	if _, err := primaryGroup(4_000_000_001); err == nil || !strings.Contains(err.Error(), "getent passwd") {
		t.Errorf("a user nobody knows: %v", err)
	}
}

func TestAnExecutorsEnvironment(t *testing.T) {
	got := strings.Join(executorEnv([]string{"A=1", "LD_PRELOAD=/h/libheddle.so", "CUDA_VISIBLE_DEVICES=3", "HEDDLE_SOCKET=/s"}, "GPU-x"), " ")
	if want := "A=1 CUDA_VISIBLE_DEVICES=GPU-x CUDA_DEVICE_MAX_CONNECTIONS=32 CUDA_MODULE_LOADING=LAZY"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestAnExecutorThatEndsBeforeARequestIsSent: whoever asked is to ask the next executor, whether the socket's other end was closed
// or, when the end had been noticed already, this one.
func TestAnExecutorThatEndsBeforeARequestIsSent(t *testing.T) {
	for name, ended := range map[string]func(*shm.Conn, int){
		"not noticed yet": func(c *shm.Conn, other int) { unix.Close(other) },
		"noticed":         func(c *shm.Conn, other int) { unix.Close(other); c.Close() },
	} {
		conn, other, err := shm.Pair()
		if err != nil {
			t.Fatal(err)
		}
		ended(conn, other)
		p := &executorProcess{conn: conn, pending: map[uint32]chan shm.Message{}}
		if _, err := p.call(0, shm.TypeImage, shm.Encode(shm.Image{}), nil); !errors.Is(err, errExecutorLost) {
			t.Errorf("%s: %v; expected %v", name, err, errExecutorLost)
		}
		if len(p.pending) != 0 {
			t.Errorf("%s: %d requests are still waited for", name, len(p.pending))
		}
		conn.Close()
	}
}
