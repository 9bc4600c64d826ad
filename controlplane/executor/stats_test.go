package executor

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/shm"
)

// Every class and every session is told once, however many there are and however long a class's name is, in messages that fit.
func TestStatisticsInPages(t *testing.T) {
	for _, n := range []struct{ classes, sessions int }{{0, 0}, {1, 1}, {3, 40}, {1000, 0}, {0, 5000}, {300, 3000}} {
		st := Stats{Ops: 7}
		for _, name := range CallNames {
			c := CallStats{Call: name, Count: 1 << 60, Seconds: 1.0 / 3, Longest: 2.0 / 3, Beside: 1.0 / 7}
			for k := range c.Counts {
				c.Counts[k] = 1 << 60
			}
			st.Driver = append(st.Driver, c)
		}
		for i := range n.classes {
			c := ClassStats{Class: fmt.Sprint(i, strings.Repeat("x", i%200)), Requests: 1 << 40}
			for k := range c.Queue.Counts {
				c.Queue.Counts[k] = uint64(i) << 30
			}
			st.Classes = append(st.Classes, c)
		}
		for i := range n.sessions {
			st.Sessions = append(st.Sessions, SessionStats{ClientID: uint64(i), RingBytes: 1 << 30})
		}
		var classes, sessions int
		for from, pages := 0, 0; ; pages++ {
			text, next, err := st.page(from)
			if err != nil {
				t.Fatal(err)
			}
			if len(text) > shm.MessageBytes-128 {
				t.Fatalf("%+v: a page of %d bytes", n, len(text))
			}
			var p Stats
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatal(err)
			}
			if p.Next != next || from == 0 != (p.Ops == 7) {
				t.Errorf("%+v: page %d: %d, %d, ops %d", n, pages, p.Next, next, p.Ops)
			}
			for _, c := range p.Classes {
				if c.Class != st.Classes[classes].Class {
					t.Fatalf("%+v: class %s, expected %s", n, c.Class, st.Classes[classes].Class)
				}
				classes++
			}
			for _, s := range p.Sessions {
				if s.ClientID != uint64(sessions) {
					t.Fatalf("%+v: session %d, expected %d", n, s.ClientID, sessions)
				}
				sessions++
			}
			if next == 0 {
				break
			}
			if next <= from {
				t.Fatalf("%+v: from %d to %d", n, from, next)
			}
			from = next
		}
		if classes != n.classes || sessions != n.sessions {
			t.Errorf("%+v: %d classes and %d sessions were told", n, classes, sessions)
		}
	}
	// A request beyond the end, as after a change of executors.
	st := Stats{Sessions: []SessionStats{{}}}
	if text, next, err := st.page(1 << 40); err != nil || next != 0 || !json.Valid(text) {
		t.Errorf("beyond the end: %s, %d, %v", text, next, err)
	}
}
