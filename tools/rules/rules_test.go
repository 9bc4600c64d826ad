package rules

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

const module = "github.com/heddle-gpu/heddle/"

// root is the repository, seen from this package.
const root = "../.."

// boundary forbids imports. Paths are relative to the module; a rule is about
// the folder and everything below.
type boundary struct {
	folder    string
	forbidden []string
	why       string
}

var boundaries = []boundary{
	{"jit", []string{"net", "os/exec", "syscall", "golang.org/x/sys", module + "shm", module + "controlplane", module + "tools"}, "the compiler knows nothing of processes, sockets or the driver"},
	{"shm", []string{module + "controlplane", module + "jit", module + "tools"}, "the wire is below everything that speaks it"},
	{"controlplane", []string{module + "tools"}, "tools are built on the control plane, never the other way"},
	{"controlplane/daemon", []string{module + "controlplane/gpu", module + "controlplane/executor", module + "jit"}, "the supervisor must survive whatever the driver does, so it never touches it"},
	{"controlplane/executor", []string{module + "controlplane/daemon", module + "controlplane/admin", "net/http"}, "an executor serves the daemon by the wire alone"},
}

// driverOnly lists the only packages that may use cgo: the driver's binding.
var driverOnly = []string{"controlplane/gpu"}

func goFiles(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", root, "ls-files", "-co", "--exclude-standard", "*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

func TestImportBoundaries(t *testing.T) {
	files := token.NewFileSet()
	seen := 0
	for _, name := range goFiles(t) {
		f, err := parser.ParseFile(files, filepath.Join(root, name), nil, parser.ImportsOnly)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		test := strings.HasSuffix(name, "_test.go")
		folder := filepath.Dir(name)
		for _, spec := range f.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			seen++
			if path == "C" && !slices.Contains(driverOnly, folder) {
				t.Errorf("%s uses cgo; only %v may: put what touches the driver there", name, driverOnly)
			}
			for _, b := range boundaries {
				if test || !within(folder, b.folder) {
					continue
				}
				for _, no := range b.forbidden {
					if within(path, no) {
						t.Errorf("%s imports %s: %s", name, path, b.why)
					}
				}
			}
		}
	}
	if seen < 100 {
		t.Fatalf("only %d imports were seen: is this the repository?", seen)
	}
}

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	files := token.NewFileSet()
	documented := map[string]bool{}
	for _, name := range goFiles(t) {
		if strings.HasSuffix(name, "_test.go") || strings.Contains(name, "testdata/") {
			continue
		}
		f, err := parser.ParseFile(files, filepath.Join(root, name), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			continue // the boundaries' test reports it
		}
		folder := filepath.Dir(name)
		documented[folder] = documented[folder] || f.Doc != nil
	}
	for folder, ok := range documented {
		if !ok {
			t.Errorf("%s: no file has a package comment", folder)
		}
	}
}

// The top level is fixed, so that a newcomer finds the room by its name.
var topLevel = []string{
	"interposer", "controlplane", "jit", "shm", "tools", "docs", "go.mod", "go.sum", "CMakeLists.txt", "Makefile",
	"README.md", "ARCHITECTURE.md", "RATIONALE.md", "SECURITY.md", "CONTRIBUTING.md", "LICENSE", ".ci", ".gitignore", ".ruff.toml",
}

// tracked lists the files that git has or would add.
func tracked(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
}

func TestTopLevelIsFixed(t *testing.T) {
	for _, name := range tracked(t) {
		top, _, _ := strings.Cut(name, "/")
		if !slices.Contains(topLevel, top) {
			t.Errorf("%s: the top level holds only %v", name, topLevel)
		}
	}
}

var generated = regexp.MustCompile(`_gen\.|/testdata/`)

// Comments are wrapped at 132 columns, a tab being four; what is hardly longer is left alone, tables of code may be as wide as they are.
const (
	maxLines   = 900
	maxComment = 144
)

func TestFilesStayReadable(t *testing.T) {
	comment := regexp.MustCompile(`^\s*(//|#) `) // not a directive (//go:), nor what a corpus kernel's descriptor says (//@)
	marker := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
	for _, name := range tracked(t) {
		ext := filepath.Ext(name)
		if !slices.Contains([]string{".go", ".c", ".h", ".py", ".sh", ".cu", ".S"}, ext) || generated.MatchString(name) || name == "shm/c/heddle_wire.h" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if n := bytes.Count(b, []byte("\n")); n > maxLines {
			t.Errorf("%s has %d lines, at most %d: it is perhaps two rooms", name, n, maxLines)
		}
		number := 0
		for line := range bytes.Lines(b) {
			number++
			line = bytes.ReplaceAll(bytes.TrimRight(line, "\n"), []byte("\t"), []byte("    "))
			if len(line) > maxComment && comment.Match(line) && utf8.RuneCount(line) > maxComment {
				t.Errorf("%s:%d: a comment of %d columns: wrap it at 132", name, number, utf8.RuneCount(line))
			}
		}
		if m := marker.Find(b); m != nil {
			t.Errorf("%s contains %s: finish it, or file it", name, m)
		}
	}
}

// ARCHITECTURE.md leads a newcomer to rooms that are there.
func TestTheArchitectureNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, m := range regexp.MustCompile("`([^` ]+/[^` ]*)`").FindAllSubmatch(text, -1) {
		path := string(m[1])
		top, _, _ := strings.Cut(path, "/")
		if !slices.Contains(topLevel, top) {
			continue // below a folder that the sentence names
		}
		// "{a,b}" is as in a shell.
		before, rest, braces := strings.Cut(path, "{")
		inside, after, _ := strings.Cut(rest, "}")
		paths := []string{path}
		if braces {
			paths = nil
			for part := range strings.SplitSeq(inside, ",") {
				paths = append(paths, before+part+after)
			}
		}
		for _, p := range paths {
			named++
			if _, err := os.Stat(filepath.Join(root, p)); err != nil {
				t.Errorf("ARCHITECTURE.md names %s: %v", p, err)
			}
		}
	}
	if named == 0 {
		t.Error("ARCHITECTURE.md names no path: has its form changed?")
	}
}

// Nothing that a wheel or another project brought is committed, and nothing that
// the build makes. Code compiled from sources of ours that lie beside it, for
// tests of readers, is neither.
func TestNothingForeignIsCommitted(t *testing.T) {
	for _, name := range tracked(t) {
		switch filepath.Ext(name) {
		case ".so", ".a", ".o", ".whl", ".cubin", ".fatbin":
			if strings.Contains(name, "/testdata/") {
				break
			}
			t.Errorf("%s: built or fetched files are not committed", name)
		}
		fi, err := os.Lstat(filepath.Join(root, name))
		if err == nil && fi.Size() > 1<<20 {
			t.Errorf("%s is %d bytes: large files do not belong here", name, fi.Size())
		}
	}
}

func TestShellScriptsParse(t *testing.T) {
	n := 0
	err := filepath.WalkDir(filepath.Join(root, "tools"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".sh" {
			return err
		}
		n++
		if out, err := exec.Command("bash", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", path, out)
		}
		return nil
	})
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
}
