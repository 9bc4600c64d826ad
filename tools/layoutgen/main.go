// Command layoutgen turns shm/layout/layout.toml, the one source of everything that crosses a process boundary, into
// shm/c/heddle_wire.h and shm/wire_gen.go.
//
//	go run ./tools/layoutgen            write both files
//	go run ./tools/layoutgen check      exit 1 when a checked-in file differs from what the source gives
//
// Offsets of both sides, compared: go run ./tools/layoutgen/check.
// Run it from the repository root, or name the root with -root.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

const (
	sourceFile = "shm/layout/layout.toml"
	cFile      = "shm/c/heddle_wire.h"
	goFile     = "shm/wire_gen.go"
)

func main() {
	root := flag.String("root", ".", "repository root")
	flag.Parse()
	if err := run(*root, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "layoutgen:", err)
		os.Exit(1)
	}
}

func run(root string, args []string) error {
	l, err := load(filepath.Join(root, sourceFile))
	if err != nil {
		return err
	}
	command := "write"
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "write", "check":
		return generate(root, l, command == "check")
	}
	return fmt.Errorf("unknown command %q; expected write or check", command)
}

// generate writes both files, or with checkOnly compares them with what is on disk.
func generate(root string, l *layout, checkOnly bool) error {
	goText, err := l.goSource()
	if err != nil {
		return err
	}
	for _, out := range []struct {
		path string
		text []byte
	}{{cFile, l.cSource()}, {goFile, goText}} {
		path := filepath.Join(root, out.path)
		if !checkOnly {
			if err := os.WriteFile(path, out.text, 0o644); err != nil {
				return err
			}
			continue
		}
		have, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, out.text) {
			return fmt.Errorf("%s is not what %s gives; run `go run ./tools/layoutgen` and commit the result", out.path, sourceFile)
		}
	}
	return nil
}
