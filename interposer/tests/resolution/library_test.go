package resolution

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/heddle-gpu/heddle/tools/hookgen/table"
)

// The product itself: built by CMakeLists.txt, or the file that HEDDLE_LIBRARY names (a release build; it is then held to the
// oldest C library that releases support).
var product = sync.OnceValues(func() (string, error) {
	at := filepath.Join(dir, "full")
	if given := os.Getenv("HEDDLE_LIBRARY"); given != "" {
		if err := os.Mkdir(at, 0o700); err != nil {
			return "", err
		}
		b, err := os.ReadFile(given)
		if err != nil {
			return "", err
		}
		return filepath.Join(at, "libheddle.so"), os.WriteFile(filepath.Join(at, "libheddle.so"), b, 0o600)
	}
	for _, args := range [][]string{{"-S", root, "-B", at}, {"--build", at}} {
		if out, err := exec.Command("cmake", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("cmake %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return filepath.Join(at, "libheddle.so"), nil
})

func open(t *testing.T) *elf.File {
	t.Helper()
	path, err := product()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Header = table (hookgen refuses anything else) = exported symbols: nothing more, nothing less.
func TestExportsAreTheTable(t *testing.T) {
	symbols, err := open(t).DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"dlsym", "cuptiSubscribe", "cuptiSubscribe_v2", "cuptiActivityEnable", "cuptiActivityEnableContext", "nvrtcCompileProgram", "nvrtcGetCUBIN",
		"heddle_request_begin", "heddle_request_end", "InitializeInjectionNvtx2"}
	for _, e := range entries {
		if e.Class != table.Pass {
			want = append(want, e.Name)
		}
	}
	var got []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF {
			got = append(got, s.Name)
		}
	}
	sort.Strings(want)
	sort.Strings(got)
	for _, s := range got {
		if !slices.Contains(want, s) {
			t.Errorf("%s is exported, and is not a wrapped entry point", s)
		}
	}
	for _, s := range want {
		if !slices.Contains(got, s) {
			t.Errorf("%s is not exported", s)
		}
	}
}

// What a preload library may lean on: libc and what it was split into before glibc 2.34.
func TestDependsOnLibcAlone(t *testing.T) {
	f := open(t)
	needed, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range needed {
		if !slices.Contains([]string{"libc.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2"}, l) {
			t.Errorf("needs %s", l)
		}
	}
	// It never ends the program (_exit is for HEDDLE_REQUIRE, which asks for it), never prints to standard output, and reaches the driver
	// through heddle_real only.
	forbidden := strings.Fields(`exit _Exit quick_exit abort raise __assert_fail __assert_perror_fail err errx
		printf vprintf puts putchar putchar_unlocked fputs fputc fwrite fprintf vfprintf perror stdout
		__printf_chk __vprintf_chk __fprintf_chk __vfprintf_chk system popen fork signal sigaction setenv putenv unsetenv`)
	imported, err := f.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	if len(imported) < 10 {
		t.Fatalf("only %d imported symbols: is this the library?", len(imported))
	}
	for _, s := range imported {
		if slices.Contains(forbidden, s.Name) || strings.HasPrefix(s.Name, "cu") || s.Name == "dlsym" {
			t.Errorf("uses %s", s.Name)
		}
		if os.Getenv("HEDDLE_LIBRARY") != "" && newer(s.Version, 2, 31) {
			t.Errorf("uses %s@%s: releases run on glibc 2.31", s.Name, s.Version)
		}
	}
}

// newer tells whether a symbol version is a glibc version above major.minor.
func newer(version string, major, minor int) bool {
	v, ok := strings.CutPrefix(version, "GLIBC_")
	if !ok {
		return false
	}
	parts := strings.SplitN(v, ".", 3)
	a, _ := strconv.Atoi(parts[0])
	b := 0
	if len(parts) > 1 {
		b, _ = strconv.Atoi(parts[1])
	}
	return a > major || a == major && b > minor
}

func TestLinkedAsAPreloadMustBe(t *testing.T) {
	f := open(t)
	for _, p := range f.Progs {
		switch {
		case p.Type == elf.PT_TLS && p.Memsz > 512:
			// glibc keeps 512 bytes of static TLS for libraries that come late (dlopen).
			t.Errorf("%d bytes of thread-local storage", p.Memsz)
		case p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X != 0:
			t.Error("asks for an executable stack")
		case p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && p.Flags&elf.PF_W != 0:
			t.Error("has a segment that is writable and executable")
		}
	}
	for tag, why := range map[elf.DynTag]string{
		elf.DT_SYMBOLIC: "would find itself first", elf.DT_TEXTREL: "has relocations in its text",
		elf.DT_RPATH: "has a search path", elf.DT_RUNPATH: "has a search path",
	} {
		if v, err := f.DynValue(tag); err == nil && len(v) > 0 {
			t.Errorf("%v: %s", tag, why)
		}
	}
	flags, err := f.DynValue(elf.DT_FLAGS)
	if err != nil || len(flags) == 0 || flags[0]&uint64(elf.DF_BIND_NOW) == 0 {
		t.Errorf("DT_FLAGS is %v: BIND_NOW expected", flags)
	} else if flags[0]&uint64(elf.DF_SYMBOLIC|elf.DF_TEXTREL) != 0 {
		t.Errorf("DT_FLAGS is %v: neither SYMBOLIC nor TEXTREL expected", flags)
	}
	// The compiler's own, and one that registers the fork handler.
	if v, err := f.DynValue(elf.DT_INIT_ARRAYSZ); err != nil || len(v) == 0 || v[0] > 16 {
		t.Errorf("DT_INIT_ARRAYSZ is %v (%v): at most two constructors expected", v, err)
	}
}

// The whole library, not only the part that the other tests link.
func TestProductResolvesAndStaysQuiet(t *testing.T) {
	if _, err := product(); err != nil {
		t.Fatal(err)
	}
	p := process{preload: []string{"full/libheddle.so"}}
	right(t, p, "semantics", "heddle")
	right(t, p, "versions")
	control := "libempty.so"
	if os.Getenv("HEDDLE_LIBRARY") != "" {
		control = "libempty-release.so"
	}
	onlyMaps(t, "full/libheddle.so", control)
	if out, text, err := p.start(t, exec.Command("/bin/true")); err != nil || out+text != "" {
		t.Errorf("/bin/true: %v %q %q", err, out, text)
	}
	// Loaded late, by a program that did not preload it.
	path, _ := product()
	out, text, err := process{}.run(t, "quiet", path)
	if err != nil || out != "right\n" {
		t.Errorf("dlopen: %v\n%s%s", err, out, text)
	}
}
