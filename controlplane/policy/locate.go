package policy

import (
	"fmt"
	"strings"
)

// locate finds where each key of a TOML text stands, by its path ("class.batch.priority", "match[2].uid"), tables included. The
// text has been decoded without error before: what is wrong here merely has no position. github.com/BurntSushi/toml knows the
// positions of keys and does not tell them.
func locate(file, text string) map[string]Pos {
	l := &locator{file: file, text: text, line: 1, column: 1, at: map[string]Pos{}, tables: map[string]int{}}
	prefix := ""
	for l.blank(true); l.i < len(l.text); l.blank(true) {
		if l.peek() != '[' {
			l.pair(prefix)
			continue
		}
		here := l.pos()
		l.next()
		isArray := l.peek() == '['
		if isArray {
			l.next()
		}
		prefix = l.path("")
		if isArray {
			n := l.tables[prefix]
			l.tables[prefix]++
			prefix = fmt.Sprintf("%s[%d]", prefix, n)
		}
		l.note(prefix, here)
		for l.i < len(l.text) && l.peek() != '\n' {
			l.next()
		}
	}
	return l.at
}

type locator struct {
	file, text   string
	i            int
	line, column int
	at           map[string]Pos
	tables       map[string]int // elements of an array of tables so far
}

func (l *locator) pos() Pos { return Pos{l.file, l.line, l.column} }

func (l *locator) note(path string, p Pos) {
	if _, ok := l.at[path]; !ok {
		l.at[path] = p
	}
}

func (l *locator) peek() byte {
	if l.i < len(l.text) {
		return l.text[l.i]
	}
	return 0
}

func (l *locator) next() {
	if l.i >= len(l.text) {
		return
	}
	if l.text[l.i] == '\n' {
		l.line, l.column = l.line+1, 0
	}
	l.i++
	l.column++
}

// blank skips spaces and, with lines, comments and line ends.
func (l *locator) blank(lines bool) {
	for l.i < len(l.text) {
		switch c := l.peek(); {
		case c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r')):
			l.next()
		case lines && c == '#':
			for l.i < len(l.text) && l.peek() != '\n' {
				l.next()
			}
		default:
			return
		}
	}
}

// path reads a dotted key and puts it behind prefix.
func (l *locator) path(prefix string) string {
	for {
		l.blank(false)
		var part string
		if c := l.peek(); c == '"' || c == '\'' {
			from := l.i + 1
			l.quoted()
			part = l.text[from:max(from, l.i-1)]
		} else {
			from := l.i
			for l.i < len(l.text) && !strings.ContainsRune(".=] \t\r\n", rune(l.peek())) {
				l.next()
			}
			part = l.text[from:l.i]
		}
		if prefix != "" {
			prefix += "."
		}
		prefix += part
		if l.blank(false); l.peek() != '.' {
			return prefix
		}
		l.next()
	}
}

// pair reads "key = value".
func (l *locator) pair(prefix string) {
	here := l.pos()
	start := l.i
	path := l.path(prefix)
	l.note(path, here)
	if l.peek() == '=' {
		l.next()
	}
	l.value(path)
	if l.i == start {
		l.next() // never stand still
	}
}

// value skips a value; keys of inline tables are noted.
func (l *locator) value(path string) {
	l.blank(false)
	switch c := l.peek(); c {
	case '"', '\'':
		l.quoted()
	case '[':
		l.next()
		for n := 0; ; n++ {
			l.blank(true)
			if c := l.peek(); c == ']' || c == 0 {
				break
			}
			before := l.i
			l.value(fmt.Sprintf("%s[%d]", path, n))
			l.blank(true)
			if l.peek() == ',' || l.i == before {
				l.next()
			}
		}
		l.next()
	case '{':
		l.next()
		for {
			l.blank(true)
			if c := l.peek(); c == '}' || c == 0 {
				break
			}
			l.pair(path)
			l.blank(true)
			if l.peek() == ',' {
				l.next()
			}
		}
		l.next()
	default:
		for l.i < len(l.text) && !strings.ContainsRune(",]}#\n", rune(l.peek())) {
			l.next()
		}
	}
}

// quoted skips a string of any of the four kinds.
func (l *locator) quoted() {
	q := l.peek()
	long := strings.Repeat(string(q), 3)
	if strings.HasPrefix(l.text[l.i:], long) {
		for range 3 {
			l.next()
		}
		for l.i < len(l.text) && !strings.HasPrefix(l.text[l.i:], long) {
			if q == '"' && l.peek() == '\\' {
				l.next()
			}
			l.next()
		}
		for l.peek() == q && l.i < len(l.text) {
			l.next()
		}
		return
	}
	l.next()
	for l.i < len(l.text) && l.peek() != q && l.peek() != '\n' {
		if q == '"' && l.peek() == '\\' {
			l.next()
		}
		l.next()
	}
	l.next()
}
