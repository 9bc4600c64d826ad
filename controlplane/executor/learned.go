package executor

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/compiler"
	"github.com/heddle-gpu/heddle/controlplane/executor/company"
	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/request"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/jit/cache"
)

// Bounds of the folder of what was learned: some 330 KB a program and class.
const (
	learnedBytes = 64 << 20
	// learnedEvery is the time between two saves of what clients that stay taught.
	learnedEvery = time.Minute
)

// What the log says when something is known.
const (
	requestsKnown = "requests of an earlier client are known"
	timesKnown    = "times that an earlier executor measured are known"
	companyKnown  = "who slows whom is known from an earlier executor"
)

// learned keeps on disk, across executors, what was learned of clients' requests, by program and class, of the times of kernels, and of
// who slows whom.
// Everything is by content, so numbers of sessions and kernels do not matter. Estimates only: what is lost or wrong is learned again.
// No disk is touched on the poller's thread: models are loaded before it gets them, and copied out of it in parts.
type learned struct {
	x     *executor
	log   *slog.Logger
	store *cache.Store // nil: nothing is kept
	stop  chan struct{}
	all   sync.WaitGroup

	mu     sync.Mutex // one reads, merges and writes at a time
	closed bool       // under mu
}

// memory is what the poller keeps of a client for it; all but program is the poller's.
type memory struct {
	program string         // set once
	known   *request.Model // loaded, for when the client is served
	kept    uint64         // requests of its model that were saved
}

// program names what a process executes, for as long as that file stays as it is; "" when that is not to be seen. It is the client's
// choice, as its requests are: the user is a part of it, so that nobody teaches for others.
func program(pid int, uid uint32) string {
	exe := filepath.Join("/proc", strconv.Itoa(pid), "exe")
	path, err := os.Readlink(exe)
	if err != nil {
		return ""
	}
	fi, err := os.Stat(exe)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %s %d %d", uid, path, fi.Size(), fi.ModTime().UnixNano())
}

// newLearned opens the folder, and gives the poller, which must not run yet, the times that are known.
func newLearned(x *executor) *learned {
	l := &learned{x: x, log: x.log, stop: make(chan struct{})}
	if x.config.LearnedDir == "" {
		return l
	}
	var err error
	if l.store, err = cache.Open(x.config.LearnedDir, cache.Options{Mine: compiler.Mine, Bytes: learnedBytes}); err != nil {
		l.log.Warn("what is learned of requests and kernels ends with this executor", "error", err)
		return l
	}
	if b := cost.NewBook(); l.load(l.timesKey(), b) {
		x.poller.gather.Shapes().Recall(b)
		l.log.Info(timesKnown, "shapes", b.Len())
	}
	if t := x.poller.company; l.load(l.companyKey(), t) {
		l.log.Info(companyKnown, "pairs", t.Len())
	}
	l.all.Go(l.run)
	return l
}

// requestsKey names a program's model: of the same program other classes have other company.
func (l *learned) requestsKey(program, class string) cache.Key {
	return cache.KeyOf([]byte("requests"), []byte(l.x.config.DeviceUUID), []byte(program), []byte(class))
}

// timesKey names the measured times: of this GPU, as this driver's compiler makes code for it.
func (l *learned) timesKey() cache.Key {
	return cache.KeyOf([]byte("times"), []byte(l.x.config.DeviceUUID), []byte(l.x.facts.Driver))
}

// companyKey names the table of who slows whom on this GPU, as this driver's compiler makes code for it.
func (l *learned) companyKey() cache.Key {
	return cache.KeyOf([]byte("company"), []byte(l.x.config.DeviceUUID), []byte(l.x.facts.Driver))
}

// requests gives what is known of a program's requests in a class, a new model when that is nothing.
func (l *learned) requests(program, class string) *request.Model {
	m := request.New()
	if l.store != nil && program != "" && l.load(l.requestsKey(program, class), m) {
		l.log.Info(requestsKnown, "class", class, "requests", m.Requests)
	}
	return m
}

// recall hands over what requests gave. It runs on the poller's thread.
func (c *client) recall() {
	if m := c.memory.known; m != nil {
		c.memory.known, c.memory.kept = nil, m.Requests
		c.books.Recall(m)
	}
}

// left keeps the model of a client that the poller has forgotten.
func (l *learned) left(c *client) {
	m := c.books.Model()
	if m == nil || m.Requests == c.memory.kept {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.all.Go(func() { l.keepRequests(c.memory.program, c.class, m) })
	}
}

// run saves now and then what changed.
func (l *learned) run() {
	every := time.NewTicker(learnedEvery)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			l.save(l.x.poller.call)
		case <-l.stop:
			return
		}
	}
}

// end saves what this executor learned, when its poller has ended, and waits for what is under way.
func (l *learned) end() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	close(l.stop)
	l.all.Wait()
	if l.store == nil {
		return
	}
	select {
	case <-l.x.poller.ended:
		l.save(func(f func()) bool { f(); return true }) // its state is nobody's now
	default: // it hangs in a driver's call
	}
	if err := l.store.Close(); err != nil {
		l.log.Warn("folder of what was learned", "error", err)
	}
}

// save writes what changed since the last time; call runs a function on the poller's thread.
func (l *learned) save(call func(func()) bool) {
	type one struct {
		program, class string
		model          *request.Model
	}
	var changed []one
	ok := call(func() {
		for _, c := range l.x.poller.clients {
			if m := c.books.Model(); m != nil && m.Requests != c.memory.kept && c.memory.program != "" {
				c.memory.kept = m.Requests
				changed = append(changed, one{c.memory.program, c.class, m})
			}
		}
	})
	for _, o := range changed {
		to := request.New()
		for part, last := 0, false; ok && !last; part++ {
			const n = request.Prefixes / 16
			ok = call(func() { last = o.model.CopyTo(to, part*n, n) })
		}
		if !ok {
			return
		}
		l.keepRequests(o.program, o.class, to)
	}
	to := cost.NewBook()
	for part := range scoreboard.Parts {
		if ok = ok && call(func() { l.x.poller.gather.Shapes().Measured(to, part) }); !ok {
			return
		}
	}
	if to.Len() > 0 {
		before := cost.NewBook()
		l.keep(l.timesKey(), to, before, func() { to.Merge(before) })
	}
	pairs := company.New()
	for part := range scoreboard.Parts {
		const n = company.Rows / scoreboard.Parts
		if ok = ok && call(func() { l.x.poller.company.CopyTo(pairs, part*n, n, l.x.poller.now) }); !ok {
			return
		}
	}
	if pairs.Len() > 0 {
		before := company.New()
		l.keep(l.companyKey(), pairs, before, func() { pairs.Merge(before) })
	}
}

// keepRequests writes a model that nobody else uses.
func (l *learned) keepRequests(program, class string, m *request.Model) {
	if l.store == nil || program == "" {
		return
	}
	before := request.New()
	l.keep(l.requestsKey(program, class), m, before, func() { m.Merge(before) })
}

// coded is what the files hold.
type coded interface {
	MarshalBinary() ([]byte, error)
	UnmarshalBinary([]byte) error
}

// load reads an entry; false when there is none that can be believed.
func (l *learned) load(k cache.Key, into coded) bool {
	_, b, ok := l.store.Get(k)
	if !ok {
		return false
	}
	if err := into.UnmarshalBinary(b); err != nil {
		l.log.Warn("what was learned cannot be read: it is learned again", "entry", k.String(), "error", err)
		return false
	}
	return true
}

// keep writes an entry: what is there already is read into before, and merge takes it in. Of two executors that write at once one's
// news are lost, no more.
func (l *learned) keep(k cache.Key, v, before coded, merge func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.load(k, before) {
		merge()
	}
	b, err := v.MarshalBinary()
	if err == nil {
		err = l.store.Put(k, nil, b)
	}
	if err != nil {
		l.log.Warn("what was learned is not kept: the next executor learns it again", "error", err)
	}
}
