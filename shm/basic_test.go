package shm

import (
	"bytes"
	"testing"
	"time"
)

func newSession(t testing.TB) (*SessionFile, *Doorbell) {
	t.Helper()
	s, err := CreateSessionFile(7)
	if err != nil {
		t.Fatal(err)
	}
	d, err := CreateDoorbell()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		d.Close()
	})
	return s, d
}

func newProducer(t testing.TB, s *SessionFile, d *Doorbell) *Producer {
	t.Helper()
	p, err := NewProducer(s, d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLaunchRoundTrip sends one launch with dependencies and parameters and reads it back.
func TestLaunchRoundTrip(t *testing.T) {
	s, d := newSession(t)
	p, c := newProducer(t, s, d), NewConsumer(s)
	params := []byte("parameters of 22 bytes")
	want := Launch{Kernel: 3, GridX: 4, GridY: 5, GridZ: 6, BlockX: 32, BlockY: 1, BlockZ: 1, SharedBytes: 48, ParamBytes: uint32(len(params))}
	deps := []Dep{{Lane: 2, Value: 9}, {Lane: 3 | DepReady, Value: 1}, {Lane: 1023, Value: 4}}
	body, pos, ok := p.Begin(Header{Kind: KindLaunch, Flags: RecordFlagWantSignal, Lane: 1, Seq: 77, Ready: 5, Deps: deps}, 64+len(params))
	if !ok {
		t.Fatal("no room in an empty ring")
	}
	copy(body[Put(body, want):], params)
	if _, ok, err := c.Next(); ok || err != nil {
		t.Fatalf("before Publish: record %v, error %v", ok, err)
	}
	p.Publish()
	v, ok, err := c.Next()
	if !ok || err != nil {
		t.Fatalf("record %v, error %v", ok, err)
	}
	got, gotParams := v.Launch()
	if *got != want || !bytes.Equal(gotParams, params) || !v.WantSignal() || v.Lane != 1 || v.Seq != 77 || v.Ready != 5 || v.Pos != pos {
		t.Errorf("got %+v %q in %+v", got, gotParams, v)
	}
	if len(v.Deps()) != 3 || v.Deps()[1] != deps[1] {
		t.Errorf("deps %v; expected %v", v.Deps(), deps)
	}
	c.Release(v.End, true)
	if _, ok, err := c.Next(); ok || err != nil {
		t.Fatalf("second record %v, error %v", ok, err)
	}
}

// TestConnRoundTrip sends a message with a descriptor through a pair.
func TestConnRoundTrip(t *testing.T) {
	a, fd, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := NewConn(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, _ := newSession(t)
	want := Kernel{ImageID: 5, KernelID: 6}
	if err := a.Send(Message{Type: TypeKernel, Request: 1, ClientID: 2, Body: Encode(want), Tail: []byte("name"), Fds: []int{s.Fd()}}); err != nil {
		t.Fatal(err)
	}
	m, err := b.Recv(time.Now().Add(5 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode[Kernel](m.Body)
	if err != nil || got != want || string(m.Tail) != "name" || m.Type != TypeKernel || m.Request != 1 || m.ClientID != 2 {
		t.Errorf("got %+v %v in %+v", got, err, m)
	}
	fds, err := m.TakeFds(1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := OpenSessionFile(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}
