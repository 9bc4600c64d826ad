package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/heddle-gpu/heddle/shm"
)

// maxStuck is how many executors in a row may be lost with a session in doubt and nothing of it done, before it is taken for the
// cause: what is repeated must not kill executors for ever.
const maxStuck = 2

// doubt is what a slot knows of a device fault until it is settled who caused it. Guarded by slot.mu.
type doubt struct {
	suspects []uint64    // sessions that had kernels in flight
	joined   [][2]uint64 // session and kernel of launches that held ops of several
}

// assess draws the conclusions from the end of an executor: who gets which error, whom the next one tries alone. Nobody serves
// now, so nobody else writes the sessions' status. sl.mu is held.
func (sl *slot) assess(p *executorProcess, r faultReport) {
	for _, s := range sl.sessions {
		if !s.failed() {
			s.setCause(0, "")
		}
	}
	switch guilty := sl.sessions[r.blamed]; {
	case r.blamed != 0:
		name := ""
		if guilty != nil {
			// As natively: whoever faults gets the fault's own code (docs/protocol.md section 3).
			guilty.file.SetError(r.result, shm.ReasonFault)
			name = guilty.kernelName(r.kernel)
		}
		for _, id := range append(sl.doubt.suspects, r.inFlight...) {
			if s := sl.sessions[id]; s != nil && s != guilty {
				s.setCause(r.blamed, name)
			}
		}
		sl.log.Error("a device fault was caused by a client", "client", r.blamed, "kernel", name, "result", r.result)
		sl.doubt = doubt{}
	case len(r.inFlight) > 1:
		sl.doubt = doubt{r.inFlight, r.joined}
	}
	for _, s := range sl.sessions {
		head := atomic.LoadUint64(&s.file.Consumer().Head)
		switch {
		case !s.inDoubt():
			s.stuck = 0
		case s.ran != p:
			// It was not this one's doing.
		case s.stuck > 0 && head == s.headAt:
			s.stuck++
		default:
			s.stuck = 1
		}
		s.headAt = head
		if s.stuck > maxStuck && !s.failed() {
			sl.log.Error("executors end while they repeat a client's ops: giving its ops up", "client", s.id, "executors", s.stuck)
			s.file.SetError(cudaErrorLaunchFailed, shm.ReasonInDoubt)
		}
	}
}

// try has p run the ops in doubt of every suspect alone. The one that faults ends p, which then names it. When none does, it was
// their company: those kernels are never joined with others again. sl.mu is held.
func (sl *slot) try(p *executorProcess) error {
	for _, id := range sl.doubt.suspects {
		s := sl.sessions[id]
		if s == nil {
			continue
		}
		s.ran = p
		_, err := p.call(id, shm.TypeTrial, nil, nil)
		var no *statusError
		switch {
		case leaving(err):
			return fmt.Errorf("trial of client %d: %w", id, err)
		case errors.As(err, &no):
			sl.log.Warn("a suspect of a device fault was not tried", "client", id, "why", err)
		case err != nil:
			return fmt.Errorf("trial of client %d: %w", id, err)
		}
	}
	for _, pair := range sl.doubt.joined {
		s, kernel := sl.sessions[pair[0]], uint32(pair[1])
		if s == nil || pair[1] > maxKernels {
			continue
		}
		s.mu.Lock()
		if s.apart == nil {
			s.apart = map[uint32]bool{}
		}
		var err error
		if !s.apart[kernel] && !s.closed {
			s.apart[kernel] = true
			err = sl.setApart(p, s, kernel)
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if len(sl.doubt.suspects) > 0 {
		sl.log.Warn("the cause of a device fault was not found", "suspects", sl.doubt.suspects, "kernels_set_apart", len(sl.doubt.joined))
	}
	sl.doubt = doubt{}
	return nil
}

// leaving reports whether an executor that answered so is ending, or has ended, by itself.
func leaving(err error) bool {
	var no *statusError
	return errors.Is(err, errExecutorLost) || errors.As(err, &no) && no.status == shm.StatusClosing
}

// setApart tells p never to join a kernel's ops of s with others. s.mu is held.
func (sl *slot) setApart(p *executorProcess, s *session, kernel uint32) error {
	_, err := p.call(s.id, shm.TypeApart, shm.Encode(shm.Setting{KernelID: kernel}), nil)
	var no *statusError
	if errors.As(err, &no) && !leaving(err) {
		sl.log.Warn("a kernel was not set apart", "client", s.id, "kernel", kernel, "why", err)
		return nil
	}
	return err
}

// kernelName is the name of a kernel, "" for a number that is none.
func (s *session) kernelName(id uint32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == 0 || int(id) > len(s.kernels) {
		return ""
	}
	return s.kernels[id-1].name
}

// setCause notes in the session's status who brought the executor down, 0 for nobody. Nobody else writes there.
func (s *session) setCause(client uint64, kernel string) {
	st := s.file.Status()
	clear(st.CauseKernel[:])
	copy(st.CauseKernel[:len(st.CauseKernel)-1], cleanLabel([]byte(kernel)))
	atomic.StoreUint64(&st.CauseClient, client)
}

// cause reads what setCause wrote.
func (s *session) cause() (client uint64, kernel string) {
	st := s.file.Status()
	name, _, _ := bytes.Cut(st.CauseKernel[:], []byte{0})
	return atomic.LoadUint64(&st.CauseClient), cleanLabel(name)
}

// failed reports whether the session has its sticky error.
func (s *session) failed() bool { return atomic.LoadUint32(&s.file.Status().Error) != 0 }

// inDoubt reports whether some op was issued and is not known done.
func (s *session) inDoubt() bool {
	for i := range uint32(shm.Lanes) {
		l := s.file.Lane(i)
		if !shm.Reached(atomic.LoadUint32(&l.Done), atomic.LoadUint32(&l.Issued)) {
			return true
		}
	}
	return false
}
