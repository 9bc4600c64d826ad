package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/inventory"
	"github.com/heddle-gpu/heddle/shm"
)

// slotKey is who may share one executor: one GPU, one user.
type slotKey struct {
	uuid [16]byte
	uid  uint32
}

// Slot states.
const (
	slotStarting = "starting"
	slotLive     = "live"
	slotLost     = "restarting"
	slotClosed   = "closed"
)

// Restart policy: an executor that dies this often is not started again, because
// whatever kills it would cost every client its work each time.
const (
	maxRestarts     = 64
	restartInterval = 60 * time.Second
	maxStartFails   = 3
)

var (
	errExecutorLost = errors.New("the executor was lost")
	errSlotClosed   = errors.New("no executor can be had for this GPU")
)

// slot is the place of one executor: the process that is there now, and all that
// its successor will need. Lock order: slot.mu, then session.mu.
type slot struct {
	key      slotKey
	log      *slog.Logger
	launch   func(*slot) (*executorProcess, error)
	doorbell *shm.Doorbell
	images   *imageStore
	shares   shares
	spares   spares
	// using is held for reading while a request is answered, which may send fds of doorbell and images, and for writing while those
	// are closed: a number that was closed may be another file by the time it is sent. It is taken before mu.
	using sync.RWMutex

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced whenever state changes
	state    string
	process  *executorProcess
	sessions map[uint64]*session
	epoch    uint32
	starts   []time.Time
	fails    int // starts in a row that served nobody
	fault    string
	losses   map[string]uint64 // executors that ended while clients counted on them, by lossReason
	asking   *statsCall        // the STATS request under way
	doubt    doubt
	emptyAt  time.Time // since when no session is here
	ended    chan struct{}
}

func newSlot(key slotKey, log *slog.Logger, files *fileBudget, launch func(*slot) (*executorProcess, error)) (*slot, error) {
	bell, err := shm.CreateDoorbell()
	if err != nil {
		return nil, err
	}
	sl := &slot{
		key: key, launch: launch, doorbell: bell, images: newImageStore(files), shares: newShares(), sessions: map[uint64]*session{},
		losses: map[string]uint64{}, state: slotStarting, changed: make(chan struct{}), emptyAt: time.Now(), ended: make(chan struct{}),
	}
	sl.log = log.With("gpu", sl.gpu(), "uid", key.uid)
	go sl.supervise()
	return sl, nil
}

func (sl *slot) gpu() string { return inventory.FormatUUID(sl.key.uuid) }

// set changes the state. mu is held.
func (sl *slot) set(state string) {
	sl.state = state
	close(sl.changed)
	sl.changed = make(chan struct{})
}

// supervise keeps an executor in the slot until the slot is closed or executors
// cannot live in it.
func (sl *slot) supervise() {
	defer close(sl.ended)
	for {
		sl.mu.Lock()
		if sl.state == slotClosed {
			sl.mu.Unlock()
			return
		}
		sl.starts = append(sl.starts, time.Now())
		for len(sl.starts) > 0 && time.Since(sl.starts[0]) > restartInterval {
			sl.starts = sl.starts[1:]
		}
		tooMany := len(sl.starts) > maxRestarts || sl.fails >= maxStartFails
		sl.mu.Unlock()
		if tooMany {
			sl.log.Error("executors do not live here: giving up, clients go on natively", "last_fault", sl.lastFault())
			sl.close()
			return
		}
		p, err := sl.launch(sl)
		if err != nil {
			sl.log.Error("the executor cannot be started", "error", err)
			sl.mu.Lock()
			sl.fails, sl.fault = sl.fails+1, err.Error()
			sl.mu.Unlock()
			continue
		}
		if err := sl.install(p); err != nil {
			sl.log.Error("the executor did not take over", "error", err)
			if leaving(err) { // it has something to say about why
				select {
				case <-p.done:
				case <-time.After(exitTimeout):
				}
			}
			p.kill()
		}
		<-p.done
		sl.lost(p)
	}
}

// install hands every session to a new executor and lets it serve.
func (sl *slot) install(p *executorProcess) error {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.state == slotClosed {
		return errSlotClosed
	}
	sl.process = p
	sl.epoch++
	restart := sl.epoch > 1
	for _, s := range sl.sessions {
		if err := sl.restore(p, s, restart); err != nil {
			return fmt.Errorf("client %d: %w", s.id, err)
		}
	}
	if err := sl.try(p); err != nil {
		return err
	}
	for _, s := range sl.sessions {
		if err := sl.resume(p, s); err != nil {
			return fmt.Errorf("client %d: %w", s.id, err)
		}
	}
	sl.set(slotLive)
	sl.log.Info("executor serves", "pid", p.pid(), "epoch", sl.epoch, "sessions", len(sl.sessions))
	return nil
}

// lost marks the death of p. Clients wait for the next one, up to their patience.
func (sl *slot) lost(p *executorProcess) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if f := p.faultText(); f != "" {
		sl.fault = f
	}
	report := p.report()
	if sl.state == slotLive || report.blamed != 0 { // a trial that finds the guilty one is no failed start
		sl.fails = 0
	} else {
		sl.fails++
	}
	sl.process = nil
	if sl.state == slotClosed {
		return
	}
	if sl.state == slotLive || report.blamed != 0 {
		sl.losses[lossReason(report)]++
	}
	sl.set(slotLost)
	sl.log.Warn("executor ended", "pid", p.pid(), "how", p.exitText(), "fault", sl.fault)
	sl.assess(p, report)
	for _, s := range sl.sessions {
		atomic.AddUint32(&s.file.Status().Losses, 1)
		s.setState(shm.StateLost)
	}
}

// lossReason is why an executor ended, as metrics count it.
func lossReason(r faultReport) string {
	switch {
	case r.blamed != 0:
		return lossFault
	case r.result != 0:
		return lossInDoubt
	}
	return lossEnded
}

// restore tells p everything about s. sl.mu is held; s.mu is taken so that no
// request of the client interleaves. resume must follow.
func (sl *slot) restore(p *executorProcess, s *session, restart bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	st := s.file.Status()
	atomic.StoreUint32(&st.ExecutorPID, uint32(p.pid()))
	atomic.StoreUint32(&st.Epoch, sl.epoch)
	if err := p.attach(s); err != nil {
		return err
	}
	if err := p.classify(s); err != nil {
		return err
	}
	for a, g := range s.segments {
		if _, err := p.call(s.id, shm.TypeSegment, shm.Encode(shm.Range{Address: a, Bytes: g.bytes, Offset: g.offset, Flags: g.flags}), nil, g.fd); err != nil {
			return fmt.Errorf("segment %#x: %w", a, err)
		}
	}
	for a, h := range s.hostSegments {
		if _, err := p.call(s.id, shm.TypeHostSegment, shm.Encode(shm.Range{Address: a, Bytes: h.bytes}), nil, h.fd); err != nil {
			return fmt.Errorf("host segment %#x: %w", a, err)
		}
	}
	for k, v := range s.settings {
		if k.limit {
			if _, err := p.call(s.id, shm.TypeLimit, shm.Encode(shm.Setting{What: k.what, Value: v}), nil); err != nil {
				return fmt.Errorf("limit %d: %w", k.what, err)
			}
		}
	}
	for i := range s.kernels {
		k := &s.kernels[i]
		if k.status != shm.StatusOK {
			continue
		}
		if err := sl.loadKernel(p, s, k, uint32(i+1)); err != nil {
			return fmt.Errorf("kernel %q: %w", k.name, err)
		}
	}
	for k, v := range s.settings {
		if !k.limit {
			if _, err := p.call(s.id, shm.TypeFuncAttr, shm.Encode(shm.Setting{KernelID: k.kernel, What: k.what, Value: v}), nil); err != nil {
				return fmt.Errorf("attribute %d of kernel %d: %w", k.what, k.kernel, err)
			}
		}
	}
	if err := s.restoreGraphs(p); err != nil {
		return err
	}
	if restart && s.globals > 0 {
		// Nobody serves now, so nobody else writes this word (docs/protocol.md section 4).
		s.file.SetError(cudaErrorLaunchFailed, shm.ReasonLostGlobals)
	}
	for k := range s.apart {
		if err := sl.setApart(p, s, k); err != nil {
			return err
		}
	}
	s.told = p // what a client asks from here on waits for the slot to be live
	return nil
}

// resume lets p serve s and sets the session live. sl.mu is held.
func (sl *slot) resume(p *executorProcess, s *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.ran = p
	if _, err := p.call(s.id, shm.TypeResume, nil, nil); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	s.file.SetState(shm.StateLive)
	s.file.WakeAll()
	return nil
}

// cudaErrorLaunchFailed is CUDA_ERROR_LAUNCH_FAILED, what an application gets
// when work of its own was lost for a reason that is not its own.
const cudaErrorLaunchFailed = 719

// loadKernel makes sure that the executor has the image, and asks for the kernel.
func (sl *slot) loadKernel(p *executorProcess, s *session, k *kernel, id uint32) error {
	if err := p.sendImage(sl.images, k.image); err != nil {
		return err
	}
	reply, err := p.callAny(s.id, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: k.image, KernelID: id}), []byte(k.name))
	if err != nil {
		return err
	}
	body, err := shm.Decode[shm.Kernel](reply.Body)
	if err != nil {
		return err
	}
	k.result, k.state = body.CUDAResult, body.Stateful
	k.status, k.reason = reply.Status, string(reply.Tail)
	return nil
}

// join adds a session. The session is attached when an executor serves: by its successor, when the one that does is lost meanwhile.
func (sl *slot) join(s *session) error {
	p, err := sl.enter(s)
	if err == nil || !leaving(err) {
		return err
	}
	select { // what the client asks for next must not reach the one that leaves
	case <-p.done:
	case <-time.After(exitTimeout):
		p.kill()
	}
	return nil
}

// enter adds a session and attaches it to the executor that serves, which it returns. A session that this one has no time for any more
// stays, for its successor.
func (sl *slot) enter(s *session) (*executorProcess, error) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.state == slotClosed {
		return nil, fmt.Errorf("%w: %s", errSlotClosed, sl.fault)
	}
	sl.sessions[s.id] = s
	if sl.state != slotLive {
		return nil, nil
	}
	err := sl.restore(sl.process, s, false)
	if err == nil {
		err = sl.resume(sl.process, s)
	}
	if err != nil && !leaving(err) {
		delete(sl.sessions, s.id)
		_, _ = sl.process.call(s.id, shm.TypeDetach, nil, nil) // what it has of the session: refused when that is nothing
	}
	return sl.process, err
}

// leave removes a session whose client is gone, and waits until the executor has
// let go of its memory: it says so, or not.
func (sl *slot) leave(s *session) (left bool) {
	sl.mu.Lock()
	p := sl.process
	_, here := sl.sessions[s.id]
	delete(sl.sessions, s.id)
	if len(sl.sessions) == 0 {
		sl.emptyAt = time.Now()
	}
	sl.mu.Unlock()
	if here && p != nil {
		_, err := p.call(s.id, shm.TypeDetach, nil, nil)
		if left = err == nil; err != nil && !errors.Is(err, errExecutorLost) {
			sl.log.Warn("detach", "client", s.id, "error", err)
		}
	}
	sl.images.release(s)
	return left
}

// current waits for an executor that serves, or for the slot's end.
func (sl *slot) current(ctx context.Context) (*executorProcess, error) {
	for {
		sl.mu.Lock()
		state, p, changed := sl.state, sl.process, sl.changed
		sl.mu.Unlock()
		switch state {
		case slotLive:
			return p, nil
		case slotClosed:
			return nil, errSlotClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// successor waits until an executor other than p serves.
func (sl *slot) successor(ctx context.Context, p *executorProcess) (*executorProcess, error) {
	for {
		sl.mu.Lock()
		state, now, changed := sl.state, sl.process, sl.changed
		sl.mu.Unlock()
		switch {
		case state == slotClosed:
			return nil, errSlotClosed
		case state == slotLive && now != p:
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (sl *slot) isClosed() bool {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	return sl.state == slotClosed
}

// retire closes the slot and everything it holds, after the last client or at
// the daemon's end.
func (sl *slot) retire() {
	sl.close()
	<-sl.ended
	sl.using.Lock()
	defer sl.using.Unlock()
	sl.images.close()
	sl.spares.close()
	sl.doorbell.Close()
}

// empty reports since when nobody is here; zero when somebody is.
func (sl *slot) empty() time.Time {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if len(sl.sessions) > 0 {
		return time.Time{}
	}
	return sl.emptyAt
}

// close ends the slot: the executor finishes what was issued and leaves, clients
// go on alone.
func (sl *slot) close() {
	sl.mu.Lock()
	if sl.state == slotClosed {
		sl.mu.Unlock()
		return
	}
	p := sl.process
	sl.set(slotClosed)
	sessions := make([]*session, 0, len(sl.sessions))
	for _, s := range sl.sessions {
		sessions = append(sessions, s)
	}
	sl.mu.Unlock()
	if p != nil {
		p.drain()
	}
	for _, s := range sessions {
		s.setState(shm.StateClosed)
	}
}

func (sl *slot) lastFault() string {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	return sl.fault
}

// report is the slot as `heddle ps` shows it, and its clients.
func (sl *slot) report(patience time.Duration) (admin.Executor, []admin.Client) {
	sl.mu.Lock()
	e := admin.Executor{GPU: sl.gpu(), UID: int(sl.key.uid), State: sl.state, Epoch: sl.epoch, Clients: len(sl.sessions), Fault: sl.fault, Losses: maps.Clone(sl.losses)}
	p, state := sl.process, sl.state
	sessions := make([]*session, 0, len(sl.sessions))
	for _, s := range sl.sessions {
		sessions = append(sessions, s)
	}
	sl.mu.Unlock()
	var bytes uint64
	e.Images, bytes = sl.images.size()
	e.ImageMiB = bytes >> 20
	type told struct {
		ClientID  uint64  `json:"client_id"`
		InFlight  uint64  `json:"in_flight"`
		Straggler string  `json:"straggler"`
		Lateness  float64 `json:"lateness"`
		Slowed    float64 `json:"slowed"`
		Partition int     `json:"partition_sms"`
	}
	by := map[uint64]told{}
	if p != nil {
		e.Pid = p.pid()
		if text := sl.counters(p, patience); text != nil {
			e.Counters = text
			var c struct {
				Sessions []told `json:"sessions"`
			}
			if json.Unmarshal(text, &c) == nil {
				for _, s := range c.Sessions {
					by[s.ClientID] = s
				}
			}
		}
	}
	clients := make([]admin.Client, 0, len(sessions))
	for _, s := range sessions {
		c := s.report(state)
		t := by[s.id]
		c.InFlight, c.Straggler, c.Lateness, c.Slowed, c.Partition = t.InFlight, t.Straggler, t.Lateness, t.Slowed, t.Partition
		clients = append(clients, c)
	}
	return e, clients
}
