package harvest

import (
	"errors"
	"os"
	"testing"
)

func load(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const images = "../image/testdata/"

// The machine code's own PTX stands beside it in nvcc's fat binaries, compressed or not; a device without machine code runs PTX.
func TestFatbin(t *testing.T) {
	for _, file := range []string{"services.fatbin", "services.lz4.fatbin", "services.zstd.fatbin"} {
		b := load(t, images+file)
		for _, entry := range []string{"plain", "prints", "counts", "tex"} {
			f, err := Find(b, 9, 0, entry, Places{})
			if err != nil {
				t.Fatalf("%s %s: %v", file, entry, err)
			}
			if f.Origin != FromFatbin || f.Cubin == nil || f.Module.Func(entry) == nil || f.Entry != entry || f.NoContraction {
				t.Errorf("%s %s: %v, cubin of %d bytes", file, entry, f.Origin, len(f.Cubin))
			}
			f, err = Find(b, 10, 0, entry, Places{})
			if err != nil || f.Origin != FromImage || f.Cubin != nil {
				t.Errorf("%s %s on 10.0: %v, %v", file, entry, f.Origin, err)
			}
		}
		if code := codeOf(t, b, 9, 0, "nobody"); code != NoKernel {
			t.Errorf("%s: a kernel that is not there: %s", file, code)
		}
		if code := codeOf(t, b, 8, 0, "plain"); code != BadImage {
			t.Errorf("%s: a device without code: %s", file, code)
		}
	}
	if code := codeOf(t, load(t, images+"plain.cubin"), 9, 0, "plain"); code != NoPTX {
		t.Errorf("a bare cubin: %s", code)
	}
	text := append(load(t, images+"parent.ptx"), make([]byte, 33)...)
	if f, err := Find(text, 9, 0, "parent", Places{}); err != nil || f.Origin != FromImage {
		t.Errorf("PTX text: %v, %v", f.Origin, err)
	}
	if code := codeOf(t, text, 9, 0, "nobody"); code != NoKernel {
		t.Errorf("PTX text without the kernel: %s", code)
	}
}

func codeOf(t *testing.T, b []byte, major, minor int, entry string) Code {
	t.Helper()
	f, err := Find(b, major, minor, entry, Places{})
	var m *Missing
	if !errors.As(err, &m) {
		t.Fatalf("error %v and %v; want a *Missing", err, f.Origin)
	}
	return m.Code
}
