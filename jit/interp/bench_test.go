package interp_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
)

// benchKernel reports thread-instructions per second on one core for a kernel
// of the corpus, its grid multiplied so that start-up does not count.
func benchKernel(b *testing.B, name string, times uint32) {
	for _, k := range kernels.All() {
		if k.Name != name {
			continue
		}
		p, err := interp.Load(k.PTX())
		if err != nil {
			b.Fatal(err)
		}
		var mem interp.Memory
		inst, err := mem.Load(p)
		if err != nil {
			b.Fatal(err)
		}
		inputs := k.Inputs(1)
		params := k.ParamBlock(inputs, func(i int) uint64 { return mem.Place(bytes.Repeat(inputs[i], int(times)), false) })
		grid := k.Grid
		grid[0] *= times
		var n uint64
		b.ResetTimer()
		for b.Loop() {
			st, err := inst.Launch(context.Background(), interp.Launch{Entry: name, Grid: grid, Block: k.Block, Params: params, Mem: &mem})
			if err != nil {
				b.Fatal(err)
			}
			n += st.Instructions
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mthreadinstr/s")
		return
	}
	b.Fatalf("no kernel %s", name)
}

func BenchmarkVectorFMA(b *testing.B)  { benchKernel(b, "fma_f32", 16) }
func BenchmarkHorner(b *testing.B)     { benchKernel(b, "horner_f32", 16) }
func BenchmarkVectorF64(b *testing.B)  { benchKernel(b, "fma_f64", 16) }
func BenchmarkReduce(b *testing.B)     { benchKernel(b, "reduce_max_f32", 16) }
func BenchmarkMatmul(b *testing.B)     { benchKernel(b, "matmul_f32", 1) }
func BenchmarkMandelbrot(b *testing.B) { benchKernel(b, "mandelbrot", 1) }

// TestSpeed: vector kernels run at 20 million thread-instructions a second at
// least on one core; a quiet machine does twenty times that.
func TestSpeed(t *testing.T) {
	for _, k := range kernels.All() {
		if k.Name != "fma_f32" && k.Name != "vadd_f32" && k.Name != "horner_f32" {
			continue
		}
		p, err := interp.Load(k.PTX())
		if err != nil {
			t.Fatal(err)
		}
		best := 0.0
		for try := 0; try < 5 && best < minSpeed; try++ { // other tests share the machine
			begin := time.Now()
			_, st, err := kernels.Interpret(p, k, 1)
			if err != nil {
				t.Fatal(err)
			}
			best = max(best, float64(st.Instructions)/time.Since(begin).Seconds())
		}
		t.Logf("%s: %.0f million thread-instructions/s", k.Name, best/1e6)
		if best < minSpeed {
			t.Errorf("%s: %.1f million thread-instructions/s, expected %.0f and more", k.Name, best/1e6, minSpeed/1e6)
		}
	}
}

// BenchmarkLaunch is the fixed cost of a launch: one block of one warp.
func BenchmarkLaunch(b *testing.B) {
	for _, k := range kernels.All() {
		if k.Name != "warp_halves" {
			continue
		}
		p, err := interp.Load(k.PTX())
		if err != nil {
			b.Fatal(err)
		}
		var mem interp.Memory
		inst, err := mem.Load(p)
		if err != nil {
			b.Fatal(err)
		}
		inputs := k.Inputs(1)
		params := k.ParamBlock(inputs, func(i int) uint64 { return mem.Place(inputs[i], false) })
		b.ReportAllocs()
		for b.Loop() {
			if _, err := inst.Launch(context.Background(), interp.Launch{Entry: k.Name, Block: [3]uint32{32}, Params: params, Mem: &mem}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkLoad is parsing and decoding a module of 18 kernels.
func BenchmarkLoad(b *testing.B) {
	for _, k := range kernels.All() {
		if k.Name == "transpose" {
			src := k.PTX()
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				if _, err := interp.Load(src); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}
