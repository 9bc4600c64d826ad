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

// watchEvery is the time between two questions while ops are in flight and nothing completes.
const watchEvery = time.Millisecond

func newWatch(x *executor) *watch {
	return &watch{x: x, quit: make(chan struct{}), done: make(chan struct{})}
}

func (w *watch) run() {
	defer close(w.done)
	runtime.LockOSThread() // never unlocked: the thread carries the CUDA context
	if err := w.x.driver.Bind(); err != nil {
		w.x.engine.SetFault(codeOf(err))
		return
	}
	p := w.x.poller
	tick := time.NewTimer(0)
	defer tick.Stop()
	for next := 0; ; {
		if p.stalled.Load() {
			tick.Reset(watchEvery)
		}
		select {
		case <-w.quit:
			return
		case <-p.alarm: // it has just stalled
			continue
		case <-tick.C:
		}
		if !p.stalled.Load() || w.x.engine.Fault() != gpu.Success {
			continue
		}
		next = (next + 1) % w.x.engine.Streams()
		if r := w.x.engine.Use(next, w.x.driver.StreamQuery); r != gpu.Success && r != gpu.NotReady {
			w.x.engine.SetFault(r)
		}
	}
}

func (w *watch) stop() {
	close(w.quit)
	<-w.done
}
