package compiler

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/cache"
)

const (
	// workerNice is the worker's priority (setpriority(2)): below everything that serves.
	workerNice = 10
	// heapTarget makes Go collect garbage before memory comes near the service's bound.
	heapTarget = 1 << 30
)

// environment is what the driver sees: no cache of its own of what ours holds, and a context that takes as little as it can, for it
// never runs anything.
var environment = map[string]string{"CUDA_CACHE_DISABLE": "1", "CUDA_DEVICE_MAX_CONNECTIONS": "1", "CUDA_MODULE_LOADING": "LAZY"}

// Work is the worker's life: it answers the requests that arrive on in until it ends. patience bounds one request: beyond it the
// process ends itself (exit code 3), for a service that died cannot end it.
func Work(in io.Reader, out io.Writer, patience time.Duration) error {
	humble()
	for k, v := range environment {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // the thread carries the CUDA context
	debug.SetMemoryLimit(heapTarget)
	w := &builder{open: openDriver}
	for {
		req, err := readRequest(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("compile: %w; heddle compile is started by heddle executor", err)
		}
		guard := time.AfterFunc(patience, func() { os.Exit(3) })
		var r reply
		answer, err := w.build(req)
		switch f := (*Failure)(nil); {
		case err == nil && len(answer.Code) > cache.MaxPayload:
			r.Failure = fail(Assembler, "the code has %d bytes; at most %d are kept", len(answer.Code), cache.MaxPayload)
		case err == nil:
			r.Answer = *answer
		case errors.As(err, &f):
			r.Failure = &Failure{f.Code, f.Detail[:min(len(f.Detail), maxDetail)]}
		default:
			r.Failure = fail(Internal, "%v", err)
		}
		if err := writeFrame(out, r, r.Code); err != nil {
			return fmt.Errorf("compile: the answer: %w", err)
		}
		guard.Stop()
		req, answer = nil, nil
	}
}

// maxDetail bounds a failure's sentence.
const maxDetail = 2 << 10

// humble makes this process the first to wait and the first to go. Every step is a favour: none is needed.
func humble() {
	if tasks, err := os.ReadDir("/proc/self/task"); err == nil {
		for _, t := range tasks { // the threads that there are; later ones inherit
			if id, err := strconv.Atoi(t.Name()); err == nil {
				_ = unix.Setpriority(unix.PRIO_PROCESS, id, workerNice)
			}
		}
	}
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// openDriver gives the driver's compiler for a device, with a context of the process's own.
func openDriver(uuid string) (assembler, error) {
	id, err := gpu.ParseUUID(uuid)
	if err != nil {
		return nil, err
	}
	if err := gpu.Init(); err != nil {
		return nil, err
	}
	d, err := gpu.Open(id)
	if err != nil {
		return nil, err
	}
	return d, nil
}
