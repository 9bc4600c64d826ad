package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Problem is one mistake in a file.
type Problem struct {
	Pos
	Key  string // "class.batch.priority"; "" when the file as a whole is meant
	What string
}

// Error gives "file:line:column: key: what".
func (p *Problem) Error() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	if p.Key != "" {
		s += ": " + p.Key
	}
	return s + ": " + p.What
}

// Problems is every mistake that was found, in the order of files and lines.
type Problems []*Problem

// Error has a line for each.
func (l Problems) Error() string {
	lines := make([]string, len(l))
	for i, p := range l {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// File is one source of a policy.
type File struct{ Name, Text string }

// DropIns is the folder beside a policy file whose *.toml files are read after it: policy.toml has policy.d.
func DropIns(path string) string { return strings.TrimSuffix(path, filepath.Ext(path)) + ".d" }

// Load reads a policy file and its drop-in folder. Neither need exist: without files the policy is Default. The error is
// Problems, or says which file could not be read.
func Load(path string) (*Policy, error) {
	var files []File
	names := []string{path}
	entries, err := os.ReadDir(DropIns(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("policy: %w", err)
	}
	for _, e := range entries { // sorted by name
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(DropIns(path), e.Name()))
		}
	}
	if len(names) > MaxFiles {
		return nil, fmt.Errorf("policy: %s holds %d files; at most %d are read", DropIns(path), len(names)-1, MaxFiles-1)
	}
	for _, name := range names {
		text, err := ReadFile(name, MaxFileBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
		files = append(files, File{name, text})
	}
	return Parse(files)
}

// ReadFile reads a regular file of at most most bytes: a pipe must not hold anybody up, nor a large file fill the memory.
func ReadFile(name string, most int64) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return "", fmt.Errorf("%s: expected a regular file of at most %d bytes", name, most)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s: more than %d bytes", name, most)
	}
	return string(b), err
}

// Parse makes a policy of files: the main one first, then drop-ins. A key that several set has the value of the last. Rules of
// drop-ins are tried before those of the main file, so that a drop-in can take precedence. The error is Problems.
func Parse(files []File) (*Policy, error) {
	r := &reader{policy: Default()}
	var main, dropped []Match
	for i, f := range files {
		r.policy.Files = append(r.policy.Files, f.Name)
		matches := r.file(f)
		if i == 0 {
			main = matches
		} else {
			dropped = append(dropped, matches...)
		}
	}
	r.policy.Matches = append(dropped, main...)
	r.check()
	if len(r.problems) == 0 {
		return r.policy, nil
	}
	order := map[string]int{}
	for i, f := range files {
		order[f.Name] = i
	}
	slices.SortStableFunc(r.problems, func(a, b *Problem) int {
		if d := order[a.File] - order[b.File]; d != 0 {
			return d
		}
		if d := a.Line - b.Line; d != 0 {
			return d
		}
		return a.Column - b.Column
	})
	return nil, r.problems
}

// reader collects problems while it fills a policy.
type reader struct {
	policy   *Policy
	problems Problems
	name     string
	at       map[string]Pos
}

func (r *reader) problem(key, format string, args ...any) {
	at, ok := r.at[key]
	if !ok {
		at = Pos{File: r.name}
	}
	r.problems = append(r.problems, &Problem{at, key, fmt.Sprintf(format, args...)})
}

// file reads one file into the policy and returns its rules.
func (r *reader) file(f File) []Match {
	r.name, r.at = f.Name, nil
	var top map[string]any
	if _, err := toml.Decode(f.Text, &top); err != nil {
		p := &Problem{Pos: Pos{File: f.Name}, What: err.Error()}
		var parse toml.ParseError
		if errors.As(err, &parse) {
			p.Line, p.Column, p.What = parse.Position.Line, max(1, parse.Position.Col), parse.Message
			if p.What == "" {
				p.What = parse.Error()
			}
		}
		r.problems = append(r.problems, p)
		return nil
	}
	r.at = locate(f.Name, f.Text)
	sections := []string{"schema_version", "daemon", "class", "match"}
	for _, key := range sorted(top) {
		if !slices.Contains(sections, key) {
			r.unknown(key, key, sections)
		}
	}
	switch v, ok := top["schema_version"]; {
	case !ok:
		r.problem("schema_version", "missing; write schema_version = %d at the top", SchemaVersion)
	case v != any(int64(SchemaVersion)):
		r.problem("schema_version", "%s is not understood; this heddle reads version %d", shown(v), SchemaVersion)
	}
	if v, ok := top["daemon"]; ok {
		section(r, "daemon", v, DaemonKeys, &r.policy.Daemon, &r.policy.Daemon.origins)
	}
	if v, ok := top["class"]; ok {
		classes, ok := v.(map[string]any)
		if !ok {
			r.problem("class", "expected tables such as [class.interactive], found %s", shown(v))
		}
		for _, name := range sorted(classes) {
			path := "class." + name
			if !validName(name) {
				r.problem(path, "a class is named by 1 to 64 letters, digits, '-' and '_'")
				continue
			}
			if len(r.policy.Classes) >= MaxClasses && r.policy.Classes[name] == nil {
				r.problem(path, "more than %d classes", MaxClasses)
				break
			}
			c := r.policy.class(name)
			c.note("", r.at[path])
			section(r, path, classes[name], ClassKeys, c, &c.origins)
		}
	}
	var matches []Match
	if v, ok := top["match"]; ok {
		tables, ok := v.([]map[string]any)
		if !ok {
			r.problem("match", "expected [[match]] with two brackets, found %s", shown(v))
		}
		for i, t := range tables {
			if i >= MaxMatches {
				r.problem("match", "more than %d rules", MaxMatches)
				break
			}
			path := fmt.Sprintf("match[%d]", i)
			m := Match{Pos: r.at[path]}
			section(r, path, t, MatchKeys, &m, &m.origins)
			matches = append(matches, m)
		}
	}
	return matches
}

// section fills one table.
func section[S any](r *reader, path string, v any, keys []Key[S], s *S, o *origins) {
	t, ok := v.(map[string]any)
	if !ok {
		r.problem(path, "expected a table, found %s", shown(v))
		return
	}
	var names []string
	for _, k := range keys {
		names = append(names, k.Name)
	}
	for _, name := range sorted(t) {
		i := slices.Index(names, name)
		if i < 0 {
			r.unknown(path+"."+name, name, names)
			continue
		}
		o.note(name, r.at[path+"."+name])
		if err := keys[i].set(s, t[name]); err != nil {
			r.problem(path+"."+name, "%v", err)
		}
	}
}

func (r *reader) unknown(path, name string, valid []string) {
	if near := nearest(name, valid); near != "" {
		r.problem(path, "unknown key; did you mean %q?", near)
		return
	}
	r.problem(path, "unknown key; expected one of %s", strings.Join(valid, ", "))
}

// check finds what is wrong between keys and between files.
func (r *reader) check() {
	p := r.policy
	at := func(pos Pos, key, format string, args ...any) {
		r.problems = append(r.problems, &Problem{pos, key, fmt.Sprintf(format, args...)})
	}
	var names []string
	for name := range p.Classes {
		names = append(names, name)
	}
	slices.Sort(names)
	missing := func(pos Pos, key, name string) {
		if near := nearest(name, names); near != "" {
			at(pos, key, "there is no class %q; did you mean %q?", name, near)
			return
		}
		at(pos, key, "there is no class %q; write [class.%s]", name, name)
	}
	if p.Classes[p.Daemon.DefaultClass] == nil {
		pos, _ := p.Daemon.Origin("default_class")
		missing(pos, "daemon.default_class", p.Daemon.DefaultClass)
	}
	sum := 0.0
	var last Pos
	for _, name := range names {
		c := p.Classes[name]
		key := "class." + name
		sum += c.MinShare
		if pos, ok := c.Origin("min_share"); ok && c.MinShare > 0 {
			last = pos
		}
		if c.LatencyP99 > 0 {
			for _, k := range []struct {
				name string
				d    time.Duration
			}{{"max_queue_delay", c.MaxQueueDelay}, {"max_wait", c.MaxWait}} {
				if k.d < c.LatencyP99 {
					continue
				}
				pos, ok := c.Origin(k.name)
				if !ok {
					pos, _ = c.Origin("latency_p99")
				}
				at(pos, key+"."+k.name, "%v is no shorter than latency_p99, %v: the objective could not be met", k.d, c.LatencyP99)
			}
		}
	}
	if sum > 1 {
		at(last, "min_share", "the min_share of all classes add up to %.3g; at most 1 can be had", sum)
	}
	seen := map[string]*Match{}
	var all *Match
	for i := range p.Matches {
		m := &p.Matches[i]
		c := p.Classes[m.Class]
		switch {
		case m.Class == "":
			if _, tried := m.Origin("class"); !tried {
				at(m.Pos, "match", "missing key class: which class these clients belong to")
			}
			continue
		case c == nil:
			pos, _ := m.Origin("class")
			missing(pos, "match.class", m.Class)
			continue
		}
		if all != nil {
			at(m.Pos, "match", "never reached: the rule at %s:%d has no condition, so it takes every client", all.Pos.File, all.Pos.Line)
			continue
		}
		conditions := m.conditions()
		if first := seen[conditions]; first != nil {
			at(m.Pos, "match", "never reached: the rule at %s:%d has the same conditions and class %q", first.Pos.File, first.Pos.Line, first.Class)
			continue
		}
		seen[conditions] = m
		if conditions == "" {
			all = m
		}
		if !m.trusted() && (m.Label != "" || m.Exe != "") && len(c.AllowUID) == 0 && len(c.AllowCgroup) == 0 {
			at(m.Pos, "match", "label and exe are the client's own choice, so this rule selects nobody: give the rule uid, gid or cgroup, or [class.%s] allow_uid or allow_cgroup", m.Class)
		}
	}
}

// conditions are the rule's keys without its class, in a form that can be compared.
func (m *Match) conditions() string {
	var b strings.Builder
	for i := range MatchKeys {
		k := &MatchKeys[i]
		if v := k.Value(m); v != "" && k.Name != "class" {
			fmt.Fprintf(&b, "%s=%s\n", k.Name, v)
		}
	}
	return b.String()
}

func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

func sorted(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// nearest is the valid name with the fewest edits from name, "" when none is near.
func nearest(name string, valid []string) string {
	best, least := "", 1+max(1, len(name)/3)
	for _, v := range valid {
		if d := edits(name, v, least); d < least {
			best, least = v, d
		}
	}
	return best
}

// edits is the Levenshtein distance of two names, at least most when it is more.
func edits(a, b string, most int) int {
	if len(a) > 64 || len(b) > 64 {
		return most
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		corner := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := corner
			if a[i-1] != b[j-1] {
				cost++
			}
			corner = row[j]
			row[j] = min(row[j]+1, row[j-1]+1, cost)
		}
	}
	return row[len(b)]
}
