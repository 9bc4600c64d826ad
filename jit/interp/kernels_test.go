package interp_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/interp/kernels"
)

var ctype = map[string]string{"u8": "u8", "s8": "s8", "u16": "u16", "s16": "s16", "u32": "u32", "s32": "s32", "i32": "s32",
	"u64": "u64", "s64": "s64", "f32": "float", "f64": "double"}

// reference compiles the corpus with gcc: a program that reads kernel number,
// grid, block and arguments on stdin and writes the buffers back.
func reference(t *testing.T, all []kernels.Kernel) string {
	t.Helper()
	dir := t.TempDir()
	var b strings.Builder
	for _, f := range append(kernels.Files(), "") {
		if f == "" {
			os.WriteFile(filepath.Join(dir, "device.h"), kernels.Text("device.h"), 0o644)
			break
		}
		os.WriteFile(filepath.Join(dir, f+".cu"), kernels.Text(f+".cu"), 0o644)
		fmt.Fprintf(&b, "#include %q\n", f+".cu")
	}
	b.WriteString("static void call(int k, void **p) {\n\tswitch (k) {\n")
	for i, k := range all {
		fmt.Fprintf(&b, "\tcase %d: ", i)
		for j, p := range k.Params {
			if p.Stored && p.Buffer() {
				fmt.Fprintf(&b, "*(void **)((char *)p[%d] + %d) = p[%d]; ", p.Into, p.Off, j)
			}
		}
		fmt.Fprintf(&b, "%s(", k.Name)
		sep := ""
		for j, p := range k.Params {
			if p.Stored {
				continue
			}
			b.WriteString(sep)
			sep = ", "
			switch {
			case p.Buffer():
				fmt.Fprintf(&b, "p[%d]", j)
			case p.Kind == "struct":
				fmt.Fprintf(&b, "*(%s *)p[%d]", p.Type, j)
			default:
				fmt.Fprintf(&b, "*(%s *)p[%d]", ctype[p.Type], j)
			}
		}
		b.WriteString("); break;\n")
	}
	b.WriteString(`	}
}
static int which;
static void entry(void **p) { call(which, p); }
static void in(void *p, size_t n) { if (fread(p, 1, n, stdin) != n) exit(n == 4 ? 0 : 3); }
int main(void) {
	for (;;) {
		u32 k, n, size[64];
		void *p[64];
		in(&k, 4);
		which = k;
		in(hd_grid, 12);
		in(hd_ntid, 12);
		in(&n, sizeof n);
		for (u32 i = 0; i < n; i++) {
			in(&size[i], 4);
			p[i] = aligned_alloc(64, (size[i] + 127) / 64 * 64);
			in(p[i], size[i]);
		}
		hd_run(entry, p);
		for (u32 i = 0; i < n; i++) {
			fwrite(p[i], 1, size[i], stdout);
			free(p[i]);
		}
		fflush(stdout);
	}
}
`)
	src := filepath.Join(dir, "ref.c")
	if err := os.WriteFile(src, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "ref")
	out, err := exec.Command("gcc", "-x", "c", "-std=gnu11", "-w", "-O1", "-ffp-contract=off", "-frounding-math", "-fwrapv", "-fno-strict-aliasing", src, "-o", exe, "-lm", "-lquadmath").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return exe
}

// runC gives the buffers after the reference program ran each kernel.
func runC(t *testing.T, exe string, all []kernels.Kernel, seed uint64) [][][]byte {
	t.Helper()
	var req bytes.Buffer
	for i, k := range all {
		binary.Write(&req, binary.LittleEndian, uint32(i))
		binary.Write(&req, binary.LittleEndian, k.Grid)
		binary.Write(&req, binary.LittleEndian, k.Block)
		binary.Write(&req, binary.LittleEndian, uint32(len(k.Params)))
		for _, b := range k.Inputs(seed) {
			binary.Write(&req, binary.LittleEndian, uint32(len(b)))
			req.Write(b)
		}
	}
	cmd := exec.Command(exe)
	cmd.Stdin = &req
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("reference: %v", err)
	}
	var res [][][]byte
	for _, k := range all {
		var bufs [][]byte
		for _, b := range k.Inputs(seed) {
			if len(out) < len(b) {
				t.Fatal("reference gave too little")
			}
			bufs = append(bufs, out[:len(b):len(b)])
			out = out[len(b):]
		}
		res = append(res, bufs)
	}
	return res
}

// TestKernels runs the corpus in the interpreter and as C, and compares every
// result bit for bit.
func TestKernels(t *testing.T) {
	all := slices.DeleteFunc(kernels.All(), func(k kernels.Kernel) bool { return k.NoRef })
	if len(all) < 60 {
		t.Fatalf("%d kernels, expected 60 and more", len(all))
	}
	exe := reference(t, all)
	progs := map[string]*interp.Program{}
	load := func(key string, src []byte) *interp.Program {
		if progs[key] == nil {
			p, err := interp.Load(src)
			if err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			progs[key] = p
		}
		return progs[key]
	}
	for seed := uint64(1); seed <= 3; seed++ {
		want := runC(t, exe, all, seed)
		for i, k := range all {
			variants := map[string][]byte{"": k.PTX()}
			if d := k.Debug(); d != nil && seed == 1 {
				variants["_debug"] = d
			}
			for v, src := range variants {
				p := load(k.File+v, src)
				got, _, err := kernels.Interpret(p, k, seed)
				if err != nil {
					t.Errorf("%s%s seed %d: %v", k.Name, v, seed, err)
					continue
				}
				if err := k.Diff(got, want[i]); err != nil {
					t.Errorf("%s seed %d: %v", v, seed, err)
				}
			}
		}
	}
}
