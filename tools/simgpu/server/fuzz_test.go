package server

import (
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// victim is a process whose memory hostile messages may have the server write to.
func victim(t testing.TB) int {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

// testClient is a client as HELLO leaves it, whose process is pid.
func testClient(t testing.TB, s *Server, pid int) (*client, *net.UnixConn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "simfuzz")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	addr := &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixpacket"}
	l, err := net.ListenUnix("unixpacket", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.DialUnix("unixpacket", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(s, far)
	f, mem, err := sealedFile("status", wire.StatusSize)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	c.pid, c.kind, c.statusMem = pid, wire.KindClient, mem
	if !c.arena.init(1<<45, 1<<40) {
		t.Fatal("arena")
	}
	s.mu.Lock()
	s.clients[c] = true
	s.mu.Unlock()
	return c, near
}

// hostile turns bytes into messages: small numbers are likely, so that many
// arguments name things that exist.
func hostile(data []byte, send func(pkt []byte)) {
	for len(data) >= 2 {
		op, n := wire.Op(1+int(data[0])%int(wire.OpPeer)), int(data[1])%24
		data = data[2:]
		if op == wire.OpHello || op == wire.OpControl {
			continue
		}
		var args []uint64
		for i := 0; i < n && len(data) > 0; i++ {
			b := data[0]
			data = data[1:]
			switch {
			case b < 200:
				args = append(args, uint64(b%8))
			case b < 220:
				args = append(args, 1<<45+uint64(b%4)*granularity)
			case b < 240:
				args = append(args, uint64(b%4+1)*granularity)
			case len(data) >= 8:
				args = append(args, binary.LittleEndian.Uint64(data))
				data = data[8:]
			}
		}
		blob := data[:min(len(data), int(op)%40)]
		data = data[len(blob):]
		send(wire.AppendRequest(nil, op, uint64(len(args)%2), args, blob))
	}
}

// FuzzMessages sends hostile messages after an ordinary start. The server must
// not crash, and must give everything back when the client is gone.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{byte(wire.OpMemAlloc - 1), 3, 0, 0, 230, byte(wire.OpMemset - 1), 8, 0, 1, 210, 0, 4, 7, 3, 1})
	f.Add([]byte{byte(wire.OpCopy - 1), 12, 0, 1, 3, 210, 0, 0, 0, 0, 0, 8, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{byte(wire.OpVmmCreate - 1), 3, 0, 230, 1, byte(wire.OpVmmMap - 1), 4, 215, 230, 0, 5})
	f.Add([]byte{byte(wire.OpMemop - 1), 7, 0, 1, 1, 2, 210, 1, 0, byte(wire.OpStreamDestroy - 1), 1, 0, byte(wire.OpCtxDestroy - 1), 1, 0})
	f.Add([]byte{byte(wire.OpHostFunc - 1), 6, 0, 1, 1, 1, 0, 0, byte(wire.OpNextCallback - 1), 0, byte(wire.OpCallbackDone - 1), 1, 1})
	pid := victim(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := New(Options{Memory: 64 << 20, MaxInstructions: 1e5})
		if err != nil {
			t.Fatal(err)
		}
		defer s.waits.close()
		c, near := testClient(t, s, pid)
		done := make(chan struct{})
		go func() { c.serve(); close(done) }()
		go func() { // answers must be read, or the server waits for us
			buf := make([]byte, wire.MaxMessage)
			for {
				if n, err := near.Read(buf); err != nil || n == 0 {
					return
				}
			}
		}()
		send := func(pkt []byte) { near.Write(pkt) }
		send(wire.AppendRequest(nil, wire.OpCtxCreate, 1, []uint64{0, 0, 0}, nil))
		send(wire.AppendRequest(nil, wire.OpStreamCreate, 0, []uint64{0, 0, 0, 0, wire.StreamLegacy}, nil))
		send(wire.AppendRequest(nil, wire.OpStreamCreate, 0, []uint64{0, 1, 0, 0, wire.StreamNormal}, nil))
		hostile(data, send)
		near.Close()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("the client's end is not noticed")
		}
		if free, total := s.devices[0].free(); free != total {
			t.Errorf("%d bytes lost", total-free)
		}
	})
}
