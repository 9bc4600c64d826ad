package scoreboard

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/gpu"
)

// What the driver was told last is the largest wish, whoever raises the limit at the same time; a refusal changes nothing.
func TestRaise(t *testing.T) {
	for range 200 {
		f := &Form{Limit: &atomic.Uint32{}}
		var driver atomic.Uint32
		var wg sync.WaitGroup
		for bytes := uint32(1); bytes <= 16; bytes++ {
			wg.Go(func() {
				r := f.Raise(bytes<<10, func(n int) gpu.Result {
					runtime.Gosched()
					driver.Store(uint32(n))
					return gpu.Success
				})
				if r != gpu.Success || driver.Load() < bytes<<10 {
					t.Errorf("%v: the driver allows %d bytes to who asked for %d", r, driver.Load(), bytes<<10)
				}
			})
		}
		wg.Wait()
		if driver.Load() != 16<<10 || f.Limit.Load() != 16<<10 {
			t.Fatalf("the driver allows %d bytes, the form says %d; want %d", driver.Load(), f.Limit.Load(), 16<<10)
		}
		if r := f.Raise(17<<10, func(int) gpu.Result { return gpu.InvalidValue }); r != gpu.InvalidValue || f.Limit.Load() != 16<<10 {
			t.Fatalf("refused: %v, the form says %d", r, f.Limit.Load())
		}
	}
}
