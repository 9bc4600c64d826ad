package main

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
)

// A class says what happens to a call.
type class string

const (
	classPass   class = "pass"
	classHook   class = "hook"
	classAlias  class = "alias"
	classOrder  class = "order"
	classRefuse class = "refuse"
)

// A row is one line of the table: one symbol without its per-thread-stream variant.
type row struct {
	symbol string
	class  class
	why    string
	owner  string // hook: who implements it
	target string // alias: whose hook it uses
	kind   string // order: ASYNC, BLOCKING
	reason string // order: heddle_native_reason without prefix
}

// An entry is a header symbol with its row and what both say together.
type entry struct {
	proto
	row
	base       string
	version    int
	since      int
	perThread  bool // a _ptsz or _ptds symbol
	hasVariant bool // the plain symbol has a per-thread-stream variant, or is one
	stream     int  // index of the only CUstream parameter; -1: none
}

// takesImplicit: the hook gets one last parameter, the stream that is meant where none is named.
func (e *entry) takesImplicit() bool { return e.stream < 0 && e.hasVariant }

// normalises: a stream of 0 is replaced by the stream that it stands for before the hook sees it.
func (e *entry) normalises() bool { return e.stream >= 0 && e.hasVariant }

func (e *entry) implicitStream() string {
	if e.perThread {
		return "CU_STREAM_PER_THREAD"
	}
	return "CU_STREAM_LEGACY"
}

var reasons = []string{
	"NONE", "GRAPH", "ATTRIBUTE", "FOREIGN_MEMORY",
}

func readTable(path string) (map[string]row, error) {
	var t struct {
		Group []struct {
			Class   class
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
	rows := map[string]row{}
	var errs []error
	for i, g := range t.Group {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("%s: group %d (%s): %s", path, i+1, g.Why, fmt.Sprintf(format, a...)))
		}
		r := row{class: g.Class, why: g.Why, owner: g.Owner, kind: strings.ToUpper(g.Kind), reason: g.Reason}
		if g.Why == "" {
			bad("why is missing")
		}
		if (g.Class == classHook) != (g.Owner != "") {
			bad("owner belongs to class hook, and to no other")
		}
		if g.Class == classOrder {
			if r.kind != "ASYNC" && r.kind != "BLOCKING" {
				bad("kind is %q: async or blocking expected", g.Kind)
			}
			if !slices.Contains(reasons, g.Reason) {
				bad("reason is %q: one of %v expected", g.Reason, reasons)
			}
		} else if g.Kind != "" || g.Reason != "" {
			bad("kind and reason belong to class order")
		}
		if !slices.Contains([]class{classPass, classHook, classAlias, classOrder, classRefuse}, g.Class) {
			bad("class is %q: pass, hook, alias, order or refuse expected", g.Class)
		}
		if (g.Class == classAlias) != (len(g.Alias) > 0) || g.Class == classAlias && len(g.Symbols) > 0 {
			bad("class alias has an alias table and nothing else")
		}
		add := func(r row) {
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
			r.symbol, r.target = from, to
			add(r)
		}
	}
	return rows, errors.Join(errs...)
}

// join gives every symbol of the header its row, sorted by symbol. Neither side may have something that the other lacks.
func join(h *header, rows map[string]row) ([]*entry, error) {
	var entries []*entry
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
		e := &entry{proto: p, row: r, base: base, version: version, since: h.versions[name], perThread: variant != "", stream: -1}
		_, sz := h.protos[plain+"_ptsz"]
		_, ds := h.protos[plain+"_ptds"]
		e.hasVariant = sz || ds
		for i, a := range p.params {
			if a.ctype != "CUstream" {
				continue
			}
			if e.stream >= 0 && r.class == classOrder {
				errs = append(errs, fmt.Errorf("%s has two streams: class order cannot tell which", name))
			}
			e.stream = i
		}
		entries = append(entries, e)
	}
	for s, r := range rows {
		if !used[s] {
			errs = append(errs, fmt.Errorf("row %s: the header has no such entry point", s))
		}
		if r.class != classAlias {
			continue
		}
		to, ok := rows[r.target]
		if !ok || to.class != classHook {
			errs = append(errs, fmt.Errorf("alias %s = %s: the target is not a hook", s, r.target))
		} else if len(h.protos[s].params) != len(h.protos[r.target].params) {
			errs = append(errs, fmt.Errorf("alias %s = %s: different parameters", s, r.target))
		}
	}
	sort.Slice(errs, func(i, j int) bool { return errs[i].Error() < errs[j].Error() })
	sort.Slice(entries, func(i, j int) bool { return entries[i].name < entries[j].name })
	return entries, errors.Join(errs...)
}
