package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Change is one difference between two policies.
type Change struct {
	Key      string // "class.batch.priority", "daemon.share", "match"
	Old, New string // in TOML; "" where there is none
	Live     Live
}

// String gives "key: old → new (live)".
func (c Change) String() string {
	show := func(s string) string {
		if s == "" {
			return "–"
		}
		return s
	}
	return fmt.Sprintf("%s: %s → %s (%s)", c.Key, show(c.Old), show(c.New), c.Live)
}

// Diff lists what changes when new takes the place of old, in the order of keys.
func Diff(old, new *Policy) []Change {
	out := compare("daemon", DaemonKeys, &old.Daemon, &new.Daemon)
	var names []string
	for name := range old.Classes {
		names = append(names, name)
	}
	for name := range new.Classes {
		if old.Classes[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		a, b := old.Classes[name], new.Classes[name]
		key := "class." + name
		switch {
		case a == nil:
			out = append(out, Change{key, "", "added", NewClient})
			out = append(out, compare(key, ClassKeys, Default().class(name), b)...)
		case b == nil:
			out = append(out, Change{key, "removed", "", NewClient})
		default:
			out = append(out, compare(key, ClassKeys, a, b)...)
		}
	}
	rules := func(p *Policy) (all []string) {
		for i := range p.Matches {
			all = append(all, p.Matches[i].rule())
		}
		return all
	}
	a, b := rules(old), rules(new)
	if !slices.Equal(a, b) {
		out = append(out, Change{"match", strings.Join(a, "; "), strings.Join(b, "; "), NewClient})
	}
	return out
}

func compare[S any](prefix string, keys []Key[S], a, b *S) (out []Change) {
	for i := range keys {
		k := &keys[i]
		if x, y := k.Value(a), k.Value(b); x != y {
			out = append(out, Change{prefix + "." + k.Name, x, y, k.Live})
		}
	}
	return out
}

// rule is a rule on one line.
func (m *Match) rule() string {
	var parts []string
	for i := range MatchKeys {
		if v := MatchKeys[i].Value(m); v != "" {
			parts = append(parts, MatchKeys[i].Name+" = "+v)
		}
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// Show is the policy in force as TOML that Parse takes. origin adds to every value where it was set.
func (p *Policy) Show(origin bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "schema_version = %d\n", SchemaVersion)
	fmt.Fprint(&b, "\n[daemon]\n")
	show(&b, DaemonKeys, &p.Daemon, &p.Daemon.origins, origin)
	var names []string
	for name := range p.Classes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c := p.Classes[name]
		fmt.Fprintf(&b, "\n[class.%s]\n", name)
		show(&b, ClassKeys, c, &c.origins, origin)
	}
	for i := range p.Matches {
		m := &p.Matches[i]
		fmt.Fprint(&b, "\n[[match]]\n")
		show(&b, MatchKeys, m, &m.origins, origin)
	}
	return b.String()
}

func show[S any](b *strings.Builder, keys []Key[S], s *S, o *origins, origin bool) {
	for i := range keys {
		k := &keys[i]
		v := k.Value(s)
		if v == "" {
			continue
		}
		line := k.Name + " = " + v
		if origin {
			from := "default"
			if at, ok := o.Origin(k.Name); ok {
				from = fmt.Sprintf("%s:%d", at.File, at.Line)
			}
			line = fmt.Sprintf("%-44s # %s", line, from)
		}
		fmt.Fprintln(b, line)
	}
}
