package daemon

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/heddle-gpu/heddle/shm"
)

// loads has a client load kernels of one image; the last one may end the executor.
func (c *client) loads(t *testing.T, names ...string) {
	t.Helper()
	id := c.image(t, "code")
	for _, n := range names {
		c.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: id}), []byte(n))
	}
}

func (c *client) status() *shm.SessionStatus { return c.file.Status() }

// A fault with several suspects: the next executor tries them, the one that faults gets the fault's code, and the others learn who
// it was. The third executor serves whoever is left.
func TestTheGuiltySuspectIsFoundByTrial(t *testing.T) {
	h := start(t)
	a, b, c := h.dial(), h.dial(), h.dial()
	a.loads(t, "innocent")
	b.loads(t, "guilty")
	c.loads(t, "innocent", "company") // this ends the first executor
	eventually(t, "the third executor", func() bool { return atomic.LoadUint32(&c.status().Epoch) == 3 && c.state() == shm.StateLive })
	if st := b.status(); atomic.LoadUint32(&st.Error) != 700 || atomic.LoadUint32(&st.ErrorReason) != shm.ReasonFault {
		t.Errorf("the guilty client has error %d, reason %d; want 700, FAULT", st.Error, st.ErrorReason)
	}
	for _, o := range []*client{a, c} {
		st := o.status()
		if st.Error != 0 {
			t.Errorf("client %d has error %d", o.welcome.ClientID, st.Error)
		}
		if st.CauseClient != b.welcome.ClientID || !strings.HasPrefix(string(st.CauseKernel[:]), "guilty\x00") {
			t.Errorf("client %d learns of client %d, kernel %q", o.welcome.ClientID, st.CauseClient, st.CauseKernel)
		}
	}
	if told := h.told(); strings.Contains(told, "TRIAL") || strings.Contains(told, "APART") {
		t.Errorf("the third executor was told of trials or kernels to set apart, though the guilty one is known:\n%s", told)
	}
	// A later death has nothing to do with it.
	a.loads(t, "again")
}

// When no suspect faults alone, it was their company: their kernels are set apart, for the session's life, and before RESUME.
func TestKernelsThatFaultOnlyInCompanyAreSetApart(t *testing.T) {
	h := start(t)
	a, b := h.dial(), h.dial()
	a.loads(t, "first")
	b.loads(t, "second", "company")
	check := func(epoch uint32) {
		t.Helper()
		eventually(t, "an executor", func() bool { return atomic.LoadUint32(&b.status().Epoch) == epoch && b.state() == shm.StateLive })
		told := h.told()
		for _, c := range []*client{a, b} {
			at := func(what string) int {
				return strings.Index(told, fmt.Sprintf("%s client=%d ", what, c.welcome.ClientID))
			}
			if trial := at("TRIAL"); (trial >= 0) != (epoch == 2) || trial > at("RESUME") {
				t.Errorf("epoch %d, client %d: trial at %d, RESUME at %d", epoch, c.welcome.ClientID, trial, at("RESUME"))
			}
			if at("APART") < 0 || at("APART") > at("RESUME") || !strings.Contains(told, fmt.Sprintf("APART client=%d fds=0 kernel=1", c.welcome.ClientID)) {
				t.Errorf("epoch %d, client %d: APART at %d, RESUME at %d:\n%s", epoch, c.welcome.ClientID, at("APART"), at("RESUME"), told)
			}
			if st := c.status(); st.Error != 0 || st.CauseClient != 0 {
				t.Errorf("client %d: error %d, cause %d", c.welcome.ClientID, st.Error, st.CauseClient)
			}
		}
	}
	check(2)
	h.killExecutor(t)
	check(3)
}

// Ops whose repetition ends one executor after another are given up.
func TestWhatKillsExecutorsIsNotRepeatedForEver(t *testing.T) {
	h := start(t)
	a, b := h.dial(), h.dial()
	b.loads(t, "innocent")
	a.loads(t, "deadly")
	atomic.StoreUint32(&a.file.Lane(3).Issued, 5) // in doubt from here on
	h.killExecutor(t)
	eventually(t, "the error", func() bool { return atomic.LoadUint32(&a.status().Error) != 0 })
	eventually(t, "an executor", func() bool { return b.state() == shm.StateLive })
	if st := a.status(); st.Error != cudaErrorLaunchFailed || st.ErrorReason != shm.ReasonInDoubt || st.Epoch != maxStuck+2 {
		t.Errorf("error %d, reason %d, epoch %d; want 719, IN_DOUBT, %d", st.Error, st.ErrorReason, st.Epoch, maxStuck+2)
	}
	if st := b.status(); st.Error != 0 {
		t.Errorf("the other client has error %d", st.Error)
	}
	b.loads(t, "another")
}

// killExecutor kills the executor that serves.
func (h *harness) killExecutor(t *testing.T) {
	t.Helper()
	s, err := h.conn.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range s.Executors {
		if err := syscall.Kill(e.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}
