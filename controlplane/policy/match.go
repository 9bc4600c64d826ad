package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Client is what is known of a client when its class is chosen. UID, GID and Cgroup come from the kernel; Exe and Label are the
// client's own choice.
type Client struct {
	UID, GID uint32
	Exe      string
	Cgroup   string
	Label    string
}

// Selection is a client's class and how it came to it.
type Selection struct {
	Class *Class
	// Rule is the one that decided, nil for the default class.
	Rule *Match
	// Steps says of every rule up to that one why it did or did not apply, for `heddle policy test`.
	Steps []string
}

// Select finds a client's class. explain fills Steps.
func (p *Policy) Select(c Client, explain bool) Selection {
	var s Selection
	for i := range p.Matches {
		m := &p.Matches[i]
		why := p.refuses(m, c)
		if explain {
			verdict := "applies"
			if why != "" {
				verdict = why
			}
			s.Steps = append(s.Steps, fmt.Sprintf("%s:%d: class %q: %s", m.Pos.File, m.Pos.Line, m.Class, verdict))
		}
		if why == "" {
			s.Class, s.Rule = p.Classes[m.Class], m
			return s
		}
	}
	s.Class = p.Classes[p.Daemon.DefaultClass]
	if explain {
		s.Steps = append(s.Steps, fmt.Sprintf("no rule applies: class %q (daemon.default_class)", s.Class.Name))
	}
	return s
}

// trusted: the rule asks for something that the client cannot choose.
func (m *Match) trusted() bool { return m.UID != nil || m.GID != nil || m.Cgroup != "" }

// refuses says why a rule does not take a client, "" when it does.
func (p *Policy) refuses(m *Match, c Client) string {
	switch {
	case m.UID != nil && *m.UID != int64(c.UID):
		return fmt.Sprintf("uid is %d", c.UID)
	case m.GID != nil && *m.GID != int64(c.GID):
		return fmt.Sprintf("gid is %d", c.GID)
	case m.Cgroup != "" && !Glob(m.Cgroup, c.Cgroup):
		return fmt.Sprintf("cgroup is %q", c.Cgroup)
	case m.Exe != "" && !Glob(m.Exe, c.Exe):
		return fmt.Sprintf("exe is %q", c.Exe)
	case m.Label != "" && !Glob(m.Label, c.Label):
		return fmt.Sprintf("label is %q", c.Label)
	}
	if !m.trusted() && (m.Label != "" || m.Exe != "") {
		k := p.Classes[m.Class]
		if !slices.Contains(k.AllowUID, int64(c.UID)) && !slices.ContainsFunc(k.AllowCgroup, func(g string) bool { return Glob(g, c.Cgroup) }) {
			return fmt.Sprintf("label and exe fit, but class %q allows neither uid %d nor cgroup %q", m.Class, c.UID, c.Cgroup)
		}
	}
	return ""
}

// Glob reports whether a pattern fits the whole of s: "?" is one character other than "/", "*" any number of them, "**" any
// number of any. Time is at most len(pattern) × len(s).
func Glob(pattern, s string) bool {
	// fits[j]: the pattern so far fits s[:j].
	fits := make([]bool, len(s)+1)
	fits[0] = true
	for i := 0; i < len(pattern); i++ {
		switch {
		case strings.HasPrefix(pattern[i:], "**"):
			for j := 1; j <= len(s); j++ {
				fits[j] = fits[j] || fits[j-1]
			}
			i++
		case pattern[i] == '*':
			for j := 1; j <= len(s); j++ {
				fits[j] = fits[j] || (fits[j-1] && s[j-1] != '/')
			}
		default:
			for j := len(s); j > 0; j-- {
				fits[j] = fits[j-1] && (s[j-1] == pattern[i] || (pattern[i] == '?' && s[j-1] != '/'))
			}
			fits[0] = false
		}
	}
	return fits[len(s)]
}
