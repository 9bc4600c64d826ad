package daemon

import (
	"testing"

	"pgregory.net/rapid"
)

func TestAddressSpaceIsDisjointAlignedAndReused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := &addressSpace{base: deviceBase, limit: deviceBase + 16<<40}
		var held []span
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				bytes := uint64(1) << rapid.IntRange(38, 41).Draw(t, "log2")
				s, err := a.take(bytes)
				if err != nil {
					var sum uint64
					for _, h := range held {
						sum += h.bytes
					}
					if sum == 0 {
						t.Fatalf("refused %d bytes in an empty space", bytes)
					}
					return
				}
				if s.base%bytes != 0 || s.bytes != bytes || s.base < a.base || s.end() > a.limit {
					t.Fatalf("bad span %#x+%#x", s.base, s.bytes)
				}
				for _, h := range held {
					if s.base < h.end() && h.base < s.end() {
						t.Fatalf("%#x+%#x overlaps %#x+%#x", s.base, s.bytes, h.base, h.bytes)
					}
				}
				held = append(held, s)
			},
			"give": func(t *rapid.T) {
				if len(held) == 0 {
					return
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "i")
				a.give(held[i])
				held = append(held[:i], held[i+1:]...)
			},
		})
		for _, h := range held {
			a.give(h)
		}
		if s, err := a.take(16 << 40); err == nil && s.base != deviceBase {
			t.Fatalf("the whole space did not come back: %#x", s.base)
		}
	})
}

func TestWindowHoldsTheMemoryOnceAndAHalf(t *testing.T) {
	for _, tc := range []struct{ memory, want uint64 }{
		{1 << 30, 256 << 30}, {80 << 30, 256 << 30}, {141 << 30, 256 << 30}, {192 << 30, 512 << 30}, {1 << 62, 8 << 40}, {0, 256 << 30},
	} {
		if got := windowBytes(tc.memory); got != tc.want {
			t.Errorf("%d GiB: window of %d GiB, want %d", tc.memory>>30, got>>30, tc.want>>30)
		}
	}
}

func TestContainsDoesNotOverflow(t *testing.T) {
	s := span{1 << 40, 1 << 30}
	for _, tc := range []struct {
		at, n uint64
		want  bool
	}{
		{1 << 40, 1 << 30, true}, {1 << 40, 1<<30 + 1, false}, {1<<40 + 1, 1 << 30, false}, {1<<40 - 1, 2, false}, {1 << 40, ^uint64(0), false}, {^uint64(0), 2, false}, {1<<40 + 1<<30, 0, true},
	} {
		if got := s.contains(tc.at, tc.n); got != tc.want {
			t.Errorf("contains(%#x, %#x) = %v", tc.at, tc.n, got)
		}
	}
}
