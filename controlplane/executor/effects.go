package executor

import (
	"fmt"
	"sync"

	"github.com/heddle-gpu/heddle/jit/effects"
	"github.com/heddle-gpu/heddle/jit/harvest"
)

// maxJudged bounds the images whose kernels are judged: clients wait for their next executor meanwhile.
const maxJudged = 16 << 20

// expert says what kernels read and write. It is asked when a session is taken over with kernels in doubt, and at no other time:
// loading and launching cost nothing more for it.
type expert struct {
	x      *executor
	mu     sync.Mutex
	finder harvest.Finder
	known  map[codeKey]*effects.Effects // nil: looked at, and unknown
}

// effects gives what is known of a session's kernel, and its name; nil when it cannot be repeated. It may run on any goroutine.
func (j *expert) effects(s *session, id uint32) (*effects.Effects, string) {
	k := s.kernels[id]
	if k == nil || k.Code == nil {
		return nil, fmt.Sprintf("number %d", id)
	}
	key := codeKey{k.Code.Image, k.Code.Name}
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.known[key]
	if !ok {
		var err error
		if e, err = j.look(key); err != nil {
			j.x.log.Info("a kernel cannot be repeated", "kernel", key.name, "image", key.image, "why", err)
		}
		if j.known == nil {
			j.known = map[codeKey]*effects.Effects{}
		}
		j.known[key] = e
	}
	return e, key.name
}

// look finds the kernel's PTX and reads it. What it reads was written by clients: whatever goes wrong makes an unknown kernel.
func (j *expert) look(key codeKey) (e *effects.Effects, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, fmt.Errorf("reading its PTX: %v", r)
		}
	}()
	im := j.x.image(key.image)
	if im == nil || im.info == nil {
		return nil, fmt.Errorf("image %d was not loaded", key.image)
	}
	if im.info.Writable != "" {
		return nil, fmt.Errorf("image %d has device globals, which were lost", key.image)
	}
	if len(im.bytes) > maxJudged {
		return nil, fmt.Errorf("image %d has %d bytes; at most %d are looked at while clients wait", key.image, len(im.bytes), maxJudged)
	}
	found, err := j.finder.Find(im.bytes, j.x.facts.Major, j.x.facts.Minor, key.name, j.x.forms.places(key))
	if err != nil {
		return nil, err
	}
	return effects.Of(found.Module, found.Entry)
}
