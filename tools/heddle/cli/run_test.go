package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestMain makes this test binary the heddle binary where a test asks for it:
// `heddle run` starts the daemon by its own executable.
func TestMain(m *testing.M) {
	if os.Getenv("HEDDLE_TEST_HEAP") == "1" {
		if err := keepHeapAway(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%p %s", heapProbe, os.Getenv(heapTriesEnv))
		os.Exit(0)
	}
	if os.Getenv("HEDDLE_TEST_CLI") == "1" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func TestTheProgramFindsNoChildItDidNotStart(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "heddle-cli") // t.TempDir's path may not fit into a socket's address
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	library := filepath.Join(dir, libraryName)
	if err := os.WriteFile(library, nil, 0o600); err != nil { // the loader says that it is none, and goes on
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command(self, args...)
		cmd.Env = append(os.Environ(), "HEDDLE_TEST_CLI=1", "HEDDLE_RUNTIME_DIR="+dir, "HEDDLE_LIBRARY="+library)
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	defer run("stop")
	out, err := run("run", "--require", "--", "sh", "-c", `read -r c < /proc/$$/task/$$/children; echo "children: [$c]"`)
	if err != nil || out != "children: []" {
		t.Errorf("%q, %v; expected no child", out, err)
	}
	if out, err := run("ps", "--json"); err != nil || !strings.Contains(out, `"pid"`) {
		t.Errorf("the daemon does not serve: %q, %v", out, err)
	}
}

func TestAnExecutorsHeapLiesOutsideTheClientsAddresses(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // without the remedy all 20 are well placed once in 10^12
		cmd := exec.Command(self, "executor")
		cmd.Env = append(os.Environ(), "HEDDLE_TEST_HEAP=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		at, err := strconv.ParseUint(strings.TrimSpace(string(out)), 0, 64)
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if uintptr(at) >= clientsFrom && uintptr(at) < clientsTo {
			t.Errorf("the heap lies at %#x", at)
		}
	}
}
