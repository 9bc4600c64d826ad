package daemon

import (
	"strings"
	"testing"
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
