package image

import (
	"bytes"
	"strings"
)

// inspectPTX reads PTX text far enough to know its functions, what they mention, and module-scope variables. It is no parser of
// PTX (jit/ptx is): every token in a body counts, in whatever place it stands.
func inspectPTX(in *Info, text []byte) error {
	in.Kernels = map[string]Kernel{}
	type body struct {
		entry    bool
		words    map[string]bool
		textures bool
	}
	functions := map[string]*body{}
	legacy := false
	toks := tokens{b: text}
	var stmt []string // tokens of the current module-scope statement
	for {
		t, ok := toks.next()
		if !ok {
			break
		}
		switch t {
		case ";":
			if name := variable(stmt); name != "" {
				if has(stmt, ".texref") || has(stmt, ".surfref") || has(stmt, ".samplerref") {
					legacy = true
				} else if in.Writable == "" && !literal(name) {
					in.Writable = name
				}
			}
			stmt = stmt[:0]
		case "{":
			name, entry := functionName(stmt)
			initialiser := name == ""
			f := &body{entry: entry, words: map[string]bool{}}
			for depth := 1; depth > 0; {
				w, ok := toks.next()
				if !ok {
					return malformed("PTX ends inside a pair of braces")
				}
				switch {
				case w == "{":
					depth++
				case w == "}":
					depth--
				case initialiser:
				case hasAnyPrefix(w, "tex.", "tld4.", "txq.", "suld.", "sust.", "sured.", "suq.", "istypep."):
					f.textures = true
				default:
					f.words[w] = true
				}
			}
			if !initialiser {
				functions[name] = f
				stmt = stmt[:0]
			}
		default:
			if len(stmt) < 4096 {
				stmt = append(stmt, t)
			}
			// Directives of a line that end without a semicolon.
			if n := len(stmt); n >= 2 && (stmt[0] == ".version" && n == 2 || stmt[0] == ".address_size" && n == 2) {
				stmt = stmt[:0]
			}
		}
	}
	graph := map[string]*function{}
	for name, f := range functions {
		g := &function{textures: f.textures}
		for w := range f.words {
			if functions[w] != nil && w != name {
				g.calls = append(g.calls, w)
			} else if service(w) != "" {
				g.externs = append(g.externs, w)
			}
		}
		graph[name] = g
	}
	for name, f := range functions {
		if !f.entry {
			continue
		}
		why := reasons(graph, name)
		if why == "" && legacy {
			why = textures
		}
		in.Kernels[name] = Kernel{Refuse: why}
	}
	return nil
}

func has(stmt []string, word string) bool {
	for _, s := range stmt {
		if s == word {
			return true
		}
	}
	return false
}

// functionName finds the name in ".visible .entry name (…" or ".func (…) name (…": the word before the last open parenthesis that
// is followed by parameters, or the last word.
func functionName(stmt []string) (name string, entry bool) {
	for i, s := range stmt {
		if s != ".entry" && s != ".func" {
			continue
		}
		depth := 0
		for _, w := range stmt[i+1:] {
			switch {
			case w == "(":
				depth++
			case w == ")":
				depth--
			case depth == 0 && !strings.HasPrefix(w, "."):
				return w, s == ".entry"
			}
		}
	}
	return "", false
}

// variable is the name that a module-scope .global or .const statement declares; "" when the statement declares none.
func variable(stmt []string) string {
	if !has(stmt, ".global") && !has(stmt, ".const") {
		return ""
	}
	if n, _ := functionName(stmt); n != "" {
		return ""
	}
	name := ""
	for i := 0; i < len(stmt); i++ {
		switch w := stmt[i]; {
		case w == "[" || w == "=":
			return name
		case w == ".align":
			i++ // its number
		case !strings.HasPrefix(w, "."):
			name = w
		}
	}
	return name
}

// tokens splits PTX text into words and single punctuation; comments and strings are left out.
type tokens struct {
	b  []byte
	at int
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c == '.' || c == '%' || c == ':' || c == '@' || c == '!'
}

func (t *tokens) next() (string, bool) {
	for t.at < len(t.b) {
		c := t.b[t.at]
		switch {
		case c == '/' && t.at+1 < len(t.b) && t.b[t.at+1] == '/':
			i := bytes.IndexByte(t.b[t.at:], '\n')
			if i < 0 {
				t.at = len(t.b)
			} else {
				t.at += i + 1
			}
		case c == '/' && t.at+1 < len(t.b) && t.b[t.at+1] == '*':
			i := bytes.Index(t.b[t.at+2:], []byte("*/"))
			if i < 0 {
				t.at = len(t.b)
			} else {
				t.at += i + 4
			}
		case c == '"':
			i := bytes.IndexByte(t.b[t.at+1:], '"')
			if i < 0 {
				t.at = len(t.b)
			} else {
				t.at += i + 2
			}
		case wordByte(c):
			from := t.at
			for t.at < len(t.b) && wordByte(t.b[t.at]) {
				t.at++
			}
			return string(t.b[from:t.at]), true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			t.at++
		default:
			t.at++
			return string(c), true
		}
	}
	return "", false
}
