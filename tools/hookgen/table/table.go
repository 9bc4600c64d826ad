package table

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
)

// A Class says what happens to a call; table.toml explains each.
type Class string

// The classes.
const (
	Pass   Class = "pass"
	Hook   Class = "hook"
	Alias  Class = "alias"
	Order  Class = "order"
	Refuse Class = "refuse"
)

// A Row is one line of the table: one symbol without its per-thread-stream variant.
type Row struct {
	symbol string
	Class  Class
	Why    string
	Owner  string // hook: who implements it
	Target string // alias: whose hook it uses
	Kind   string // order: ASYNC, BLOCKING
	Reason string // order: heddle_native_reason without its prefix
}

// An Entry is one symbol of the header with its row, and what both say together.
type Entry struct {
	Row
	Name       string // the exported symbol: cuMemcpyHtoDAsync_v2_ptsz
	Plain      string // without the variant: cuMemcpyHtoDAsync_v2
	Base       string // what cuGetProcAddress is asked for: cuMemcpyHtoDAsync
	Params     []Param
	Version    int  // _v2 is 2; none is 1
	Since      int  // CUDA version (12080) of this form; 0: the header does not tell
	PerThread  bool // a _ptsz or _ptds symbol
	HasVariant bool // the plain symbol has a per-thread-stream variant, or is one
	Stream     int  // index of the only CUstream parameter; -1: none
}

// TakesImplicit tells whether the hook gets one last parameter: the stream that is meant where none is named.
func (e *Entry) TakesImplicit() bool { return e.Stream < 0 && e.HasVariant }

// Normalises tells whether a stream of 0 is replaced by the stream that it stands for before the hook sees it.
func (e *Entry) Normalises() bool { return e.Stream >= 0 && e.HasVariant }

// ImplicitStream is the C name of the stream that 0, or no stream at all, means in this form of the function.
func (e *Entry) ImplicitStream() string {
	if e.PerThread {
		return "CU_STREAM_PER_THREAD"
	}
	return "CU_STREAM_LEGACY"
}

// Read joins the headers in folder include with the table. The entries are sorted by name. A symbol without a row, and a row
// without a symbol, are errors.
func Read(include, tablePath string) ([]*Entry, error) {
	h, err := readHeader(include)
	if err != nil {
		return nil, err
	}
	rows, err := readTable(tablePath)
	if err != nil {
		return nil, err
	}
	entries, err := join(h, rows)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tablePath, err)
	}
	return entries, nil
}

var reasons = []string{
	"NONE", "GRAPH", "ATTRIBUTE", "FOREIGN_MEMORY",
}

func readTable(path string) (map[string]Row, error) {
	var t struct {
		Group []struct {
			Class   Class
			Owner   string
			Why     string
			Kind    string
			Reason  string
			Symbols []string
			Alias   map[string]string
		}
	}
	meta, err := toml.DecodeFile(path, &t)
	if err != nil {
		return nil, err
	}
	if u := meta.Undecoded(); len(u) > 0 {
		return nil, fmt.Errorf("%s: unknown key %s", path, u[0])
	}
	rows := map[string]Row{}
	var errs []error
	for i, g := range t.Group {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("%s: group %d (%s): %s", path, i+1, g.Why, fmt.Sprintf(format, a...)))
		}
		r := Row{Class: g.Class, Why: g.Why, Owner: g.Owner, Kind: strings.ToUpper(g.Kind), Reason: g.Reason}
		if g.Why == "" {
			bad("why is missing")
		}
		if (g.Class == Hook) != (g.Owner != "") {
			bad("owner belongs to class hook, and to no other")
		}
		if g.Class == Order {
			if r.Kind != "ASYNC" && r.Kind != "BLOCKING" {
				bad("kind is %q: async or blocking expected", g.Kind)
			}
			if !slices.Contains(reasons, g.Reason) {
				bad("reason is %q: one of %v expected", g.Reason, reasons)
			}
		} else if g.Kind != "" || g.Reason != "" {
			bad("kind and reason belong to class order")
		}
		if !slices.Contains([]Class{Pass, Hook, Alias, Order, Refuse}, g.Class) {
			bad("class is %q: pass, hook, alias, order or refuse expected", g.Class)
		}
		if (g.Class == Alias) != (len(g.Alias) > 0) || g.Class == Alias && len(g.Symbols) > 0 {
			bad("class alias has an alias table and nothing else")
		}
		add := func(r Row) {
			if _, ok := rows[r.symbol]; ok {
				bad("%s has two rows", r.symbol)
			}
			rows[r.symbol] = r
		}
		for _, s := range g.Symbols {
			r.symbol = s
			add(r)
		}
		for from, to := range g.Alias {
			r.symbol, r.Target = from, to
			add(r)
		}
	}
	return rows, errors.Join(errs...)
}

// join gives every symbol of the header its row, sorted by symbol. Neither side may have something that the other lacks.
func join(h *header, rows map[string]Row) ([]*Entry, error) {
	var entries []*Entry
	var errs []error
	used := map[string]bool{}
	for name, p := range h.protos {
		base, version, variant := split(name)
		plain := strings.TrimSuffix(name, variant)
		r, ok := rows[plain]
		if !ok {
			errs = append(errs, fmt.Errorf("no row for %s: give it a class", plain))
			continue
		}
		used[plain] = true
		if _, ok := h.protos[plain]; !ok {
			errs = append(errs, fmt.Errorf("%s exists, %s does not", name, plain))
		}
		e := &Entry{
			Row: r, Name: name, Plain: plain, Base: base, Params: p.params, Version: version, Since: h.versions[name],
			PerThread: variant != "", Stream: -1,
		}
		_, sz := h.protos[plain+"_ptsz"]
		_, ds := h.protos[plain+"_ptds"]
		e.HasVariant = sz || ds
		for i, a := range p.params {
			if a.Type != "CUstream" {
				continue
			}
			if e.Stream >= 0 && r.Class == Order {
				errs = append(errs, fmt.Errorf("%s has two streams: class order cannot tell which", name))
			}
			e.Stream = i
		}
		entries = append(entries, e)
	}
	for s, r := range rows {
		if !used[s] {
			errs = append(errs, fmt.Errorf("row %s: the header has no such entry point", s))
		}
		if r.Class != Alias {
			continue
		}
		to, ok := rows[r.Target]
		if !ok || to.Class != Hook {
			errs = append(errs, fmt.Errorf("alias %s = %s: the target is not a hook", s, r.Target))
		} else if len(h.protos[s].params) != len(h.protos[r.Target].params) {
			errs = append(errs, fmt.Errorf("alias %s = %s: different parameters", s, r.Target))
		}
	}
	sort.Slice(errs, func(i, j int) bool { return errs[i].Error() < errs[j].Error() })
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	return entries, errors.Join(errs...)
}
