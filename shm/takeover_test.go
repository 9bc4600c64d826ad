package shm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestRingErrorsInC runs c/test/space.c.
func TestRingErrorsInC(t *testing.T) {
	s, d := newSession(t)
	cmd := exec.Command(buildC(t, "space", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
	shareFds(t, cmd, s, d)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// executorEnv makes this test binary an executor: it reads the ring of fd 3 until it is killed.
const executorEnv = "SHM_TEST_EXECUTOR"

// signalBytes is the size of the records of TestExecutorKilled: a record's position tells its number.
const signalBytes = 32

// runExecutor is the executor that gets killed. It exits only when a record is not what its position says.
func runExecutor() error {
	s, err := OpenSessionFile(3)
	if err != nil {
		return err
	}
	d, err := OpenDoorbell(4)
	if err != nil {
		return err
	}
	c := NewConsumer(s)
	if err := c.Resume(s.Consumer().Read, s.Consumer().Head); err != nil {
		return err
	}
	fmt.Println("serving")
	for {
		if _, err := readNumbered(c); err != nil {
			return err
		}
		d.Sleep(func() bool { return !c.Empty() }, 100*time.Millisecond)
	}
}

// readNumbered reads and releases what there is and returns the last number.
func readNumbered(c *Consumer) (last uint32, err error) {
	for {
		v, ok, err := c.Next()
		if err != nil || !ok {
			return last, err
		}
		if v.Kind != KindSignal || uint64(v.Seq) != v.Pos/signalBytes+1 {
			return last, fmt.Errorf("record at %d has kind %d and number %d; expected %d", v.Pos, v.Kind, v.Seq, v.Pos/signalBytes+1)
		}
		last = v.Seq
		if v.Seq%7 == 0 {
			c.Release(v.End, true)
		}
		if c.Empty() {
			c.Release(v.End, true)
		}
	}
}

// TestExecutorKilled kills reading processes while a C producer writes more than the ring holds. Every successor finds every record
// from head on, and the producer is never left waiting.
func TestExecutorKilled(t *testing.T) {
	s, d := newSession(t)
	specs := make([]spec, 3*RingBytes/signalBytes/2)
	for i := range specs {
		specs[i] = spec{Kind: KindSignal, Seq: uint32(i + 1), PublishIt: 1, Seed: 1}
	}
	producer := newCEnd(t, s, d)
	produced := make(chan error, 1)
	go func() {
		_, err := producer.produce(specs, time.Microsecond)
		produced <- err
	}()
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), executorEnv+"=1")
		shareFds(t, cmd, s, d)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 8)); err != nil {
			t.Fatalf("executor %d does not serve: %v", round, err)
		}
		time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond) // anywhere in its work
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() {
			t.Fatalf("executor %d ended by itself: %v", round, cmd.ProcessState)
		}
	}
	c := NewConsumer(s)
	if err := c.Resume(s.Consumer().Read, s.Consumer().Head); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); c.Read() < uint64(len(specs))*signalBytes; {
		if _, err := readNumbered(c); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("stuck at %d of %d", c.Read(), len(specs)*signalBytes)
		}
		d.Sleep(func() bool { return !c.Empty() }, 100*time.Millisecond)
	}
	if err := <-produced; err != nil {
		t.Errorf("producer: %v", err)
	}
}
