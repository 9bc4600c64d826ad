package harvest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

// The store is asked by the hash of the machine code, whatever container it came in.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	cubin, text := load(t, images+"plain.cubin"), plainText(t)
	padded := append(bytes.Clone(cubin), make([]byte, 32)...) // as a nonce behind it
	path := filepath.Join(dir, StoreName(cubin))
	for _, c := range []struct {
		name, line, text string
		code             Code // "" for found
		contraction      bool
	}{
		{"good", storeMagic + "from=ptxas fmad=1 later=fact\n", text, "", true},
		{"no contraction", storeMagic + "fmad=0\n", text, "", false},
		{"no line", "", text, BadPTX, false},
		{"no facts", storeMagic + "\n", text, BadPTX, false},
		{"another version", "// heddle-ptx 2 fmad=1\n", text, BadPTX, false},
		{"a long line", storeMagic + "fmad=1 " + strings.Repeat("x", 1000) + "\n", text, BadPTX, false},
		{"no text", storeMagic + "fmad=1\n", "", BadPTX, false},
		{"torn", storeMagic + "fmad=1\n", text[:len(text)-20], BadPTX, false},
		{"another kernel", storeMagic + "fmad=1\n", strings.ReplaceAll(text, "plain", "plane"), EntryMissing, false},
		{"another parameter", storeMagic + "fmad=1\n", strings.Replace(text, ".param .u64", ".param .u32", 1), OtherParameters, false},
	} {
		if err := os.WriteFile(path, []byte(c.line+c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Find(padded, 9, 0, "plain", Places{Store: dir})
		if c.code != "" {
			var m *Missing
			if !errors.As(err, &m) || m.Code != c.code || f.PTX != nil {
				t.Errorf("%s: %v; want %s", c.name, err, c.code)
			}
			continue
		}
		if err != nil || f.Origin != FromStore || f.Path != path || !bytes.Equal(f.Cubin, cubin) || string(f.PTX) != c.text || f.NoContraction == c.contraction {
			t.Errorf("%s: %v %s, no contraction %v, %v", c.name, f.Origin, f.Path, f.NoContraction, err)
		}
	}
	other := append(bytes.Clone(cubin), cubin...)
	other[len(cubin)-1] ^= 1
	if f, err := Find(other, 9, 0, "plain", Places{Store: dir}); err == nil {
		t.Errorf("machine code of one changed bit is found in %s", f.Path)
	}
}

// plainText is PTX from which testdata's plain.cubin could have been made.
func plainText(t testing.TB) string {
	t.Helper()
	f, err := Find(load(t, images+"services.fatbin"), 9, 0, "plain", Places{})
	if err != nil {
		t.Fatal(err)
	}
	return string(f.PTX)
}

// A file that is a folder, a pipe, a link that leads out, or too large is refused at once.
func TestOddFiles(t *testing.T) {
	dir, cubin := t.TempDir(), load(t, images+"plain.cubin")
	path := filepath.Join(dir, StoreName(cubin))
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(storeMagic+"fmad=1\n"+plainText(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		make func() error
		want Code
	}{
		{"folder", func() error { return os.Mkdir(path, 0o700) }, Unreadable},
		{"pipe", func() error { return syscall.Mkfifo(path, 0o600) }, Unreadable},
		{"link out", func() error { return os.Symlink(outside, path) }, Unreadable},
		{"loop", func() error { return os.Symlink(filepath.Base(path), path) }, Unreadable},
		{"too large", func() error { return os.WriteFile(path, nil, 0o600) }, TooLarge},
	} {
		if err := c.make(); err != nil {
			t.Fatal(err)
		}
		if c.want == TooLarge {
			if err := os.Truncate(path, MaxPTX+storeLine+1); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Find(cubin, 9, 0, "plain", Places{Store: dir})
		var m *Missing
		if !errors.As(err, &m) || m.Code != c.want {
			t.Errorf("%s: %v; want %s", c.name, err, c.want)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// put writes a folder of Triton's cache.
func put(t testing.TB, folder, name string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for suffix, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name+suffix), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTriton(t *testing.T) {
	cubin, text := string(load(t, images+"plain.cubin")), plainText(t)
	same := cubin[:len(cubin)-1] + "x" // of the same size
	cache, inductor := t.TempDir(), t.TempDir()
	p := Places{Triton: []string{filepath.Join(cache, "absent"), cache}, Inductor: []string{inductor}}
	f := new(Finder)
	expect := func(what string, want Code) Found {
		t.Helper()
		found, err := f.Find([]byte(cubin), 9, 0, "plain", p)
		var m *Missing
		if want == "" && err != nil || want != "" && (!errors.As(err, &m) || m.Code != want) {
			t.Errorf("%s: %v; want %q", what, err, want)
		}
		return found
	}
	expect("an empty cache", NoPTX)
	put(t, cache+"/AAAA", "other", map[string]string{".cubin": same, ".ptx": "not this one", ".json": "{}"})
	expect("another cubin of the same size", NoPTX)
	put(t, cache+"/BBBB", "plain", map[string]string{".cubin": cubin})
	expect("no text beside it", NoPTX)
	put(t, cache+"/BBBB", "plain", map[string]string{".ptx": text})
	expect("no metadata", Unreadable)
	put(t, cache+"/BBBB", "plain", map[string]string{".json": `{"ptx_options": "--fmad=false"}`})
	expect("options that speak of fmad", Unreadable)
	put(t, cache+"/BBBB", "plain", map[string]string{".json": `{"enable_fp_fusion": true, "ptx_options": null}`})
	if got := expect("complete", ""); got.Origin != FromTriton || got.NoContraction || got.Path != cache+"/BBBB/plain.ptx" {
		t.Errorf("%+v", got.Path)
	}
	put(t, cache+"/BBBB", "plain", map[string]string{".json": `{"enable_fp_fusion": false}`})
	if got := expect("without fusion", ""); !got.NoContraction {
		t.Error("enable_fp_fusion=false is not seen")
	}
	if err := os.RemoveAll(cache + "/BBBB"); err != nil {
		t.Fatal(err)
	}
	expect("removed again", NoPTX)
	put(t, inductor+"/triton/0/CCCC", "plain", map[string]string{".cubin": cubin, ".ptx": text, ".json": "{}"})
	if got := expect("torch.compile's", ""); got.Path != inductor+"/triton/0/CCCC/plain.ptx" {
		t.Errorf("%+v", got.Path)
	}
	put(t, inductor+"/triton/0/CCCC", "plain", map[string]string{".ptx": strings.ReplaceAll(text, "plain", "plane")})
	expect("text of another kernel", EntryMissing)
}

// A folder is read again only when it has changed, and one that changed within the last ticks once more.
func TestTritonReadsOnce(t *testing.T) {
	cache := t.TempDir()
	for i := range 200 {
		put(t, fmt.Sprintf("%s/%04d", cache, i), "k", map[string]string{".cubin": "x"})
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(fmt.Sprintf("%s/%04d", cache, i), old, old); err != nil {
			t.Fatal(err)
		}
	}
	f, cubin := new(Finder), load(t, images+"plain.cubin")
	p := Places{Triton: []string{cache}}
	_, _ = f.Find(cubin, 9, 0, "plain", p)
	before := f.triton[cache].folders["0007"]
	put(t, cache+"/0007", "late", map[string]string{".cubin": string(cubin), ".ptx": plainText(t), ".json": "{}"})
	found, err := f.Find(cubin, 9, 0, "plain", p)
	if err != nil || found.Path != cache+"/0007/late.ptx" {
		t.Errorf("a late file: %v, %v", found.Path, err)
	}
	after := f.triton[cache].folders
	if before == after["0007"] || len(after) != 200 {
		t.Error("the changed folder was not read again")
	}
	sure := 0
	for _, d := range after {
		if d.sure {
			sure++
		}
	}
	if sure != 199 {
		t.Errorf("%d of 200 folders will not be read again; want 199", sure)
	}
}

// The documentation lists every code and every origin.
func TestDocumented(t *testing.T) {
	text := string(load(t, "../../docs/harvest.md"))
	var rows []string
	for _, line := range strings.Split(text, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 && strings.HasPrefix(cells[1], " `") {
			rows = append(rows, strings.Trim(cells[1], " `"))
		}
	}
	want := []string{string(FromImage), string(FromFatbin), string(FromStore), string(FromTriton)}
	for _, c := range Codes() {
		want = append(want, string(c))
	}
	if d := cmp.Diff(want, rows); d != "" {
		t.Errorf("first column of docs/harvest.md's tables (-want +got):\n%s", d)
	}
}

func FuzzStored(f *testing.F) {
	f.Add([]byte(storeMagic + "from=ptxas fmad=1\n.version 9.0\n"))
	f.Add([]byte(storeMagic + "fmad=0\n\x00"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text, _, err := parseStored(b)
		if (err == nil) != (len(text) > 0) || len(text) > len(b) {
			t.Fatalf("%d bytes of text, %v", len(text), err)
		}
	})
}
