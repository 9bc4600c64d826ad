package interp

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// buf is device memory of f32 or f16 elements for the Triton kernels.
type buf struct {
	mem  []byte
	addr uint64
	half bool
}

func newBuf(m *Memory, half bool, n int, f func(i int) float64) buf {
	b := buf{half: half}
	for i := 0; i < n; i++ {
		if half {
			b.mem = binary.LittleEndian.AppendUint16(b.mem, uint16(f64ToFmt(f(i), fmtF16, rn)))
		} else {
			b.mem = binary.LittleEndian.AppendUint32(b.mem, math.Float32bits(float32(f(i))))
		}
	}
	b.addr = m.Place(b.mem, false)
	return b
}

func (b buf) at(i int) float64 {
	if b.half {
		return fmtToF64(uint32(binary.LittleEndian.Uint16(b.mem[2*i:])), fmtF16)
	}
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(b.mem[4*i:])))
}

// TestTriton runs kernels that Triton compiled for several architectures
// (kernels/triton) and compares them with plain Go: exactly where
// the inputs make every sum exact, else within f32's or f16's precision. The
// products use mma.sync, ldmatrix and cp.async (sm_75, sm_80) or wgmma (sm_90).
func TestTriton(t *testing.T) {
	var files []string
	for _, name := range []string{"vadd", "softmax", "layernorm", "gemm_f16_64"} {
		found, err := filepath.Glob("kernels/triton/triton_" + name + ".sm_*.ptx")
		if err != nil || len(found) < 4 {
			t.Fatalf("%s: %d sources, %v", name, len(found), err)
		}
		files = append(files, found...)
	}
	zero := func(int) float64 { return 0 }
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "triton_"), ".ptx")
		if name == "gemm_f16_64.sm_100a" {
			continue // tcgen05
		}
		t.Run(name, func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Load(src)
			if err != nil {
				t.Fatal(err)
			}
			m := new(Memory)
			inst, err := m.Load(p)
			if err != nil {
				t.Fatal(err)
			}
			scratch := []any{uint64(0), uint64(0)} // Triton's two hidden parameters
			run := func(grid [3]uint32, args ...any) {
				t.Helper()
				_, err := inst.Launch(context.Background(), Launch{Entry: p.Entries()[0].Name, Grid: grid, Block: [3]uint32{128}, DynShared: 32 << 10,
					Params: params(append(args, scratch...)...), Mem: m, Seed: 7})
				if err != nil {
					t.Fatal(err)
				}
			}
			bad := 0
			check := func(i int, got, want, tol float64) {
				if !(math.Abs(got-want) <= tol*(math.Abs(want)+1e-6)) {
					if bad++; bad < 4 {
						t.Errorf("element %d: %v, want %v", i, got, want)
					}
				}
			}
			kind, _, _ := strings.Cut(strings.ReplaceAll(name, ".", "_"), "_")
			switch kind {
			case "vadd":
				const n = 3000
				x, y := newBuf(m, false, n, func(i int) float64 { return float64(i) }), newBuf(m, false, n, func(int) float64 { return 0.5 })
				o := newBuf(m, false, n, zero)
				run([3]uint32{3}, x.addr, y.addr, o.addr, int32(n))
				for i := 0; i < n; i++ {
					check(i, o.at(i), float64(i)+0.5, 0)
				}
			case "softmax":
				const rows, n = 4, 400
				x, o := newBuf(m, false, rows*n, func(i int) float64 { return float64(i%37) * 0.1 }), newBuf(m, false, rows*n, zero)
				run([3]uint32{rows}, o.addr, x.addr, int32(n))
				for r := 0; r < rows; r++ {
					sum := 0.0
					for i := r * n; i < r*n+n; i++ {
						sum += math.Exp(x.at(i))
					}
					for i := r * n; i < r*n+n; i++ {
						check(i, o.at(i), math.Exp(x.at(i))/sum, 1e-5)
					}
				}
			case "layernorm":
				const rows, n = 3, 768
				x, w := newBuf(m, true, rows*n, func(i int) float64 { return float64(i%101)*0.05 - 1 }), newBuf(m, false, n, func(i int) float64 { return float64(i%7) * 0.25 })
				o := newBuf(m, true, rows*n, zero)
				run([3]uint32{rows}, o.addr, x.addr, w.addr, int32(n), float32(1e-5))
				for r := 0; r < rows; r++ {
					mean, v := 0.0, 0.0
					for i := r * n; i < r*n+n; i++ {
						mean += x.at(i) / n
					}
					for i := r * n; i < r*n+n; i++ {
						v += (x.at(i) - mean) * (x.at(i) - mean) / n
					}
					for i := 0; i < n; i++ {
						check(r*n+i, o.at(r*n+i), (x.at(r*n+i)-mean)/math.Sqrt(v+1e-5)*w.at(i), 2e-3)
					}
				}
			case "gemm":
				const M, N, K = 128, 64, 96
				a, b := newBuf(m, true, M*K, func(i int) float64 { return float64(i%13) - 6 }), newBuf(m, true, K*N, func(i int) float64 { return float64(i%7) - 3 })
				c := newBuf(m, true, M*N, zero)
				run([3]uint32{M / 64, N / 64}, a.addr, b.addr, c.addr, int32(M), int32(N), int32(K))
				for i := 0; i < M; i++ {
					for j := 0; j < N; j++ {
						sum := 0.0
						for k := 0; k < K; k++ {
							sum += a.at(i*K+k) * b.at(k*N+j)
						}
						check(i*N+j, c.at(i*N+j), fmtToF64(f64ToFmt(sum, fmtF16, rn), fmtF16), 0)
					}
				}
			default:
				t.Fatalf("no check for %s", name)
			}
		})
	}
}
