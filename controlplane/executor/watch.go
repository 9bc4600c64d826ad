package executor

import (
	"runtime"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// watch asks the driver for the context's health while nothing completes: after a fault no done word comes, and if no client
// submits anything no call would ever tell.
type watch struct {
	x    *executor
	quit chan struct{}
	done chan struct{}
}

const (
	watchIdle    = 10 * time.Millisecond
	watchStalled = time.Millisecond
)

func newWatch(x *executor) *watch {
	return &watch{x: x, quit: make(chan struct{}), done: make(chan struct{})}
}

func (w *watch) run() {
	defer close(w.done)
	runtime.LockOSThread() // never unlocked: the thread carries the CUDA context
	if bind, ok := w.x.driver.(interface{ Bind() error }); ok {
		if err := bind.Bind(); err != nil {
			w.x.engine.SetFault(codeOf(err))
			return
		}
	}
	next := 0
	for wait := watchIdle; ; {
		select {
		case <-w.quit:
			return
		case <-time.After(wait):
		}
		wait = watchIdle
		if !w.x.poller.stalled.Load() || w.x.engine.Fault() != gpu.Success {
			continue
		}
		wait = watchStalled
		next = (next + 1) % w.x.engine.Streams()
		if r := w.x.driver.StreamQuery(w.x.engine.Stream(next).Handle); r != gpu.Success && r != gpu.NotReady {
			w.x.engine.SetFault(r)
		}
	}
}

func (w *watch) stop() {
	close(w.quit)
	<-w.done
}
