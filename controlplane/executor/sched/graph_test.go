package sched

import (
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// What waits for graphs in flight goes when the last one of them is done, whatever becomes of their client meanwhile.
func TestGraphInFlight(t *testing.T) {
	const second = 1000 * ms
	for _, c := range []struct {
		what string
		then func(d *table, c *Client, end func())
		want string
	}{
		{"one of two is done", func(_ *table, _ *Client, end func()) { end() }, ""},
		{"both are", func(_ *table, _ *Client, end func()) { end(); end() }, "short"},
		{"the client leaves", func(d *table, c *Client, _ func()) { d.s.Detach(c) }, "short"},
		{"it goes to the class below", func(d *table, c *Client, _ func()) { d.s.Move(c, d.s.byName["low"]) }, "short"},
		{"there and back", func(d *table, c *Client, _ func()) {
			d.s.Move(c, d.s.byName["low"])
			d.s.Move(c, d.s.byName["high"])
		}, ""},
		{"nothing completes for as long as graphs last", func(d *table, _ *Client, _ func()) { d.s.Begin(second+ms, ms) }, ""},
		{"nothing completes for long", func(d *table, _ *Client, _ func()) { d.s.Begin(second+5*ms, 5*ms) }, "short"},
	} {
		d := &table{s: New(), clients: map[string]*Client{}, names: map[*scoreboard.Op]string{}}
		d.class("low", Settings{})
		d.class("high", Settings{Priority: 1, Latency: 10 * ms, MaxWait: 100 * us})
		for _, name := range []string{"graph1", "graph2"} {
			op := d.op("high/1", name, second, 10*us)
			op.Kind, op.Graph = shm.KindGraph, &scoreboard.Graph{}
			op.Graph.Took(1200*us, false) // much longer than the part of the chip that it takes would
			if got := d.issue(second); got != name {
				t.Fatalf("%s went, not %s", got, name)
			}
		}
		client := d.client("high/1")
		var lanes []*scoreboard.Lane
		for i := range 2 {
			lanes = append(lanes, client.board.Lane(uint32(i+1)))
		}
		d.op("low/1", "short", second, 5*us)
		d.s.Begin(second, 0)
		if got := d.issue(second); got != "" {
			t.Fatalf("%s went beside two graphs", got)
		}
		c.then(d, client, func() {
			l := lanes[0]
			lanes = lanes[1:]
			l.Done = 1
			d.s.Completed(client, l, 1, second)
			d.s.Begin(second, 0)
		})
		if got := d.issue(second); got != c.want {
			t.Errorf("%s: %q went, not %q", c.what, got, c.want)
		}
	}
}
