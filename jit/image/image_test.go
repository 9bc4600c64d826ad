package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wanted is what services.cu needs, kernel by kernel: a word of the reason, or "" for none.
var wanted = map[string]string{
	"plain": "", "asserts": "", "counts": "", "consts": "", "sm": "",
	"prints": "printf", "deep": "printf", "mallocs": "heap", "frees": "heap",
	"tex": "textures", "texf": "textures", "surf": "textures", "surfr": "textures",
}

func TestServices(t *testing.T) {
	for _, c := range []struct {
		file string
		kind Kind
		text bool
	}{
		{"services.fatbin", Cubin, false}, {"services.zstd.fatbin", Cubin, false}, {"services.lz4.fatbin", Cubin, false},
		{"services.ptx", PTX, true},
	} {
		t.Run(c.file, func(t *testing.T) {
			in, err := Inspect(load(t, c.file), 9, 0)
			if err != nil {
				t.Fatal(err)
			}
			if in.Code.Kind != c.kind || in.Text != c.text {
				t.Errorf("code is %v, text %v; want %v, %v", in.Code.Kind, in.Text, c.kind, c.text)
			}
			got := map[string]string{}
			for name, k := range in.Kernels {
				got[name] = ""
				for _, w := range []string{"printf", "heap", "textures"} {
					if strings.Contains(k.Refuse, w) {
						got[name] = w
					}
				}
				if k.Refuse != "" && got[name] == "" {
					t.Errorf("%s: unexpected reason %q", name, k.Refuse)
				}
			}
			if d := cmp.Diff(wanted, got); d != "" {
				t.Errorf("reasons (-want +got):\n%s", d)
			}
			if in.Writable == "" || literal(in.Writable) {
				t.Errorf("writable is %q; the image has counter, zeroed and table", in.Writable)
			}
			if why := in.Refuse("no such kernel"); why != "" {
				t.Errorf("a name that is not there is refused: %s", why)
			}
		})
	}
}

// A later device has no machine code here and takes the PTX, compressed or not; the result is the same.
func TestPTXInFatbin(t *testing.T) {
	for _, file := range []string{"services.fatbin", "services.zstd.fatbin", "services.lz4.fatbin"} {
		in, err := Inspect(load(t, file), 10, 0)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if in.Code.Kind != PTX || in.Text || len(in.Kernels) != len(wanted) || in.Refuse("prints") == "" || in.Refuse("plain") != "" {
			t.Errorf("%s: %v, text %v, %d kernels", file, in.Code.Kind, in.Text, len(in.Kernels))
		}
	}
	if _, err := Inspect(load(t, "services.fatbin"), 8, 0); err == nil || !strings.Contains(err.Error(), "8.0") {
		t.Errorf("code for 9.0 on an 8.0 device: %v", err)
	}
}

func TestStateless(t *testing.T) {
	in, err := Inspect(load(t, "plain.cubin"), 9, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Kernel{"plain": {}, "asserts": {}}
	if d := cmp.Diff(want, in.Kernels); d != "" || in.Writable != "" {
		t.Errorf("writable %q, kernels (-want +got):\n%s", in.Writable, d)
	}
	if in.Code.SM != 90 {
		t.Errorf("architecture %d; want 90", in.Code.SM)
	}
}

// Parameters of every kernel, and where the file ends, whatever follows it.
func TestEntries(t *testing.T) {
	b := load(t, "plain.cubin")
	got, err := Entries(b)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Entry{"plain": {[]Param{{0, 8}}, 0x210}, "asserts": {[]Param{{0, 8}}, 0x210}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if n, err := Extent(append(bytes.Clone(b), 1, 2, 3)); n != len(b) || err != nil {
		t.Errorf("%d, %v; want %d", n, err, len(b))
	}
	if n, err := Extent(b[:len(b)-1]); err == nil {
		t.Errorf("a torn cubin ends at %d", n)
	}
}

func TestDeviceLaunch(t *testing.T) {
	in, err := Inspect(load(t, "parent.ptx"), 9, 0)
	if err != nil {
		t.Fatal(err)
	}
	if why := in.Refuse("parent"); !strings.Contains(why, "launches kernels") {
		t.Errorf("parent: %q", why)
	}
	if why := in.Refuse("_Z5childPi"); why != "" {
		t.Errorf("child: %q", why)
	}
}

func TestSelect(t *testing.T) {
	part := func(k Kind, sm int, exact bool) Part { return Part{Kind: k, SM: sm, Exact: exact} }
	all := []Part{part(PTX, 70, false), part(Cubin, 80, false), part(Cubin, 86, false), part(Cubin, 90, false), part(Cubin, 90, true), part(PTX, 90, false), part(PTX, 120, false)}
	for _, c := range []struct {
		major, minor int
		want         Part
		ok           bool
	}{
		{9, 0, part(Cubin, 90, true), true}, {8, 9, part(Cubin, 86, false), true}, {8, 0, part(Cubin, 80, false), true},
		{10, 0, part(PTX, 90, false), true}, {12, 0, part(PTX, 120, false), true}, {7, 5, part(PTX, 70, false), true}, {6, 0, Part{}, false},
	} {
		got, ok := Select(all, c.major, c.minor)
		if ok != c.ok || got.Kind != c.want.Kind || got.SM != c.want.SM || got.Exact != c.want.Exact {
			t.Errorf("%d.%d: %v %d exact %v (%v); want %v %d exact %v (%v)", c.major, c.minor, got.Kind, got.SM, got.Exact, ok, c.want.Kind, c.want.SM, c.want.Exact, c.ok)
		}
	}
}

func TestNoImages(t *testing.T) {
	fat := load(t, "services.zstd.fatbin")
	wrapper := binary.LittleEndian.AppendUint32(nil, wrapperMagic)
	bomb := bytes.Clone(fat)
	binary.LittleEndian.PutUint64(bomb[16+56:], 1<<40)
	lie := bytes.Clone(fat)
	binary.LittleEndian.PutUint64(lie[16+56:], 100)
	for name, b := range map[string][]byte{
		"empty": nil, "short": {1, 2}, "text": []byte("hello"), "wrapper": append(wrapper, make([]byte, 64)...), "truncated": fat[:len(fat)-5],
		"header only": fat[:16], "huge": bomb, "smaller than it is": lie, "ELF header only": []byte("\x7fELF\x02\x01\x01"), "x86 ELF": append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 100)...),
	} {
		major := 9
		if name == "smaller than it is" {
			major = 10 // where the compressed PTX is taken
		}
		if in, err := Inspect(b, major, 0); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, %v; want ErrFormat", name, in, err)
		}
	}
}

// Any prefix of an image, and any image with a flipped byte, is refused or understood, never a panic.
func TestTornImages(t *testing.T) {
	for _, file := range []string{"plain.cubin", "services.lz4.fatbin", "parent.ptx"} {
		whole := load(t, file)
		for n := 0; n < len(whole); n += 1 + n/64 {
			_, _ = Inspect(whole[:n:n], 9, 0)
		}
		b := bytes.Clone(whole)
		for i := 0; i < len(b); i += 1 + i/256 {
			old := b[i]
			for _, v := range []byte{0, 0xff, old ^ 0x80, old + 1} {
				b[i] = v
				_, _ = Inspect(b, 9, 0)
				_, _ = Entries(b)
				_, _ = Extent(b)
			}
			b[i] = old
		}
	}
}

func FuzzInspect(f *testing.F) {
	for _, file := range []string{"plain.cubin", "services.lz4.fatbin", "services.zstd.fatbin", "parent.ptx"} {
		f.Add(load(f, file), 9, 0)
		f.Add(load(f, file), 10, 0)
	}
	f.Fuzz(func(t *testing.T, b []byte, major, minor int) {
		if n, err := Extent(b); err == nil && (n < elfHeader || n > len(b)) {
			t.Fatalf("a cubin of %d bytes ends at %d", len(b), n)
		}
		_, _ = Entries(b)
		in, err := Inspect(b, major&15, minor&15)
		if (in == nil) == (err == nil) {
			t.Fatalf("info %v, error %v", in, err)
		}
	})
}
