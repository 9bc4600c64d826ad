package executor

import (
	"errors"
	"testing"
)

// Whoever stops threads of which jobs hang in the driver goes on, once and again, and nothing is begun on them any more.
func TestLoadersStop(t *testing.T) {
	hangs, idle, over := newLoader(), newLoader(), make(chan struct{})
	begun, result := make(chan struct{}), make(chan error, 1)
	go func() {
		result <- hangs.do(func() error {
			close(begun)
			<-over
			return nil
		})
	}()
	<-begun
	for range 2 {
		stopAll(hangs, idle)
		for _, l := range []*loader{hangs, idle} {
			if err := l.do(func() error { t.Error("a job began"); return nil }); !errors.Is(err, errStopping) {
				t.Errorf("a job of a loader that was stopped: %v", err)
			}
		}
	}
	close(over)
	if err := <-result; err != nil {
		t.Errorf("the job that hung: %v", err)
	}
	<-hangs.done
}
