package ptx

import (
	"math"
	"strconv"
	"strings"
)

type tokKind uint8

const (
	tEOF    tokKind = iota
	tIdent          // name, %name, $name
	tDot            // .word, with ::parts
	tInt            // val
	tFloat          // val holds the bits, width 32 or 64
	tString         // text without quotes
	tPunct          // text
)

type token struct {
	kind  tokKind
	text  string
	pos   Pos
	glued bool // no blank before it
	val   uint64
	uns   bool // U suffix
	width int
	off   int // byte offset of the start
}

// lexer cuts source text into tokens on demand. Bad bytes are reported through
// fail and skipped, so that lexing always advances.
type lexer struct {
	src  string
	i    int
	line int
	bol  int // offset of the current line's first byte
	fail func(*Error)
}

func (l *lexer) pos(i int) Pos { return Pos{l.line, i - l.bol + 1} }

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isFollow(c byte) bool {
	return isAlpha(c) || isDigit(c) || c == '_' || c == '$'
}

// skipBlank passes blanks and comments and tells whether there were any.
func (l *lexer) skipBlank() bool {
	start := l.i
	for l.i < len(l.src) {
		c := l.src[l.i]
		switch {
		case c == '\n':
			l.i++
			l.line++
			l.bol = l.i
		case c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v' || c == 0:
			l.i++
		case c == '/' && l.i+1 < len(l.src) && l.src[l.i+1] == '/', c == '#' && l.lineMarker():
			for l.i < len(l.src) && l.src[l.i] != '\n' {
				l.i++
			}
		case c == '/' && l.i+1 < len(l.src) && l.src[l.i+1] == '*':
			open := l.pos(l.i)
			end := strings.Index(l.src[l.i+2:], "*/")
			if end < 0 {
				l.fail(Errorf(open, "comment is not closed: expected */"))
				l.i = len(l.src)
				return true
			}
			stop := l.i + 2 + end + 2
			for ; l.i < stop; l.i++ {
				if l.src[l.i] == '\n' {
					l.line++
					l.bol = l.i + 1
				}
			}
		default:
			return l.i > start
		}
	}
	return l.i > start
}

// lineMarker tells whether the '#' at l.i begins a line that a preprocessor left:
// "# 1 "a.cu"" or "#line 1". They have no effect.
func (l *lexer) lineMarker() bool {
	i := l.i
	for i > l.bol && (l.src[i-1] == ' ' || l.src[i-1] == '\t') {
		i--
	}
	if i > l.bol {
		return false
	}
	rest := strings.TrimLeft(l.src[l.i+1:min(len(l.src), l.i+64)], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "line"), " \t")
	return rest != "" && isDigit(rest[0])
}

func (l *lexer) follow(i int) int {
	for i < len(l.src) && isFollow(l.src[i]) {
		i++
	}
	return i
}

var punct2 = map[string]bool{"<<": true, ">>": true, "==": true, "!=": true, "<=": true, ">=": true, "&&": true, "||": true}

// next gives the next token.
func (l *lexer) next() token {
	for {
		blank := l.skipBlank()
		if l.i >= len(l.src) {
			return token{kind: tEOF, text: "end of file", pos: l.pos(l.i), off: l.i}
		}
		start := l.i
		c := l.src[start]
		t := token{pos: l.pos(start), glued: !blank, off: start}
		switch {
		case isAlpha(c), c == '_', c == '$', c == '%' && start+1 < len(l.src) && isFollow(l.src[start+1]):
			l.i = l.follow(start + 1)
			t.kind, t.text = tIdent, l.src[start:l.i]
			return t
		case c == '.' && l.decimal(start) > 0:
			l.number(&t)
			return t
		case c == '.' && start+1 < len(l.src) && isFollow(l.src[start+1]):
			i := l.follow(start + 1)
			for i+2 < len(l.src) && l.src[i] == ':' && l.src[i+1] == ':' && isFollow(l.src[i+2]) {
				i = l.follow(i + 2)
			}
			l.i = i
			t.kind, t.text = tDot, l.src[start:i]
			return t
		case isDigit(c):
			l.number(&t)
			return t
		case c == '"':
			end := strings.IndexAny(l.src[start+1:], "\"\n")
			if end < 0 || l.src[start+1+end] == '\n' {
				l.fail(Errorf(t.pos, "string is not closed on its line: expected \""))
				if end < 0 {
					end = len(l.src) - start - 1
				}
				l.i = start + 1 + end
			} else {
				l.i = start + 1 + end + 1
			}
			t.kind, t.text = tString, l.src[start+1:start+1+end]
			return t
		}
		if start+2 <= len(l.src) && punct2[l.src[start:start+2]] {
			l.i += 2
			t.kind, t.text = tPunct, l.src[start:start+2]
			return t
		}
		l.i++
		if strings.IndexByte("()[]{}<>,;:|!@+-*/%&^~?=.", c) >= 0 {
			t.kind, t.text = tPunct, l.src[start:l.i]
			return t
		}
		l.fail(Errorf(t.pos, "byte %q does not belong in PTX", c))
		if c >= 0x80 { // one report for a run of such bytes
			for l.i < len(l.src) && l.src[l.i] >= 0x80 {
				l.i++
			}
		}
	}
}

// decimal gives the end of the decimal float that begins at i (digits with a point,
// an exponent or both), or 0. A modifier such as ".16x64b" is none.
func (l *lexer) decimal(i int) int {
	s, start, digits := l.src, i, 0
	for ; i < len(s) && isDigit(s[i]); i++ {
		digits++
	}
	point := i < len(s) && s[i] == '.'
	if point {
		for i++; i < len(s) && isDigit(s[i]); i++ {
			digits++
		}
	}
	exp := false
	if i < len(s) && s[i]|0x20 == 'e' {
		k := i + 1
		if k < len(s) && (s[k] == '+' || s[k] == '-') {
			k++
		}
		for ; k < len(s) && isDigit(s[k]); k++ {
			i, exp = k+1, true
		}
	}
	if digits == 0 || !point && !exp || i < len(s) && (isFollow(s[i]) || s[i] == ':') || i == start {
		return 0
	}
	return i
}

// number reads an integer or floating-point literal (PTX ISA 4.5).
func (l *lexer) number(t *token) {
	s, start := l.src, l.i
	end := l.follow(start)
	word := s[start:end]
	hexFloat := func(n, width int) bool {
		if len(word) != n+2 {
			return false
		}
		v, err := strconv.ParseUint(word[2:], 16, 64)
		if err != nil {
			return false
		}
		l.i = end
		t.kind, t.text, t.val, t.width = tFloat, word, v, width
		return true
	}
	if len(word) > 2 && word[0] == '0' {
		switch word[1] {
		case 'f', 'F':
			if hexFloat(8, 32) {
				return
			}
		case 'd', 'D':
			if hexFloat(16, 64) {
				return
			}
		}
	}
	if j := l.decimal(start); j > 0 {
		l.i = j
		t.kind, t.text, t.width = tFloat, s[start:j], 64
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil && math.IsInf(f, 0) {
			l.fail(Errorf(t.pos, "number %s is too large for f64", clip(t.text)))
		}
		t.val = math.Float64bits(f)
		return
	}
	l.i = end
	t.kind, t.text = tInt, word
	digits := word
	if n := len(digits); n > 1 && (digits[n-1] == 'U' || digits[n-1] == 'u') {
		digits, t.uns = digits[:n-1], true
	}
	base := 10
	switch {
	case len(digits) > 2 && (digits[:2] == "0x" || digits[:2] == "0X"):
		base, digits = 16, digits[2:]
	case len(digits) > 2 && (digits[:2] == "0b" || digits[:2] == "0B"):
		base, digits = 2, digits[2:]
	case len(digits) > 1 && digits[0] == '0':
		base, digits = 8, digits[1:]
	}
	v, err := strconv.ParseUint(digits, base, 64)
	if err != nil {
		l.fail(Errorf(t.pos, "%s is not a number: expected decimal, 0x, 0b, octal, 0f with 8 or 0d with 16 hex digits, below 2^64", clip(word)))
	}
	t.val = v
}

// clip shortens source text for a message.
func clip(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return strconv.Quote(s)
}
