package ptx

import (
	"os"
	"testing"
)

func TestSmoke(t *testing.T) {
	b, err := os.ReadFile(os.Getenv("PTX"))
	if err != nil {
		return
	}
	m, err := Parse(b)
	t.Log(err)
	if m != nil {
		t.Log(len(m.Funcs), len(m.Vars))
	}
}
