package simtest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/tools/simgpu/server"
	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
)

// TestNvcc runs what nvcc makes: a compressed fatbin with machine code, passed over, and PTX.
func TestNvcc(t *testing.T) {
	srv := simtest.Start(t)
	fatbin := filepath.Join(t.TempDir(), "nvcc.fatbin")
	include := simtest.Include(t)
	nvcc := exec.Command(filepath.Join(include, "../bin/nvcc"), "-fatbin", "-gencode", "arch=compute_80,code=[sm_90,compute_80]", "-I", include, "-o", fatbin, source("nvcc.cu"))
	if out, err := nvcc.CombinedOutput(); err != nil {
		t.Fatalf("nvcc: %v\n%s", err, out)
	}
	cmd := srv.Command(simtest.CompileC(t, source("nvcc.c")), fatbin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout.String(), stderr.String())
	}
	if stdout.String() != "v=5 from 0 str 1.500000\nv=5 from 1 str 1.500000\n" {
		t.Errorf("printed %q", stdout.String())
	}
	if !strings.Contains(stderr.String(), "Assertion `v == 1` failed") {
		t.Errorf("standard error: %q", stderr.String())
	}
}

// TestCommandLine runs the program simgpu: serve, stats, inject, run.
func TestCommandLine(t *testing.T) {
	lib := simtest.Library(t)
	simgpu := filepath.Join(lib, "../bin/simgpu")
	if out, err := exec.Command("go", "build", "-o", simgpu, "github.com/heddle-gpu/heddle/tools/simgpu/cmd/simgpu").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	vecadd := simtest.CompileC(t, source("vecadd.c"))
	if out, err := exec.Command(simgpu, "run", "--", vecadd, "alone").CombinedOutput(); err != nil {
		t.Errorf("run: %v\n%s", err, out)
	}
	cmd := exec.Command(simgpu, "run", "--", "sh", "-c", "exit 7")
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("run does not pass the exit code on: %v", err)
	}

	dir, err := os.MkdirTemp("", "simcli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	env := append(os.Environ(), "SIMGPU_SOCKET="+socket, "LD_LIBRARY_PATH="+lib, "SIMGPU_DEVICES=2", "SIMGPU_MEMORY=1GiB")
	serve := exec.Command(simgpu, "serve")
	serve.Env = env
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { serve.Process.Kill(); serve.Wait() })
	tool := func(args ...string) (string, error) {
		cmd := exec.Command(simgpu, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := tool("stats"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the server does not come up: ", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if out, err := tool("serve"); err == nil || !strings.Contains(out, "another server listens there") {
		t.Errorf("a second server: %v %s", err, out)
	}
	client := exec.Command(vecadd)
	client.Env = env
	if out, err := client.CombinedOutput(); err != nil {
		t.Errorf("client: %v\n%s", err, out)
	}
	out, err := tool("stats", "--json")
	var st server.Stats
	if err != nil || json.Unmarshal([]byte(out), &st) != nil || len(st.Devices) != 2 || st.Devices[0].Total != 1<<30 || st.Launches != 2 {
		t.Errorf("stats: %v %s", err, out)
	}
	if out, err = tool("inject", "--call", "cuInit", "--code", "999"); err != nil {
		t.Errorf("inject: %v %s", err, out)
	}
	// The rule is known to a client once it is connected: cuInit's own call comes before.
	if out, err = tool("inject", "--call", "cuDevicePrimaryCtxRetain", "--code", "46"); err != nil {
		t.Errorf("inject: %v %s", err, out)
	}
	client = exec.Command(vecadd)
	client.Env = env
	if out, err := client.CombinedOutput(); err == nil || !strings.Contains(string(out), "CUDA_ERROR_DEVICE_UNAVAILABLE") {
		t.Errorf("injected failure: %v\n%s", err, out)
	}
	if out, err = tool("inject", "--clear"); err != nil {
		t.Errorf("clear: %v %s", err, out)
	}
	if out, err = tool("inject", "--op", "dance", "--delay", "1ms"); err == nil || !strings.Contains(out, "unknown op") {
		t.Errorf("bad rule: %v %s", err, out)
	}
	if out, err = tool("stats", "--socket", "/nonexistent"); err == nil || !strings.Contains(out, "no server at /nonexistent") {
		t.Errorf("no server: %v %s", err, out)
	}
	if err := serve.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := serve.Wait(); err != nil {
		t.Errorf("serve after an interrupt: %v", err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left behind")
	}
}
