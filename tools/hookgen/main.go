// Command hookgen generates the hook table of libheddle.so from the CUDA driver's header and interposer/src/hooks/table.toml.
//
//	go run ./tools/hookgen [-include DIR] [-table FILE] [-out DIR] [-check]
//
// With -check nothing is written; a generated file that differs from what is on disk is an error. The header is read through
// the C preprocessor ($CC, or cc), so gcc or clang must be installed.
package main

//go:generate go run . -include ../../.deps/cuda/nvidia/cu13/include -table ../../interposer/src/hooks/table.toml -out ../../interposer/src/hooks

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/heddle-gpu/heddle/tools/hookgen/table"
)

func main() {
	include := flag.String("include", ".deps/cuda/nvidia/cu13/include", "folder of cuda.h and cudaTypedefs.h (tools/deps/fetch.sh cuda)")
	tablePath := flag.String("table", "interposer/src/hooks/table.toml", "the hand-written table")
	out := flag.String("out", "interposer/src/hooks", "folder of the generated files")
	check := flag.Bool("check", false, "write nothing; fail if a generated file is not current")
	flag.Parse()
	if err := run(*include, *tablePath, *out, *check); err != nil {
		fmt.Fprintln(os.Stderr, "hookgen:", err)
		os.Exit(1)
	}
}

func run(include, tablePath, out string, check bool) error {
	files, err := generate(include, tablePath)
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(out, f.name)
		if check {
			old, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !bytes.Equal(old, f.text) {
				return fmt.Errorf("%s is not what the header and %s give: run go run ./tools/hookgen", path, tablePath)
			}
			continue
		}
		if err := os.WriteFile(path, f.text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// A file is one generated output.
type file struct {
	name string
	text []byte
}

// generate reads header and table and returns every output, in a fixed order and with fixed bytes for the same input.
func generate(include, tablePath string) ([]file, error) {
	entries, err := table.Read(include, tablePath)
	if err != nil {
		return nil, err
	}
	return []file{
		{"real_gen.h", emitReal(entries)},
		{"hooks_gen.h", emitHooks(entries)},
		{"wrappers_hook_gen.c", emitHookWrappers(entries)},
		{"wrappers_order_gen.c", emitOrderWrappers(entries)},
		{"table_gen.c", emitTable(entries)},
		{"exports.map", emitExports(entries)},
	}, nil
}
