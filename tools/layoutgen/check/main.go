// Command check prints the offset of every wire member as the C and the Go compiler see it, side by side, and exits 1 when two
// differ. It is apart from the generator so that the generator still builds when package shm does not.
//
//	go run ./tools/layoutgen/check
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/heddle-gpu/heddle/shm"
)

// headers is where the C half of the wire lives, under the repository root.
const headers = "shm/c"

func main() {
	root := flag.String("root", ".", "repository root")
	cc := flag.String("cc", "cc", "C compiler")
	flag.Parse()
	if err := offsets(os.Stdout, *root, *cc); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

// offsets compiles a C program against the checked-in header, prints each member's offset from C and from Go side by side,
// and returns an error that names every difference.
func offsets(w io.Writer, root, cc string) error {
	dir, err := os.MkdirTemp("", "layoutgen")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var src bytes.Buffer
	fmt.Fprintf(&src, "#include \"heddle_wire.h\"\n#include <stdio.h>\nint main(void) {\n")
	fmt.Fprintf(&src, "  printf(\"hash %%llu\\n\", (unsigned long long)HEDDLE_WIRE_LAYOUT_HASH);\n")
	for _, o := range shm.Offsets() {
		if o.Field == "" {
			fmt.Fprintf(&src, "  printf(\"%s %%zu\\n\", sizeof(struct heddle_wire_%s));\n", o.Struct, o.Struct)
		} else {
			fmt.Fprintf(&src, "  printf(\"%s.%s %%zu\\n\", offsetof(struct heddle_wire_%s, %s));\n", o.Struct, o.Field, o.Struct, o.Field)
		}
	}
	fmt.Fprintf(&src, "  return 0;\n}\n")
	source, program := filepath.Join(dir, "offsets.c"), filepath.Join(dir, "offsets")
	if err := os.WriteFile(source, src.Bytes(), 0o644); err != nil {
		return err
	}
	if out, err := exec.Command(cc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-I", filepath.Join(root, headers), "-o", program, source).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cc, err, out)
	}
	out, err := exec.Command(program).Output()
	if err != nil {
		return err
	}
	cSide := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		name, value, _ := strings.Cut(line, " ")
		cSide[name] = value
	}
	var bad []string
	compare := func(name, goValue string) {
		cValue, ok := cSide[name]
		if !ok {
			cValue = "absent"
		}
		mark := ""
		if cValue != goValue {
			mark = "  DIFFERS"
			bad = append(bad, name)
		}
		fmt.Fprintf(w, "%-40s C %8s  Go %8s%s\n", name, cValue, goValue, mark)
	}
	compare("hash", fmt.Sprint(uint64(shm.LayoutHash)))
	for _, o := range shm.Offsets() {
		name := o.Struct
		if o.Field != "" {
			name += "." + o.Field
		}
		compare(name, fmt.Sprint(o.Bytes))
	}
	if len(bad) > 0 {
		return fmt.Errorf("the C and Go layouts differ in %s; run `go run ./tools/layoutgen`", strings.Join(bad, ", "))
	}
	return nil
}
