package shm

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// buildDir holds the C programs of this test binary.
var buildDir string

func TestMain(m *testing.M) {
	if os.Getenv(executorEnv) != "" {
		fmt.Fprintln(os.Stderr, runExecutor())
		os.Exit(1)
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "shm-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	before := openFds()
	code := m.Run()
	os.RemoveAll(buildDir)
	if after := openFds(); code == 0 && len(after) > len(before) {
		fmt.Fprintf(os.Stderr, "descriptors leaked: %d before, %d after:\n%s\n", len(before), len(after), strings.Join(after, "\n"))
		code = 99
	}
	os.Exit(code)
}

// openFds lists this process's descriptors; those of the Go runtime's poller and of the fuzzing engine do not count.
func openFds() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "/proc/") {
			continue
		}
		out = append(out, e.Name()+" "+target)
	}
	return out
}

var built struct {
	sync.Mutex
	done map[string]error
}

// buildC compiles program c/test/<source>.c together with the C half of the wire and returns its path; once for each set of flags.
func buildC(t testing.TB, source string, flags ...string) string {
	t.Helper()
	path := filepath.Join(buildDir, source+strings.Join(flags, ""))
	built.Lock()
	defer built.Unlock()
	err, known := built.done[path]
	if !known {
		args := append([]string{"-std=c11", "-O2", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", "-Wno-tsan", "-Ic", "-Ic/test", "-o", path,
			"c/test/" + source + ".c", "c/heddle_ring.c", "c/heddle_channel.c", "c/heddle_hash.c"}, flags...)
		var out []byte
		if out, err = exec.Command("cc", args...).CombinedOutput(); err != nil {
			err = fmt.Errorf("cc %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		if built.done == nil {
			built.done = map[string]error{}
		}
		built.done[path] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shareFds gives a child the session file as fd 3 and the doorbell as fd 4.
func shareFds(t testing.TB, cmd *exec.Cmd, s *SessionFile, d *Doorbell) {
	t.Helper()
	for _, fd := range []int{s.Fd(), d.Fd()} {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(dup), "shared")
		t.Cleanup(func() { f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
}

// spec is one record to write, as c/test/peer.c reads it. Dependencies and payload come from Seed.
type spec struct {
	Kind, Flags                                                 uint16
	Lane, Seq, Ready, Deps, FixedBytes, PayloadBytes, PublishIt uint32
	Seed                                                        uint64
	Fixed                                                       [128]byte
}

func xorshift(s *uint64) uint64 {
	*s ^= *s << 13
	*s ^= *s >> 7
	*s ^= *s << 17
	return *s
}

// content is what spec makes of its seed.
func (s *spec) content() (deps []Dep, payload []byte) {
	x := s.Seed
	for range s.Deps {
		v := xorshift(&x)
		d := Dep{Lane: uint32(v) % Lanes, Value: uint32(v >> 32)}
		if v>>40&1 != 0 {
			d.Lane |= DepReady
		}
		deps = append(deps, d)
	}
	for len(payload) < int(s.PayloadBytes) {
		payload = binary.LittleEndian.AppendUint64(payload, xorshift(&x))
	}
	return deps, payload[:s.PayloadBytes]
}

// flatHash is the hash of a record without its paddings, as peer.c computes it.
func flatHash(kind, flags uint16, lane, seq, ready uint32, deps []Dep, body []byte) uint64 {
	size := uint32(RecordBytes(len(deps), len(body)))
	r := Record{Size: size, Kind: kind, Flags: flags, Lane: lane, Seq: seq, Ready: ready, Ndeps: uint32(len(deps))}
	flat := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r)), recordBytes)...)
	for _, d := range deps {
		flat = binary.LittleEndian.AppendUint32(flat, d.Lane)
		flat = binary.LittleEndian.AppendUint32(flat, d.Value)
	}
	return Hash64(append(flat, body...), 0)
}

func (s *spec) hash() uint64 {
	deps, payload := s.content()
	return flatHash(s.Kind, s.Flags, s.Lane, s.Seq, s.Ready, deps, append(append([]byte(nil), s.Fixed[:s.FixedBytes]...), payload...))
}

func viewHash(v *RecordView) uint64 {
	body := unsafe.Slice((*byte)(unsafe.Pointer(v.body)), kinds[v.Kind].body)
	return flatHash(v.Kind, v.Flags, v.Lane, v.Seq, v.Ready, v.Deps(), append(append([]byte(nil), body...), v.Payload()...))
}

// span is when one call began and returned, in ns of CLOCK_MONOTONIC, which both languages read.
type span struct{ Start, End uint64 }

func now() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}

// end is one side of a ring in some language.
type end interface {
	produce(specs []spec, pause time.Duration) ([]span, error)
	consume(n, lag int) ([]uint64, []span, error)
}

// goEnd is a side in this process.
type goEnd struct {
	s *SessionFile
	d *Doorbell
}

func (g goEnd) produce(specs []spec, pause time.Duration) ([]span, error) {
	p, err := NewProducer(g.s, g.d)
	if err != nil {
		return nil, err
	}
	spans := make([]span, len(specs))
	for i := range specs {
		sp := &specs[i]
		deps, payload := sp.content()
		h := Header{sp.Kind, sp.Flags, sp.Lane, sp.Seq, sp.Ready, deps}
		bytes := int(sp.FixedBytes + sp.PayloadBytes)
		spans[i].Start = now()
		body, _, ok := p.Begin(h, bytes)
		for !ok {
			if err := p.WaitSpace(RecordBytes(len(deps), bytes), 20*time.Second); err != nil {
				return nil, err
			}
			body, _, ok = p.Begin(h, bytes)
		}
		copy(body[copy(body, sp.Fixed[:sp.FixedBytes]):], payload)
		if sp.PublishIt != 0 {
			p.Publish()
		}
		spans[i].End = now()
		for until := now() + uint64(pause); now() < until; {
		}
	}
	p.Publish()
	return spans, nil
}

func (g goEnd) consume(n, lag int) ([]uint64, []span, error) {
	c := NewConsumer(g.s)
	if err := c.Resume(g.s.Consumer().Read, g.s.Consumer().Head); err != nil {
		return nil, nil, err
	}
	var hashes, ends []uint64
	var spans []span
	released := 0
	deadline := time.Now().Add(20 * time.Second)
	for len(hashes) < n {
		start := now()
		v, ok, err := c.Next()
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			if released < len(ends) {
				released = len(ends)
				c.Release(ends[released-1], true)
			} else {
				g.d.Sleep(func() bool { return !c.Empty() }, 100*time.Millisecond)
			}
			if time.Now().After(deadline) {
				return nil, nil, ErrTimeout
			}
			continue
		}
		hashes = append(hashes, viewHash(v))
		spans = append(spans, span{start, now()})
		ends = append(ends, v.End)
		if len(ends)-released > lag {
			c.Release(ends[released], true)
			released++
		}
	}
	c.Release(c.Read(), true)
	return hashes, spans, nil
}

// cEnd is a side in a process of its own: c/test/peer.c.
type cEnd struct {
	in  io.WriteCloser
	out io.Reader
}

func newCEnd(t testing.TB, s *SessionFile, d *Doorbell) cEnd {
	t.Helper()
	cmd := exec.Command(buildC(t, "peer"))
	shareFds(t, cmd, s, d)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("peer: %v", err)
		}
	})
	return cEnd{in, out}
}

func (c cEnd) command(op, n, lag int, pause time.Duration, specs []spec) error {
	for _, part := range []any{[]uint32{uint32(op), uint32(n), uint32(lag), uint32(pause.Microseconds())}, specs} {
		if err := binary.Write(c.in, binary.LittleEndian, part); err != nil {
			return err
		}
	}
	var status int32
	if err := binary.Read(c.out, binary.LittleEndian, &status); err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("peer: %w", unix.Errno(-status))
	}
	return nil
}

func (c cEnd) produce(specs []spec, pause time.Duration) ([]span, error) {
	if err := c.command(1, len(specs), 0, pause, specs); err != nil {
		return nil, err
	}
	spans := make([]span, len(specs))
	return spans, binary.Read(c.out, binary.LittleEndian, spans)
}

func (c cEnd) consume(n, lag int) ([]uint64, []span, error) {
	if err := c.command(2, n, lag, 0, nil); err != nil {
		return nil, nil, err
	}
	hashes, spans := make([]uint64, n), make([]span, n)
	if err := binary.Read(c.out, binary.LittleEndian, hashes); err != nil {
		return nil, nil, err
	}
	return hashes, spans, binary.Read(c.out, binary.LittleEndian, spans)
}

// setPosition moves an empty ring to a position, so that a test reaches the end of the buffer at once.
func setPosition(s *SessionFile, pos uint64) {
	s.Producer().Tail, s.Consumer().Head, s.Consumer().Read = pos, pos, pos
}
