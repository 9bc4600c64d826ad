package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// stepper is a client that does one thing when it is told to (clients/steps.c).
type stepper struct {
	b    *bed
	in   io.WriteCloser
	out  *bufio.Scanner
	errs *lockedBuffer
	kill func() // as the system does
}

func (b *bed) stepper(heddle bool, extra ...string) *stepper {
	b.t.Helper()
	return b.stepperOf("steps", heddle, extra...)
}

// stepperOf starts a client program that answers every line of its input.
func (b *bed) stepperOf(program string, heddle bool, extra ...string) *stepper {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	cmd := b.command(ctx, heddle, program, extra...)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	s := &stepper{b: b, in: in, out: bufio.NewScanner(out), errs: &lockedBuffer{}, kill: cancel}
	cmd.Stderr = s.errs
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		cancel()
	})
	return s
}

func (s *stepper) tell(line string) {
	if _, err := fmt.Fprintln(s.in, line); err != nil {
		s.b.t.Fatalf("%s: %v\n%s", line, err, s.errs)
	}
}

// hear waits for the answer to the oldest line.
func (s *stepper) hear() string {
	s.b.t.Helper()
	if !s.out.Scan() {
		s.b.t.Fatalf("the client ended\n%s\ndaemon:\n%s", s.errs, s.b.log)
	}
	return s.out.Text()
}

func (s *stepper) do(line string) string { s.b.t.Helper(); s.tell(line); return s.hear() }

// A fault ends the executor with the work of two clients in flight. Who did it gets the fault's own code, and the other's kernels,
// which are harmless to repeat, are repeated: it goes on and never learns of it.
func TestAFaultIsItsOwnersAlone(t *testing.T) {
	b := newBed(t)
	native := b.stepper(false)
	b.startDaemon()
	good := b.stepper(true)
	for round := range 2 {
		bad := b.stepper(true)
		bad.do("fill 1 1") // its session lives
		many := fmt.Sprintf("fill %d 300", round)
		good.tell(many)
		if got := bad.do("wild"); got != "700" {
			t.Errorf("round %d: the client with the wild pointer gets error %s; want 700\ndaemon:\n%s", round, got, b.log)
		}
		if got, want := good.hear(), native.do(many); got != want {
			t.Errorf("round %d: the other client has %s; natively %s", round, got, want)
		}
	}
	st, err := b.status()
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Executors) != 1 || st.Executors[0].Epoch < 3 {
		t.Errorf("%+v; want one executor, the third or later", st.Executors)
	}
	for _, c := range st.Clients {
		if c.Error != 0 && !strings.Contains(c.ErrorReason, "device-fault") {
			t.Errorf("client %d has error %d (%s)", c.ID, c.Error, c.ErrorReason)
		}
	}
}

// A client whose waits are short sees nothing of its executors but their ends: each loss begins its patience anew, however long
// the one before is past.
func TestEveryLossBeginsPatienceAnew(t *testing.T) {
	const patience = 300 * time.Millisecond // times five, while the daemon lives
	b := newBed(t)
	b.startDaemon()
	c := b.stepper(true, fmt.Sprintf("HEDDLE_REATTACH_MS=%d", patience.Milliseconds()))
	c.do("fill 1 1")
	for i := range 3 {
		if !b.killExecutor() {
			t.Fatal("no executor to kill")
		}
		c.do(fmt.Sprintf("fill %d 1", i)) // waits for the next executor
		st, err := b.status()
		if err != nil || len(st.Clients) != 1 || st.Clients[0].State != "live" {
			t.Fatalf("after kill %d: %+v, %v; want the client, live\n%s", i+1, st.Clients, err, c.errs)
		}
		time.Sleep(6 * patience) // what is tested is the time between two losses
	}
}
