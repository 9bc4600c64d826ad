package scoreboard

import "testing"

// A graph's time, by which its class is charged, does not follow what company makes of it; how long it lasts does.
func TestGraphTimes(t *testing.T) {
	g := &Graph{Nodes: 10, Weight: 0.5}
	if g.Measured() || g.Time() != 10*graphNode {
		t.Errorf("before it was measured it takes %d ns", g.Time())
	}
	for _, ns := range []int64{5_000, 1_000, 1_200} { // the first launch makes things
		g.Took(ns, false)
	}
	if g.Time() != 1_000 || g.Cost() != 500 {
		t.Errorf("by itself it takes %d ns and costs %d; want 1,000 and 500", g.Time(), g.Cost())
	}
	for range 64 {
		g.Took(9_000, true)
	}
	if g.Time() > 1_600 || g.Lasts() < 8_000 {
		t.Errorf("beside others it takes %d ns and lasts %d; want about 1,000, and 9,000", g.Time(), g.Lasts())
	}
	for range 1024 {
		g.Took(9_000, false)
	}
	if g.Time() < 8_000 {
		t.Errorf("now that it takes 9,000 ns by itself it is said to take %d", g.Time())
	}
	p := &GraphParts{Times: []int64{400, 600}, Measured: []bool{false, false}, Nodes: []int{5, 5}}
	g.Built(p)
	g.TookPart(p, 0, 500, true)
	g.TookPart(p, 1, 600, true)
	for range 8 {
		g.TookPart(p, 0, 5_000, true)
	}
	if p.Times[0] > 600 || g.Time() != p.Time(0, 2) {
		t.Errorf("part 0 is said to take %d ns, the graph %d", p.Times[0], g.Time())
	}
}
