package shm

import (
	"fmt"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// crashRecord2 checks that a record is the second one of c/test/crash.c, whole.
func crashRecord2(v *RecordView) error {
	if v.Kind != KindPut || v.Lane != 2 || v.Seq != 2 || v.Ready != 7 || !v.WantSignal() || len(v.Deps()) != 3 || v.Deps()[2] != (Dep{Lane: 5 | DepReady, Value: 6}) {
		return fmt.Errorf("record 2 is torn: %+v", v)
	}
	put, payload := v.Put()
	if put.Address != 99 || len(payload) != 40 {
		return fmt.Errorf("record 2's body is torn: %+v, %d bytes", put, len(payload))
	}
	for i, b := range payload {
		if int(b) != i/8+1 {
			return fmt.Errorf("record 2's payload is torn at %d: %v", i, payload)
		}
	}
	return nil
}

// readCrashed reads what there is, after `have` records: record 1 always, record 2 whole or not at all.
func readCrashed(c *Consumer, have int) (int, error) {
	for {
		v, ok, err := c.Next()
		if err != nil || !ok {
			return have, err
		}
		have++
		if have == 1 && (v.Kind != KindSignal || v.Seq != 1) || have > 2 {
			return have, fmt.Errorf("record %d is not one of the two: %+v", have, v)
		}
		if have == 2 {
			if err := crashRecord2(v); err != nil {
				return have, err
			}
		}
	}
}

// crashPlaces are starting positions: no pad, a pad of half a header, one of a header, a long one, and a record that ends with the ring.
var crashPlaces = map[string]uint64{"no pad": 0, "16 byte pad": RingBytes - 32 - 16, "32 byte pad": RingBytes - 32 - 32, "long pad": RingBytes - 32 - 112, "to the end": RingBytes - 32 - 128}

// TestCrashAtEveryStep kills a C producer at each step of writing and publishing a record, with the consumer awake and asleep. The
// consumer sees nothing or all of it, sees all of it if the tail says so, and never stalls.
func TestCrashAtEveryStep(t *testing.T) {
	program := buildC(t, "crash", "-DHEDDLE_RING_STEPS")
	for name, place := range crashPlaces {
		for _, asleep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s asleep %v", name, asleep), func(t *testing.T) {
				seen := map[int]int{}
				step := 1
				for ; ; step++ {
					records, died := crashOnce(t, program, step, place, asleep)
					seen[records]++
					if !died {
						break
					}
				}
				if seen[1] < 10 || seen[2] < 3 {
					t.Errorf("%d steps: after %v the consumer had one record, two records; expected many of one and some of two", step, seen)
				}
			})
		}
	}
}

func crashOnce(t *testing.T, program string, step int, place uint64, asleep bool) (records int, died bool) {
	t.Helper()
	s, err := CreateSessionFile(1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := CreateDoorbell()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	setPosition(s, place)
	c := NewConsumer(s)
	if err := c.Resume(place, place); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, fmt.Sprint(step))
	shareFds(t, cmd, s, d)
	var stop atomic.Bool
	type result struct {
		records int
		err     error
	}
	reader := make(chan result, 1)
	if asleep {
		// An executor's loop. Its sleep has a timeout, because a producer may die between its tail and the bell.
		go func() {
			var r result
			for r.err == nil {
				last := stop.Load()
				var n int
				if n, r.err = readCrashed(c, r.records); r.err == nil {
					r.records = n
				}
				if last {
					break
				}
				d.Sleep(func() bool { return !c.Empty() || stop.Load() }, 20*time.Millisecond)
			}
			reader <- r
		}()
	}
	err = cmd.Run()
	died = cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
	if err != nil && !died {
		t.Fatalf("step %d: %v", step, err)
	}
	var r result
	if asleep {
		stop.Store(true)
		d.Wake()
		r = <-reader
	} else {
		r.records, r.err = readCrashed(c, 0)
	}
	if r.err != nil {
		t.Fatalf("step %d: %v", step, r.err)
	}
	if r.records < 1 || (c.Read() != s.Producer().Tail) || (!died && r.records != 2) {
		t.Fatalf("step %d: %d records, read to %d, tail %d, died %v", step, r.records, c.Read(), s.Producer().Tail, died)
	}
	return r.records, died
}

// TestDeathAtEveryInstruction single-steps a C producer through writing and publishing a record and looks at the ring after every
// machine instruction: what is there then is what would be left if the process died there.
func TestDeathAtEveryInstruction(t *testing.T) {
	program := buildC(t, "crash")
	for name, place := range crashPlaces {
		t.Run(name, func(t *testing.T) { stepThrough(t, program, place) })
	}
}

func stepThrough(t *testing.T, program string, place uint64) {
	runtime.LockOSThread() // ptrace belongs to a thread
	defer runtime.UnlockOSThread()
	s, d := newSession(t)
	setPosition(s, place)
	d.words.Sleeping = 1 // take the path through the bell
	cmd := exec.Command(program, "0", "stop")
	shareFds(t, cmd, s, d)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a traced child (does this machine forbid ptrace of own children?): %v", err)
	}
	pid := cmd.Process.Pid
	defer func() {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
	}()
	wait := func() unix.WaitStatus {
		var ws unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
				if err != nil {
					t.Fatalf("wait: %v", err)
				}
				return ws
			}
		}
	}
	wait() // at exec
	if err := unix.PtraceCont(pid, 0); err != nil {
		t.Fatal(err)
	}
	if ws := wait(); !ws.Stopped() || ws.StopSignal() != unix.SIGSTOP {
		t.Fatalf("the producer did not stop before record 2: %#x", ws)
	}
	steps, last := 0, 1
	for {
		if err := unix.PtraceSingleStep(pid); err != nil {
			t.Fatal(err)
		}
		ws := wait()
		if !ws.Stopped() {
			t.Fatalf("the producer ended after %d steps: %#x", steps, ws)
		}
		steps++
		c := NewConsumer(s)
		if err := c.Resume(place, place); err != nil {
			t.Fatalf("after %d instructions: %v", steps, err)
		}
		records, err := readCrashed(c, 0)
		if err != nil || records < last || c.Read() != atomic.LoadUint64(&s.Producer().Tail) {
			t.Fatalf("after %d instructions: %d records, %d before, error %v", steps, records, last, err)
		}
		last = records
		if ws.StopSignal() == unix.SIGSTOP {
			break
		}
		if steps > 100000 {
			t.Fatal("no end after 100,000 instructions")
		}
	}
	if last != 2 || steps < 50 {
		t.Errorf("%d records after %d instructions; expected 2 after at least 50", last, steps)
	}
	t.Logf("%d instructions", steps)
}
