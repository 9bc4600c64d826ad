// Package table joins the CUDA driver's header with the hand-written hook table: every entry point with its class.
package table

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// A Param is one parameter of a prototype: its C type and its name.
type Param struct{ Type, Name string }

// A proto is one entry point of the header.
type proto struct {
	name   string
	params []Param
}

// A header is what cuda.h and cudaTypedefs.h declare.
type header struct {
	protos   map[string]proto
	versions map[string]int // symbol → CUDA version (12080) since which this variant exists; missing: not told
}

// defineAll makes cuda.h declare every version and variant of every function, under its exact exported name.
const defineAll = "-D__CUDA_API_VERSION_INTERNAL"

var (
	attribute = regexp.MustCompile(`__attribute__\s*\(\(.*?\)\)`)
	prototype = regexp.MustCompile(`CUresult\s+(cu[A-Z]\w*)\s*\(([^(){};]*)\)\s*;`)
	typedef   = regexp.MustCompile(`typedef\s+CUresult\s*\(\s*\*\s*PFN_(cu[A-Z]\w*?)_v(\d+)(_pt[ds][sz])?\s*\)`)
	declared  = regexp.MustCompile(`CUresult\s+(cu[A-Z]\w*)\s*\(`)
	suffix    = regexp.MustCompile(`^(.*?)(_v(\d+))?(_pt[ds][sz])?$`)
)

// preprocess runs the C preprocessor over one header.
func preprocess(include, name string) (string, error) {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	path := filepath.Join(include, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: fetch the headers with tools/deps/fetch.sh cuda", err)
	}
	out, err := exec.Command(cc, "-E", "-P", defineAll, "-I", include, "-x", "c", path).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("%s -E %s: %w: %s", cc, path, err, exit.Stderr)
		}
		return "", fmt.Errorf("%s -E %s: %w", cc, path, err)
	}
	return string(out), nil
}

func readHeader(include string) (*header, error) {
	text, err := preprocess(include, "cuda.h")
	if err != nil {
		return nil, err
	}
	types, err := preprocess(include, "cudaTypedefs.h")
	if err != nil {
		return nil, err
	}
	return parseHeader(text, types)
}

// parseHeader reads preprocessed text. A declaration that it cannot read is an error: nothing may be missed.
func parseHeader(text, types string) (*header, error) {
	text = attribute.ReplaceAllString(text, "")
	h := &header{protos: map[string]proto{}, versions: map[string]int{}}
	for _, m := range prototype.FindAllStringSubmatch(text, -1) {
		p := proto{name: m[1]}
		var err error
		if p.params, err = parseParams(m[2]); err != nil {
			return nil, fmt.Errorf("cuda.h: %s: %w", p.name, err)
		}
		if old, ok := h.protos[p.name]; ok && fmt.Sprint(old) != fmt.Sprint(p) {
			return nil, fmt.Errorf("cuda.h: %s is declared twice, differently", p.name)
		}
		h.protos[p.name] = p
	}
	for _, m := range declared.FindAllStringSubmatch(text, -1) {
		if _, ok := h.protos[m[1]]; !ok {
			return nil, fmt.Errorf("cuda.h: the declaration of %s has a form that hookgen does not read", m[1])
		}
	}
	if len(h.protos) == 0 {
		return nil, errors.New("cuda.h: no prototype found")
	}
	h.readVersions(types)
	return h, nil
}

func parseParams(list string) ([]Param, error) {
	list = strings.Join(strings.Fields(list), " ")
	if list == "" || list == "void" {
		return nil, nil
	}
	var out []Param
	for _, one := range strings.Split(list, ",") {
		one = strings.TrimSpace(one)
		i := len(one)
		for i > 0 && (one[i-1] == '_' || isAlnum(one[i-1])) {
			i--
		}
		if i == 0 || i == len(one) {
			return nil, fmt.Errorf("parameter %q has no name", one)
		}
		out = append(out, Param{Type: strings.TrimSpace(one[:i]), Name: one[i:]})
	}
	return out, nil
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// split takes a symbol apart: cuMemcpyHtoDAsync_v2_ptsz → cuMemcpyHtoDAsync, 2, _ptsz. An unversioned symbol has version 1.
func split(symbol string) (base string, version int, variant string) {
	m := suffix.FindStringSubmatch(symbol)
	version = 1
	if m[3] != "" {
		version, _ = strconv.Atoi(m[3])
	}
	return m[1], version, m[4]
}

// readVersions gives the k-th oldest typedef of a function to its k-th oldest symbol, where there are as many of both.
func (h *header) readVersions(types string) {
	since := map[string][]int{}
	for _, m := range typedef.FindAllStringSubmatch(types, -1) {
		v, _ := strconv.Atoi(m[2])
		since[m[1]+m[3]] = append(since[m[1]+m[3]], v)
	}
	symbols := map[string][]string{}
	for name := range h.protos {
		base, _, variant := split(name)
		symbols[base+variant] = append(symbols[base+variant], name)
	}
	for key, names := range symbols {
		vs := since[key]
		if len(vs) != len(names) {
			continue
		}
		sort.Ints(vs)
		sort.Slice(names, func(i, j int) bool {
			_, a, _ := split(names[i])
			_, b, _ := split(names[j])
			return a < b
		})
		for i, n := range names {
			h.versions[n] = vs[i]
		}
	}
}
