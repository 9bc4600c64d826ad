// Command heddle is Heddle's one binary: daemon, executor and every tool an
// admin or an ML engineer uses.
package main

import (
	"os"

	"github.com/heddle-gpu/heddle/tools/heddle/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
