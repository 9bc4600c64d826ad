package server

import "testing"

// TestClosedDescriptorsHoldNothing: memory is free when the last descriptor of it was closed, not when the server gets to see that.
func TestClosedDescriptorsHoldNothing(t *testing.T) {
	const all = 4 * granularity
	s, err := New(Options{Memory: all})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		o := s.newObject(s.devices[0], all, true)
		if o == nil {
			free, total := s.devices[0].free()
			t.Fatalf("round %d: %d of %d bytes are free", i, free, total)
		}
		fd, err := s.exports.add(o) // the only reference
		if err != nil {
			t.Fatal(err)
		}
		if s.newObject(s.devices[0], granularity, false) != nil {
			t.Fatal("memory that a descriptor holds was given away")
		}
		fd.Close()
	}
	s.exports.settle()
	if n := s.exported(); n != 0 {
		t.Errorf("%d exports are left", n)
	}
}
