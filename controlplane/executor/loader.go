package executor

import (
	"runtime"
	"sync"
	"time"
)

// loader runs driver calls, one after another, on a thread of its own. There are two: the executor's loader, for calls that may take
// long or hold others up (loading, registering, graphs), which opens the device; its mapper, for those that do neither (mapping).
type loader struct {
	jobs chan func()
	quit chan struct{}
	done chan struct{}
	once sync.Once
}

func newLoader() *loader {
	l := &loader{jobs: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	go l.run()
	return l
}

func (l *loader) run() {
	defer close(l.done)
	runtime.LockOSThread() // never unlocked: the thread carries the CUDA context
	for {
		select {
		case job := <-l.jobs:
			job()
		case <-l.quit:
			return
		}
	}
}

// do runs job on the loader's thread and waits for it.
func (l *loader) do(job func() error) error {
	result := make(chan error, 1)
	select {
	case l.jobs <- func() { result <- job() }:
		return <-result
	case <-l.quit:
		return errStopping
	}
}

// stopAll ends the threads when their current jobs are over, and waits for that; jobs that hang in the driver do not hold the caller
// for long, and a second call for the same loaders not at all.
func stopAll(loaders ...*loader) {
	var stopping sync.WaitGroup
	for _, l := range loaders {
		stopping.Go(func() {
			l.once.Do(func() {
				close(l.quit)
				select {
				case <-l.done:
				case <-time.After(loaderPatience):
				}
			})
		})
	}
	stopping.Wait()
}

const loaderPatience = 2 * time.Second
