package resolution

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/heddle-gpu/heddle/tools/hookgen/table"
)

// What a call answers says who answered. i is the index of the entry in the table (sorted by name).
const (
	fromDriver = 100_000 // + i: the driver double's own function
	fromHook   = 200_000 // + i: heddle_hook_<entry i>
	fromOrder  = 300_000 // added by heddle_order_end to what the driver answered
	perThread  = 1_000_000
)

func typed(ps []table.Param, extra ...string) string {
	var parts []string
	for _, p := range ps {
		parts = append(parts, p.Type+" "+p.Name)
	}
	parts = append(parts, extra...)
	if len(parts) == 0 {
		return "void"
	}
	return strings.Join(parts, ", ")
}

// special are the driver double's functions with a body of their own (testdata/driver.c).
var special = map[string]bool{
	"cuInit": true, "cuGetProcAddress": true, "cuGetProcAddress_v2": true,
	"cuStreamBeginCapture": true, "cuStreamBeginCapture_ptsz": true, "cuStreamBeginCapture_v2": true, "cuStreamBeginCapture_v2_ptsz": true,
	"cuStreamBeginCaptureToGraph": true, "cuStreamBeginCaptureToGraph_ptsz": true, "cuStreamEndCapture": true,
	"cuStreamEndCapture_ptsz": true, "cuStreamIsCapturing": true, "cuStreamIsCapturing_ptsz": true,
}

// folded are functions that share their code, and so their address, with another one, as a linker that folds equal code makes
// them: a resolver's pointer alone then does not tell what was asked for.
var folded = map[string]string{
	"cuDeviceGetLuid":    "cuMemPoolTrimTo",      // never wrapped, with a hook
	"cuMemPoolDestroy":   "cuMemPoolTrimTo",      // two hooks
	"cuStreamQuery_ptsz": "cuStreamQuery",        // the same function for both streams
	"cuMemHostRegister":  "cuMemHostRegister_v2", // two versions
}

// driverSource is the generated part of the double: the functions up to CUDA version newest, and the table of its resolver.
func driverSource(entries []*table.Entry, newest int) string {
	var b bytes.Buffer
	b.WriteString("#include <cuda.h>\n#include \"driver.h\"\n")
	var rows bytes.Buffer
	for i, e := range entries {
		if e.Since > newest {
			continue
		}
		if to, ok := folded[e.Name]; ok {
			fmt.Fprintf(&b, "CUresult %s(%s) __attribute__((alias(\"%s\")));\n", e.Name, typed(e.Params), to)
		} else if !special[e.Name] {
			fmt.Fprintf(&b, "CUresult %s(%s) { return %d; }\n", e.Name, typed(e.Params), fromDriver+i)
		}
		fmt.Fprintf(&rows, "  {%q, %q, %d, %d, (void *)%s},\n", e.Name, e.Base, e.Since, b2i(e.PerThread), e.Name)
	}
	// From the future: a form that the header does not know, and another way to begin a capture.
	b.WriteString("CUresult cuStreamBeginRecapture(void) { return 43; }\n")
	rows.WriteString("  {\"cuStreamBeginRecapture\", \"cuStreamBeginRecapture\", 99000, 0, (void *)cuStreamBeginRecapture},\n")
	b.WriteString("CUresult cuMemAlloc_v9(void) { return 42; }\n")
	rows.WriteString("  {\"cuMemAlloc_v9\", \"cuMemAlloc\", 99000, 0, (void *)cuMemAlloc_v9},\n")
	fmt.Fprintf(&b, "const struct driver_row driver_rows[] = {\n%s  {0, 0, 0, 0, 0}};\n", rows.String())
	return b.String()
}

func b2i(v bool) int {
	if v {
		return 1
	}
	return 0
}

// hookSource is the rest of the library: every hook that other files implement answers its number and, where it gets a stream,
// whether it is the per-thread one; a stream of 0 is answered as -1.
func hookSource(entries []*table.Entry) string {
	var b bytes.Buffer
	b.WriteString("#include \"hooks/hooks.h\"\n")
	b.WriteString("static int on(CUstream s) { return s == CU_STREAM_PER_THREAD ? " + fmt.Sprint(perThread) + " : 0; }\n")
	for i, e := range entries {
		if e.Class != table.Hook || e.PerThread || e.Owner == "hooks" {
			continue
		}
		var extra []string
		stream := ""
		if e.TakesImplicit() {
			extra, stream = []string{"CUstream implicit"}, "implicit"
		} else if e.Normalises() {
			stream = e.Params[e.Stream].Name
		}
		fmt.Fprintf(&b, "CUresult heddle_hook_%s(%s) {\n", e.Name, typed(e.Params, extra...))
		for _, p := range e.Params {
			if p.Name != stream {
				fmt.Fprintf(&b, "  (void)%s;\n", p.Name)
			}
		}
		if stream == "" {
			fmt.Fprintf(&b, "  return %d;\n}\n", fromHook+i)
		} else {
			fmt.Fprintf(&b, "  return %s ? %d + on(%s) : -1;\n}\n", stream, fromHook+i, stream)
		}
	}
	return b.String()
}

// expected is what calling an entry's pointer answers: on says whether hooks are on.
func expected(entries []*table.Entry, index map[string]int, i int, on bool) int {
	e := entries[i]
	if special[e.Name] {
		return 0
	}
	switch {
	case e.Class == table.Pass || e.Class == table.Refuse || !on:
		if to, ok := folded[e.Name]; ok {
			i = index[to]
		}
		return fromDriver + i
	case e.Class == table.Order:
		return fromDriver + i + fromOrder
	}
	target := e.Plain
	if e.Class == table.Alias {
		target = e.Target
	}
	to := entries[index[target]]
	n := fromHook + index[target]
	if e.PerThread && (to.TakesImplicit() || to.Normalises()) {
		n += perThread
	}
	return n
}

// eachSource is a C table of every entry and what it must answer, for testdata/each.c. linked: with the symbol's own address.
func eachSource(entries []*table.Entry, on bool, newest int, linked bool) string {
	index := map[string]int{}
	for i, e := range entries {
		index[e.Name] = i
	}
	var b bytes.Buffer
	b.WriteString("#include \"each.h\"\n")
	if linked {
		for _, e := range entries {
			if e.Since <= newest {
				fmt.Fprintf(&b, "extern int %s();\n", e.Name)
			}
		}
	}
	b.WriteString("const struct each each[] = {\n")
	for i, e := range entries {
		if e.Since > newest {
			continue
		}
		address := "0"
		if linked {
			address = "(void *)" + e.Name
		}
		own := 0
		if special[e.Name] {
			own = 1
		}
		fmt.Fprintf(&b, "  {%q, %q, %d, %d, %d, %d, %d, %s},\n", e.Name, e.Base, e.Since, b2i(e.PerThread),
			expected(entries, index, i, on), own, b2i(e.Class != table.Pass), address)
	}
	b.WriteString("  {0, 0, 0, 0, 0, 0, 0, 0}};\n")
	return b.String()
}
