package executor

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/controlplane/compiler"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/controlplane/gpu"
	"github.com/heddle-gpu/heddle/jit/image"
	"github.com/heddle-gpu/heddle/shm"
)

// Function attributes that a client may set (CUfunction_attribute). Others describe the code and cannot be set.
var settable = map[uint32]bool{gpu.FuncMaxDynamicShared: true, 9: true, gpu.FuncNonPortableClust: true, 15: true}

// inspect finds out what an image needs; once. It runs on the loader's thread.
func (x *executor) inspect(im *loaded) {
	im.once.Do(func() {
		im.info, im.bad = image.Inspect(im.bytes, x.facts.Major, x.facts.Minor)
		if im.bad == nil && im.info.Text {
			// The driver wants a zero behind PTX text; the file's mapping ends where it likes.
			text := append(append([]byte(nil), im.bytes...), 0)
			_ = unix.Munmap(im.bytes)
			im.bytes = text
		}
		im.hash = sync.OnceValue(func() [sha256.Size]byte { return compiler.HashOf(im.bytes) })
	})
}

// instanceOf gives the module of an image for this session: shared by all when its code keeps no state, else one for each.
func (s *session) instanceOf(id uint64) (*loaded, *instance, error) {
	im := s.x.image(id)
	if im == nil {
		return nil, nil, refuse(shm.StatusInvalid, "image %d was never given to this executor", id)
	}
	s.x.inspect(im)
	if im.bad != nil {
		return nil, nil, refuse(shm.StatusRefused, "image %d: %v", id, im.bad)
	}
	own := im.info.Writable != ""
	if in := s.instances[id]; own && in != nil {
		return im, in, nil
	}
	if !own && im.shared != nil {
		return im, im.shared, nil
	}
	m, err := s.x.driver.ModuleLoad(im.bytes)
	if err != nil {
		return nil, nil, refuseCUDA(fmt.Sprintf("image %d", id), err)
	}
	in := &instance{module: m, limits: map[string]*atomic.Uint32{}}
	if own {
		s.instances[id] = in
	} else {
		im.shared = in
	}
	return im, in, nil
}

func validName(name string) error {
	if name == "" || len(name) > 4096 || strings.ContainsRune(name, 0) {
		return refuse(shm.StatusInvalid, "a symbol's name has %d bytes; expected 1 to 4096 and no zero among them", len(name))
	}
	return nil
}

// loads says whether asking for a name of an image loads code: of an image of which this session has no module yet, or a kernel that
// nobody has asked for.
func (s *session) loads(id uint64, kernel string) (yes bool, err error) {
	err = s.x.loader.do(func() error {
		im, in := s.x.image(id), s.instances[id]
		if im == nil || im.bad != nil || im.info != nil && im.info.Refuse(kernel) != "" {
			return nil // refused without the driver
		}
		if in == nil {
			in = im.shared
		}
		yes = in == nil || kernel != "" && in.limits[kernel] == nil
		return nil
	})
	return yes, err
}

// calmly waits for a moment to load code in, if asking for a name of an image does; kernel is "" for a global.
func (s *session) calmly(id uint64, kernel string) error {
	yes, err := s.loads(id, kernel)
	if err == nil && yes {
		s.x.calm(s.id, 1)
	}
	return err
}

// kernel loads a kernel and gives it the daemon's number. It says in k whether its image has state.
func (s *session) kernel(k *shm.Kernel, name string) error {
	if err := validName(name); err != nil {
		return err
	}
	if s.kernels[k.KernelID] != nil || k.KernelID == 0 {
		return refuse(shm.StatusInvalid, "kernel id %d is taken", k.KernelID)
	}
	if err := s.calmly(k.ImageID, name); err != nil {
		return err
	}
	var out *scoreboard.Kernel
	err := s.x.loader.do(func() error {
		im := s.x.image(k.ImageID)
		if im != nil {
			s.x.inspect(im)
			if im.bad == nil {
				if why := im.info.Refuse(name); why != "" {
					return refuse(shm.StatusRefused, "%s: %s", name, why)
				}
			}
		}
		im, in, err := s.instanceOf(k.ImageID)
		if err != nil {
			return err
		}
		d := s.x.driver
		f, err := d.ModuleFunction(in.module, name)
		if err != nil {
			return refuseCUDA("kernel", err)
		}
		static, r := d.FuncAttribute(f, gpu.FuncStaticShared)
		if r != gpu.Success {
			return refuseCUDA("cuFuncGetAttribute of "+name, r)
		}
		limit := in.limits[name]
		if limit == nil {
			limit = &atomic.Uint32{}
			if v, r := d.FuncAttribute(f, gpu.FuncMaxDynamicShared); r == gpu.Success {
				limit.Store(uint32(v))
			}
			in.limits[name] = limit
		}
		if im.info.Writable != "" {
			k.Stateful = 1
		}
		out = &scoreboard.Kernel{ID: k.KernelID, Function: f, StaticShared: uint32(static), Limit: limit, Key: im.key(name)}
		out.ParamBytes, out.ParamsKnown = d.FuncParamBytes(f)
		s.x.forms.attach(s.x.forms.code(im, name, s.places, f, static), out, in)
		return nil
	})
	if err != nil {
		return err
	}
	if s.x.config.loaded != nil {
		s.x.config.loaded(k.ImageID, name, out)
	}
	s.kernels[k.KernelID] = out
	if !s.x.poller.call(func() { s.client.board.AddKernel(out) }) {
		return errStopping
	}
	return nil
}

// global finds this session's instance of a device global.
func (s *session) global(k shm.Kernel, name string) (shm.Range, error) {
	var out shm.Range
	if err := validName(name); err != nil {
		return out, err
	}
	if err := s.calmly(k.ImageID, ""); err != nil {
		return out, err
	}
	err := s.x.loader.do(func() error {
		_, in, err := s.instanceOf(k.ImageID)
		if err != nil {
			return err
		}
		out.Address, out.Bytes, err = s.x.driver.ModuleGlobal(in.module, name)
		if err != nil {
			return refuseCUDA("global", err)
		}
		return nil
	})
	if err != nil || out.Bytes == 0 || s.globals[out.Address] {
		return out, err
	}
	if err := s.addMemory(out.Address, out.Bytes, 0); err != nil {
		return out, err
	}
	s.globals[out.Address] = true
	return out, nil
}

// attribute sets a function's attribute. Functions of shared modules are shared: the dynamic shared memory only grows, and the
// others are hints whose last writer wins.
func (s *session) attribute(a *shm.Setting) error {
	k := s.kernels[a.KernelID]
	if k == nil {
		return refuse(shm.StatusInvalid, "kernel id %d is unknown", a.KernelID)
	}
	if !settable[a.What] {
		return refuse(shm.StatusInvalid, "function attribute %d cannot be set", a.What)
	}
	return s.x.loader.do(func() error {
		if a.What == gpu.FuncMaxDynamicShared && a.Value <= uint64(k.Limit.Load()) {
			return nil
		}
		if a.Value > 1<<31-1 && int32(uint32(a.Value)) != -1 {
			return refuse(shm.StatusInvalid, "function attribute %d: %d is out of bounds", a.What, a.Value)
		}
		if r := s.x.driver.SetFuncAttribute(k.Function, int(a.What), int(int32(uint32(a.Value)))); r != gpu.Success {
			return refuseCUDA(fmt.Sprintf("cuFuncSetAttribute(%d, %d)", a.What, a.Value), r)
		}
		if a.What == gpu.FuncMaxDynamicShared {
			k.Limit.Store(uint32(a.Value))
		}
		s.x.forms.attribute(k, a.What, int(int32(uint32(a.Value))))
		return nil
	})
}
