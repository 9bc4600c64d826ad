package server

import (
	"encoding/binary"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"pgregory.net/rapid"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// TestCompare checks the four ways of waiting, and that "greater" is cyclic.
func TestCompare(t *testing.T) {
	for _, tc := range []struct {
		kind, flags, word, value uint64
		want                     bool
	}{
		{wire.MemopWait32, 0, 5, 5, true}, {wire.MemopWait32, 0, 4, 5, false}, {wire.MemopWait32, 0, 2, 0xffffffff, true},
		{wire.MemopWait32, 0, 0xffffffff, 2, false}, {wire.MemopWait32, 1, 5, 5, true}, {wire.MemopWait32, 1, 6, 5, false},
		{wire.MemopWait32, 2, 6, 4, true}, {wire.MemopWait32, 2, 6, 1, false}, {wire.MemopWait32, 3, 0xffffff00, 0xff, false},
		{wire.MemopWait32, 3, 1, 2, true}, {wire.MemopWait64, 0, 1 << 40, 1 << 39, true}, {wire.MemopWait64, 0, 1, 1 << 39, false},
		{wire.MemopWait64, 1, 1 << 40, 1 << 40, true}, {wire.MemopWait64, 2, 1 << 40, 1 << 40, true}, {wire.MemopWait64, 3, ^uint64(0), 0, false},
	} {
		if got := compare(memop{kind: tc.kind, flags: tc.flags, value: tc.value}, tc.word); got != tc.want {
			t.Errorf("kind %d flags %d: %#x against %#x: %v", tc.kind, tc.flags, tc.word, tc.value, got)
		}
	}
}

// TestGaps checks the allocator of addresses against a bitmap.
func TestGaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64
		gaps := []gap{{0x1000, size}}
		taken := map[uint64]uint64{}
		var used [size]bool
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "take") || len(taken) == 0 {
				n := rapid.Uint64Range(1, 20).Draw(t, "n")
				var base uint64
				var ok bool
				if gaps, base, ok = takeGap(gaps, n); !ok {
					continue
				}
				for i := base; i < base+n; i++ {
					if used[i-0x1000] {
						t.Fatalf("%d given twice", i)
					}
					used[i-0x1000] = true
				}
				taken[base] = n
			} else {
				var keys []uint64
				for i := uint64(0x1000); i < 0x1000+size; i++ {
					if taken[i] > 0 {
						keys = append(keys, i)
					}
				}
				base := rapid.SampledFrom(keys).Draw(t, "give")
				n := taken[base]
				for i := base; i < base+n; i++ {
					used[i-0x1000] = false
				}
				delete(taken, base)
				gaps = giveGap(gaps, base, n)
			}
		}
		for base, n := range taken {
			gaps = giveGap(gaps, base, n)
		}
		if len(gaps) != 1 || gaps[0] != (gap{0x1000, size}) {
			t.Fatalf("not joined: %v", gaps)
		}
	})
}

const tinyPTX = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n  ret;\n}\n"

// fatbin builds a container with the given entries.
func fatbin(entries ...[]byte) []byte {
	var body []byte
	for _, e := range entries {
		body = append(body, e...)
	}
	h := binary.LittleEndian.AppendUint32(nil, fatbinMagic)
	h = binary.LittleEndian.AppendUint16(h, 1)
	h = binary.LittleEndian.AppendUint16(h, 16)
	return append(binary.LittleEndian.AppendUint64(h, uint64(len(body))), body...)
}

func fatbinEntry(kind uint16, sm uint32, flags uint64, payload []byte, plain int) []byte {
	e := make([]byte, 64)
	padded := (len(payload) + 7) &^ 7
	binary.LittleEndian.PutUint16(e, kind)
	binary.LittleEndian.PutUint32(e[4:], 64)
	binary.LittleEndian.PutUint64(e[8:], uint64(padded))
	binary.LittleEndian.PutUint32(e[16:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(e[28:], sm)
	binary.LittleEndian.PutUint64(e[40:], flags)
	binary.LittleEndian.PutUint64(e[56:], uint64(plain))
	return append(append(e, payload...), make([]byte, padded-len(payload))...)
}

// TestFatbin loads PTX out of containers: plain, LZ4, zstd; machine code is passed over.
func TestFatbin(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := make([]byte, lz4.CompressBlockBound(len(tinyPTX)))
	n, err := lz4.CompressBlock([]byte(tinyPTX), packed, nil)
	if err != nil || n == 0 {
		t.Fatalf("LZ4: %d, %v", n, err)
	}
	sass := fatbinEntry(2, 90, 0, []byte("machine code"), 0)
	for name, raw := range map[string][]byte{
		"text":  []byte(tinyPTX),
		"NUL":   []byte(tinyPTX + "\x00"),
		"plain": fatbin(sass, fatbinEntry(1, 80, 0, []byte(tinyPTX), 0)),
		"LZ4":   fatbin(sass, fatbinEntry(1, 80, flagLZ4, packed[:n], len(tinyPTX))),
		"zstd":  fatbin(fatbinEntry(1, 90, flagZstd, enc.EncodeAll([]byte(tinyPTX), nil), len(tinyPTX)), sass),
		"two":   append(fatbin(sass), fatbin(fatbinEntry(1, 70, 0, []byte(tinyPTX), 0))...),
	} {
		if im, err := loadImage(raw); err != nil || len(im.entries) != 1 || im.entries[0].Name != "k" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tc := range map[string]struct {
		raw  []byte
		code uint32
	}{
		"only machine code": {fatbin(sass), errNoBinaryForGPU},
		"only newer PTX":    {fatbin(fatbinEntry(1, 120, 0, []byte(tinyPTX), 0)), errNoBinaryForGPU},
		"cut":               {fatbin(sass)[:40], errInvalidImage},
		"bad LZ4":           {fatbin(fatbinEntry(1, 90, flagLZ4, []byte{1, 2, 3}, 100)), errInvalidImage},
		"bad zstd":          {fatbin(fatbinEntry(1, 90, flagZstd, []byte{1, 2, 3}, 100)), errInvalidImage},
		"huge":              {fatbin(fatbinEntry(1, 90, flagLZ4, []byte{1, 2, 3}, 1<<40)), errInvalidImage},
		"noise":             {[]byte("\x01\x02\x03"), errInvalidImage},
		"bad PTX":           {[]byte(".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{\n  ret\n}\n"), errInvalidPTX},
		"undeclared":        {[]byte(".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{\n  mov.u32 %r1, 1;\n}\n"), errInvalidPTX},
		"unknown opcode":    {[]byte(".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{\n  frobnicate.u32 1;\n}\n"), errInvalidPTX},
	} {
		_, err := loadImage(tc.raw)
		if ie, ok := err.(*imageError); !ok || ie.code != tc.code {
			t.Errorf("%s: %v, want code %d", name, err, tc.code)
		}
	}
}

// FuzzImage checks that any bytes load or fail, and never crash.
func FuzzImage(f *testing.F) {
	f.Add([]byte(tinyPTX))
	f.Add(fatbin(fatbinEntry(1, 80, 0, []byte(tinyPTX), 0)))
	f.Add(fatbin(fatbinEntry(1, 80, flagLZ4, []byte(tinyPTX), 200), fatbinEntry(1, 80, flagZstd, []byte(tinyPTX), 200)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if im, err := loadImage(b); (im == nil) == (err == nil) {
			t.Errorf("image %v and error %v", im, err)
		}
	})
}

// TestChip checks the model: the switch between contexts, copies beside compute, blocks side by side.
func TestChip(t *testing.T) {
	d := &device{}
	a, b := &deviceContext{owner: 1, dev: d}, &deviceContext{owner: 2, dev: d}
	var n counters
	w := work{blocks: 1, threads: 32, instructions: 32 * 1000, resident: 16}
	_, e1 := d.computed(a, 0, w, &n)
	s2, _ := d.computed(a, 0, w, &n)
	if s2 >= e1 {
		t.Errorf("two small kernels of one context do not overlap: the second starts at %d, the first ends at %d", s2, e1)
	}
	s3, _ := d.computed(b, 0, w, &n)
	if s3 < e1+contextSwitch || n.switches.Load() != 1 {
		t.Errorf("another context starts at %d after %d, %d switches", s3, e1, n.switches.Load())
	}
	cs, ce := d.copied(a, 0, 50_000_000, true, false, &n)
	if cs != 0 || ce < 900_000 || ce > 1_100_000 || n.switches.Load() != 1 {
		t.Errorf("50 MB to the device: %d to %d ns, %d switches", cs, ce, n.switches.Load())
	}
	full := work{blocks: 132 * 16 * 100, threads: 128, instructions: 132 * 16 * 100 * 128 * 1000, resident: 16}
	s4, e4 := d.computed(b, e1, full, &n)
	ideal := int64(full.instructions * psPerClock / (lanesPerClock * 1000 * chipSMs))
	if took := e4 - s4; took < ideal*9/10 || took > ideal*2 {
		t.Errorf("a full chip takes %d ns, by its issue rate %d", took, ideal)
	}
}

// TestChipWide has the model repeat what an H100 was measured to take, µs: R instances of a small kernel in a row, each of which
// costs the host a launch, and as one launch. (The shorter rows are run as programs in simtest.)
func TestChipWide(t *testing.T) {
	for _, c := range []struct {
		blocks, us, instances uint64
		serial, coalesced     float64
	}{{4, 1, 8, 43, 11}, {4, 1, 32, 152, 11}, {4, 1, 128, 584, 12}, {16, 4, 32, 226, 18}, {16, 16, 32, 655, 34}, {64, 16, 32, 657, 94}, {132, 16, 8, 170, 54}} {
		run := func(launches, wide uint64) float64 {
			d, h := &device{}, &hostClocks{}
			ctx := &deviceContext{owner: 1, dev: d}
			var n counters
			w := work{blocks: c.blocks * wide, threads: 128, resident: 16}
			w.instructions = w.blocks * w.threads * c.us * 1_000_000 / (clocksPerInstr * psPerClock)
			end := int64(0)
			for range launches {
				_, end = d.computed(ctx, max(end, h.call(1, costLaunch)), w, &n)
			}
			return float64(end) / 1000
		}
		serial, coalesced := run(c.instances, 1), run(1, c.instances)
		if serial < 0.8*c.serial || serial > 1.25*c.serial || coalesced < 0.7*c.coalesced || coalesced > 1.25*c.coalesced {
			t.Errorf("%d instances of %d blocks of %d µs: %.1f µs in a row, measured %.0f; as one %.1f, measured %.0f",
				c.instances, c.blocks, c.us, serial, c.serial, coalesced, c.coalesced)
		}
	}
}

// TestOptions checks the environment's variables.
func TestOptions(t *testing.T) {
	env := map[string]string{"SIMGPU_DEVICES": "4", "SIMGPU_MEMORY": "8GiB", "SIMGPU_INJECT": `[{"call":"cuInit","code":3}]`, "SIMGPU_POLL_US": "20"}
	o, err := OptionsFromEnv(func(k string) string { return env[k] })
	if err != nil || o.Devices != 4 || o.Memory != 8<<30 || len(o.Inject) != 1 || o.Inject[0].Call != "cuInit" {
		t.Errorf("%+v, %v", o, err)
	}
	for k, v := range map[string]string{"SIMGPU_DEVICES": "17", "SIMGPU_MEMORY": "lots", "SIMGPU_SEED": "-1", "SIMGPU_INJECT": "{", "SIMGPU_MAX_INSTRUCTIONS": "1e9"} {
		if _, err := OptionsFromEnv(func(name string) string {
			if name == k {
				return v
			}
			return ""
		}); err == nil {
			t.Errorf("%s=%s accepted", k, v)
		}
	}
}
