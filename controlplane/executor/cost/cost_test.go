package cost

import "testing"

var h100 = Chip{SMs: 132, Threads: 2048, Registers: 65536, Shared: 233472, Blocks: 32}

// The numbers are those of the CUDA occupancy calculator for compute capability 9.0.
func TestResident(t *testing.T) {
	for _, c := range []struct{ threads, registers, shared, perSM int }{
		{128, 32, 0, 16}, {1024, 32, 0, 2}, {1024, 64, 0, 1}, {32, 16, 0, 32}, {256, 128, 0, 2}, {256, 40, 0, 6},
		{128, 32, 48 << 10, 4}, {128, 32, 227 << 10, 1}, {1, 8, 0, 32}, {128, 255, 0, 2},
	} {
		if got := h100.Resident(c.threads, c.registers, c.shared); got != c.perSM*132 {
			t.Errorf("%d threads, %d registers, %d bytes: %d blocks an SM; want %d", c.threads, c.registers, c.shared, got/132, c.perSM)
		}
	}
	if got := (Chip{}).Resident(128, 32, 0); got != 32 {
		t.Errorf("an unknown chip holds %d; want 32", got)
	}
}

func TestBucket(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 8: 3, 9: 4, 64: 6, 65: 7, 128: 7, 256: 7} {
		if got := Bucket(n); got != want {
			t.Errorf("bucket of %d is %d; want %d", n, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	var m Times
	if m.Of(8) != 0 || m.Alone() != 0 {
		t.Error("nothing is known, but there is a time")
	}
	m.Add(1, 8000)
	if m.Of(1) != 8000 || m.Of(8) != 8000 {
		t.Errorf("alone 8 µs: 1 takes %d, 8 take %d", m.Of(1), m.Of(8))
	}
	m.Add(8, 12000)
	if m.Of(8) != 12000 || m.Of(6) != 9000 {
		t.Errorf("8 take 12 µs: 8 take %d, 6 take %d", m.Of(8), m.Of(6))
	}
	for range 40 {
		m.Add(8, 24000)
	}
	if got := m.Of(8); got < 23500 || got > 24000 {
		t.Errorf("after many samples of 24 µs: %d", got)
	}
	m.Add(8, 0)
	if m.Of(8) < 23500 {
		t.Error("a sample that failed was counted")
	}
}

func TestLimit(t *testing.T) {
	full := func(alone int64, more map[int]int64) *Times {
		var m Times
		for range sure {
			m.Add(1, alone)
			for n, ns := range more {
				m.Add(n, ns)
			}
		}
		return &m
	}
	for _, c := range []struct {
		what             string
		times            *Times
		blocks, resident int
		want             int
	}{
		{"small, nothing known", &Times{}, 4, 2112, 128},
		{"fills the chip, short", full(20_000, nil), 2112, 2112, 4},
		{"fills the chip, long", full(60_000, nil), 2112, 2112, 1},
		{"half the chip, long", full(200_000, nil), 1056, 2112, 8},
		{"more than four times the chip", &Times{}, 10_000, 2112, 1},
		{"gains", full(8_000, map[int]int64{2: 9_000, 8: 12_000}), 64, 2112, 128},
		{"gains up to 8", full(80_000, map[int]int64{8: 120_000, 16: 1_400_000}), 64, 2112, 8},
		{"never gains", full(200_000, map[int]int64{2: 390_000}), 64, 2112, 1},
		{"gains only the launch", full(2_000, map[int]int64{2: 9_000}), 64, 2112, 128},
	} {
		if got := c.times.Limit(c.blocks, c.resident, 128, 1); got != c.want {
			t.Errorf("%s: limit %d; want %d", c.what, got, c.want)
		}
	}
	if got := full(200_000, map[int]int64{2: 390_000}).Limit(64, 2112, 128, probeEvery-1); got != 128 {
		t.Errorf("a probe is limited to %d", got)
	}
	var m Times
	if !m.Due(2, 7) {
		t.Error("a width that was never measured is not due")
	}
	if m = *full(1, nil); m.Due(1, 63) || !m.Due(1, 64) {
		t.Error("later words are measured once in 64")
	}
}
