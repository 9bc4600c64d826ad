package sched

import (
	"fmt"
	"slices"
	"testing"
)

// What a class may wait bounds how long others' work stays on the chip, however much longer that takes than is estimated.
func TestMaxWaitIsTime(t *testing.T) {
	const bound = 80 * us
	for _, slow := range []float64{1, 1.5, 3} {
		t.Run(fmt.Sprint(slow), func(t *testing.T) {
			m := newSim(t, 5)
			urgent := m.client(m.s.Set("interactive", Settings{Priority: 10, Latency: 10 * ms, MaxWait: bound}), 1, 1, 500*us, 2*ms, false)
			low := m.s.Set("batch", Settings{})
			batch := m.client(low, 8, 20, 6*us, 0, true)
			batch.slow = slow
			for m.issued < steps(200_000) {
				m.step()
			}
			w := urgent.waits[len(urgent.waits)/4:] // it was learned in the first of them
			slices.Sort(w)
			part := float64(m.gpu[low]) / float64(m.free)
			t.Logf("of %d requests: median %d µs, 90 %% %d, worst %d; batch had %.3f of the chip, stretch %.2f",
				len(w), w[len(w)/2]/us, w[len(w)*9/10]/us, w[len(w)-1]/us, part, low.stretch.by)
			if len(w) < 100 {
				t.Fatalf("only %d requests", len(w))
			}
			if got := w[len(w)*9/10]; got > bound {
				t.Errorf("one request in ten waited for more than %d µs of others' work; max_wait is %d", got/us, bound/us)
			}
			if part < 0.75 {
				t.Errorf("batch had %.2f of the chip", part)
			}
		})
	}
}
