package compiler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/heddle-gpu/heddle/jit/cache"
)

// Options of New. Zero fields take their defaults.
type Options struct {
	// Command starts a worker; its standard input and output are the service's pipes. Required.
	Command []string
	// Env is the worker's environment; nil: this process's.
	Env []string
	// Workers is how many run at once; 0: 1, and 2 from 8 cores.
	Workers int
	// Timeout bounds one compilation; 0: 30 s. Idle is how long a worker waits for the next request before it ends; 0: 10 s.
	Timeout, Idle time.Duration
	// MemoryBytes bounds a worker's resident memory; 0: 2 GiB. It is looked at every MemoryEvery; 0: 50 ms.
	MemoryBytes int64
	MemoryEvery time.Duration
	// Cache keeps results; nil: nothing is kept.
	Cache *cache.Store
	Log   *slog.Logger
}

// Mine tells whether a file belongs to this process's user, for cache.Options.
func Mine(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// attempts is how often a request is tried that ends its worker.
const attempts = 2

// remembered bounds how many failures are kept in mind.
const remembered = 4096

// Counters of a service, since New.
type Counters struct {
	Requests     uint64            // asked for
	CacheHits    uint64            // of them found on disk
	Compiled     uint64            // of them compiled
	Failed       map[string]uint64 // of them failed, by code
	Workers      uint64            // processes started
	FirstSeconds float64           // time of the first compilation, a worker's start included; 0: none yet
	TotalSeconds float64           // of all compilations
}

// Service compiles in worker processes. Its methods may be called from several goroutines.
type Service struct {
	o    Options
	jobs chan *job
	stop chan struct{}
	all  sync.WaitGroup

	mu      sync.Mutex
	n       Counters
	tried   map[cache.Key]int
	failed  map[cache.Key]*Failure
	started int // goroutines that serve jobs
	idle    int // of them waiting
	closed  bool
}

type job struct {
	ctx    context.Context
	req    *Request
	answer *Answer
	err    error
	done   chan struct{}
}

// New makes a service. No process is started before the first request.
func New(o Options) *Service {
	if o.Workers <= 0 {
		o.Workers = 1
		if runtime.NumCPU() >= 8 {
			o.Workers = 2
		}
	}
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.Timeout, 30*time.Second)
	set(&o.Idle, 10*time.Second)
	set(&o.MemoryEvery, 50*time.Millisecond)
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = 2 << 30
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Service{
		o: o, jobs: make(chan *job), stop: make(chan struct{}), n: Counters{Failed: map[string]uint64{}},
		tried: map[cache.Key]int{}, failed: map[cache.Key]*Failure{},
	}
}

// Workers is how many requests are worked on at once; more wait.
func (s *Service) Workers() int { return s.o.Workers }

// Close ends the workers, and waits for that. Requests under way end with context.Canceled.
func (s *Service) Close() {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if !was {
		close(s.stop)
	}
	s.all.Wait()
}

// Counters so far.
func (s *Service) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n
	n.Failed = maps.Clone(n.Failed)
	return n
}

// Compile gives the form that r asks for, from the cache or compiled. The error is a *Failure, which is remembered and comes back
// at once when the same is asked again, or that of ctx. r must not be changed before it returns.
func (s *Service) Compile(ctx context.Context, r *Request) (*Answer, error) {
	key := r.Key()
	s.mu.Lock()
	s.n.Requests++
	known := s.failed[key]
	s.mu.Unlock()
	if known != nil {
		return nil, known
	}
	if a := s.cached(key, r); a != nil {
		s.mu.Lock()
		s.n.CacheHits++
		s.mu.Unlock()
		return a, nil
	}
	var total int
	seen := map[[32]byte]bool{}
	for i := range r.Bodies {
		if b := &r.Bodies[i]; !seen[b.Hash] {
			seen[b.Hash] = true
			total += len(b.Image)
		}
	}
	if total > MaxImageBytes {
		return nil, s.remember(key, fail(ImageTooLarge, "%d bytes; at most %d are compiled", total, MaxImageBytes))
	}
	for {
		a, err := s.run(ctx, r)
		if err == nil {
			s.keep(key, a)
			return a, nil
		}
		var f *Failure
		if !errors.As(err, &f) {
			return nil, err
		}
		if s.again(key, f) {
			s.o.Log.Warn("a compilation ended its process; once more", "kernel", r.Bodies[0].Entry, "code", f.Code, "detail", f.Detail)
			continue
		}
		return nil, s.remember(key, f)
	}
}

// again tells whether a failure is the process's, and the request may have another.
func (s *Service) again(key cache.Key, f *Failure) bool {
	switch f.Code {
	case Crashed, TimedOut, TooMuchMemory, Garbage, NotStarted:
	default:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried[key]++
	return s.tried[key] < attempts
}

func (s *Service) remember(key cache.Key, f *Failure) *Failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failed) >= remembered {
		clear(s.failed)
		clear(s.tried)
	}
	s.failed[key] = f
	s.n.Failed[f.Code]++
	return f
}

// cached gives an answer from the disk; one that is not what a worker would answer is a miss.
func (s *Service) cached(key cache.Key, r *Request) *Answer {
	if s.o.Cache == nil {
		return nil
	}
	meta, code, ok := s.o.Cache.Get(key)
	if !ok {
		return nil
	}
	a := &Answer{Code: code, Cached: true}
	d := json.NewDecoder(bytes.NewReader(meta))
	if err := d.Decode(a); err != nil {
		s.o.Log.Warn("a cache entry has no layout", "entry", key.String(), "error", err)
		return nil
	}
	if err := r.check(&a.Layout); err != nil {
		s.o.Log.Warn("a cache entry has another layout", "entry", key.String(), "error", err)
		return nil
	}
	return a
}

// keep writes an answer to the disk.
func (s *Service) keep(key cache.Key, a *Answer) {
	if s.o.Cache == nil {
		return
	}
	meta, err := json.Marshal(a)
	if err == nil {
		err = s.o.Cache.Put(key, meta, a.Code)
	}
	if err != nil {
		s.o.Log.Warn("a form was not kept on disk: the next executor compiles it again", "error", err)
	}
}

// run hands a request to a worker.
func (s *Service) run(ctx context.Context, r *Request) (*Answer, error) {
	j := &job{ctx: ctx, req: r, done: make(chan struct{})}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, context.Canceled
	}
	if s.idle == 0 && s.started < s.o.Workers {
		s.started++
		s.all.Go(s.serve)
	}
	s.mu.Unlock()
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.stop:
		return nil, context.Canceled
	}
	<-j.done // serve bounds it
	return j.answer, j.err
}

// serve works off jobs with one process at a time, which ends when there is nothing to do.
func (s *Service) serve() {
	var p *process
	defer func() {
		if p != nil {
			p.end()
		}
	}()
	timer := time.NewTimer(s.o.Idle)
	defer timer.Stop()
	for {
		s.mu.Lock()
		s.idle++
		s.mu.Unlock()
		timer.Reset(s.o.Idle)
		var j *job
		select {
		case j = <-s.jobs:
		case <-timer.C:
			if p != nil {
				p.end()
				p = nil
			}
		case <-s.stop:
		}
		s.mu.Lock()
		s.idle--
		s.mu.Unlock()
		if j == nil {
			select {
			case <-s.stop:
				return
			default:
				continue
			}
		}
		begun := time.Now()
		if p == nil {
			var err error
			if p, err = s.start(); err != nil {
				j.err = fail(NotStarted, "%v", err)
			}
		}
		if p != nil {
			j.answer, j.err = s.exchange(j.ctx, p, j.req)
			if p.dead {
				p = nil
			}
		}
		s.took(j, time.Since(begun))
		close(j.done)
	}
}

func (s *Service) took(j *job, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n.TotalSeconds += d.Seconds()
	if j.err == nil {
		if s.n.Compiled++; s.n.Compiled == 1 {
			s.n.FirstSeconds = d.Seconds()
		}
	}
}
