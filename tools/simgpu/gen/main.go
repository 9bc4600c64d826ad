// Command gen reads the CUDA headers and writes what libcuda.so.1 needs from
// them: one exported wrapper for every driver entry point, the table behind
// cuGetProcAddress, prototypes for the implementations, the linker's version
// script, and wire.h. With -doc it writes the table of entry points for docs/.
//
// An entry point is implemented if libcuda/*.c define sim_<its name>, its name
// without the suffix of per-thread default streams.
package main

//go:generate go run . -include ../../../.deps/cuda/nvidia/cu13/include -src ../libcuda -doc ../../../docs/simgpu-driver-api.md

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/heddle-gpu/heddle/tools/simgpu/gen/driverapi"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("simgpu gen: ")
	include := flag.String("include", "", "folder with cuda.h and cudaTypedefs.h")
	src := flag.String("src", "tools/simgpu/libcuda", "folder with the C sources")
	out := flag.String("out", "", "folder for the generated C files")
	doc := flag.String("doc", "", "write the table of entry points to this file")
	flag.Parse()
	if *include == "" || (*out == "" && *doc == "") {
		log.Fatal("needs -include, and -out or -doc")
	}
	api, err := driverapi.Read(*include, *src)
	if err != nil {
		log.Fatal(err)
	}
	files := map[string]string{}
	if *out != "" {
		if err := os.MkdirAll(*out, 0o755); err != nil {
			log.Fatal(err)
		}
		files[filepath.Join(*out, "entry_points.c")] = api.EntryPoints()
		files[filepath.Join(*out, "sim_api.h")] = api.Prototypes()
		files[filepath.Join(*out, "libcuda.map")] = api.VersionScript()
		files[filepath.Join(*out, "wire.h")] = driverapi.WireHeader()
		files[filepath.Join(*out, "errors.inc")] = api.ErrorTable()
	}
	if *doc != "" {
		files[*doc] = api.Markdown()
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("simgpu gen: %s\n", api.Summary())
}
