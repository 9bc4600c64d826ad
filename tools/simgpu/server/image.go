package server

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/heddle-gpu/heddle/jit/interp"
	"github.com/heddle-gpu/heddle/jit/ptx"
	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// image is a loaded program, shared by all clients that load the same bytes.
type image struct {
	hash    [32]byte
	refs    int // Server.mu
	prog    *interp.Program
	entries []interp.EntryInfo
	globals []interp.Global
}

// instance is an image in a context: a CUmodule.
type instance struct {
	d     *deviceContext
	image *image
	in    *interp.Instance
	seg   *segment // of the globals; nil without
}

// maxImage bounds an image's bytes, and maxPTX what a compressed one may become.
const (
	maxImage = 256 << 20
	maxPTX   = 64 << 20
)

// imageError is an image that cannot be loaded: the driver's code and the log.
type imageError struct {
	code uint32
	log  string
}

// Error gives the log.
func (e *imageError) Error() string { return e.log }

// loadImage finds the PTX in an image (PTX text, or a fatbin container with PTX) and decodes it.
func loadImage(raw []byte) (*image, error) {
	src := raw
	if len(raw) >= 16 && binary.LittleEndian.Uint32(raw) == fatbinMagic {
		var err error
		if src, err = fatbinPTX(raw); err != nil {
			return nil, err
		}
	}
	for len(src) > 0 && src[len(src)-1] == 0 {
		src = src[:len(src)-1]
	}
	if !looksLikePTX(src) {
		return nil, &imageError{errInvalidImage, "neither PTX nor a fatbin container: nothing that starts with .version"}
	}
	prog, err := interp.Load(src)
	if err != nil {
		return nil, &imageError{errInvalidPTX, ptxLog(err)}
	}
	im := &image{prog: prog, entries: prog.Entries(), globals: prog.Globals()}
	for _, g := range im.globals {
		if g.Extern {
			return nil, &imageError{errInvalidPTX, fmt.Sprintf("ptxas error : Undefined reference to '%s'", g.Name)}
		}
	}
	for i := range im.entries {
		if err := im.entries[i].Err; err != nil && !knownInstruction(err) {
			return nil, &imageError{errInvalidPTX, ptxLog(err)}
		}
	}
	return im, nil
}

// beyond lists the PTX instructions that the interpreter may lack: a module
// that uses one loads, as on the device, and only its kernels cannot run.
var beyond = map[string]bool{"applypriority": true, "barrier": true, "clusterlaunchcontrol": true, "cp": true, "createpolicy": true,
	"discard": true, "elect": true, "fence": true, "getctarank": true, "griddepcontrol": true, "isspacep": true, "istypep": true,
	"ldmatrix": true, "ldu": true, "mapa": true, "mbarrier": true, "mma": true, "movmatrix": true, "multimem": true, "pmevent": true,
	"prefetch": true, "prefetchu": true, "red": true, "redux": true, "setmaxnreg": true, "stackrestore": true, "stacksave": true,
	"alloca": true, "stmatrix": true, "suld": true, "suq": true, "sured": true, "sust": true, "szext": true, "tcgen05": true,
	"tensormap": true, "tex": true, "tld4": true, "txq": true, "vabsdiff": true, "vadd": true, "vmad": true, "vmax": true, "vmin": true,
	"vset": true, "vshl": true, "vshr": true, "vsub": true, "wgmma": true, "wmma": true, "bmsk": true, "dp2a": true, "dp4a": true,
	"atom": true, "st": true, "ld": true, "cvt": true, "vote": true, "match": true, "nanosleep": true}

// knownInstruction tells code that is PTX but beyond the interpreter from code that is wrong.
func knownInstruction(err error) bool {
	_, after, found := strings.Cut(err.Error(), ": instruction ")
	if !found {
		return !strings.Contains(err.Error(), "is not declared")
	}
	name, _, _ := strings.Cut(strings.Fields(after)[0], ".")
	return beyond[name]
}

// looksLikePTX tells PTX text from other bytes: its first directive is .version.
func looksLikePTX(src []byte) bool {
	s := string(src[:min(len(src), 64<<10)])
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		switch {
		case strings.HasPrefix(s, "//"):
			_, s, _ = strings.Cut(s, "\n")
		case strings.HasPrefix(s, "/*"):
			_, s, _ = strings.Cut(s, "*/")
		default:
			return strings.HasPrefix(s, ".version")
		}
	}
}

// ptxLog words errors as the driver's compiler does, one a line: "line:col".
func ptxLog(err error) string {
	var list ptx.ErrorList
	var one *ptx.Error
	if errors.As(err, &one) && !errors.As(err, &list) {
		list = ptx.ErrorList{one}
	}
	if len(list) == 0 {
		return "ptxas fatal : " + err.Error()
	}
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "ptxas application ptx input, line %d:%d; error : %s\n", e.Line, e.Col, e.Msg)
	}
	return b.String()
}

// ---- fatbin containers (knowledge: cuda.md section 2.3) ----

const (
	fatbinMagic = 0xba55ed50
	entryPTX    = 1
	flagLZ4     = 0x2000
	flagZstd    = 0x8000
)

// fatbinPTX gives the PTX for the newest architecture that compute capability 9.0 can run.
func fatbinPTX(raw []byte) ([]byte, error) {
	var best []byte
	bestSM, seen := uint32(0), []string(nil)
	for len(raw) >= 16 && binary.LittleEndian.Uint32(raw) == fatbinMagic {
		header, size := uint64(binary.LittleEndian.Uint16(raw[6:])), binary.LittleEndian.Uint64(raw[8:])
		if header < 16 || size > uint64(len(raw)) || header+size > uint64(len(raw)) {
			return nil, &imageError{errInvalidImage, fmt.Sprintf("fatbin: %d+%d bytes announced, %d there", header, size, len(raw))}
		}
		body := raw[header : header+size]
		raw = raw[header+size:]
		for len(body) >= 64 {
			kind := binary.LittleEndian.Uint16(body)
			head, padded := uint64(binary.LittleEndian.Uint32(body[4:])), binary.LittleEndian.Uint64(body[8:])
			compressed := uint64(binary.LittleEndian.Uint32(body[16:]))
			sm, flags, plain := binary.LittleEndian.Uint32(body[28:]), binary.LittleEndian.Uint64(body[40:]), binary.LittleEndian.Uint64(body[56:])
			if head < 64 || head > uint64(len(body)) || padded > uint64(len(body))-head {
				return nil, &imageError{errInvalidImage, "fatbin: an entry reaches beyond its container"}
			}
			payload := body[head : head+padded]
			body = body[head+padded:]
			if kind != entryPTX {
				seen = append(seen, fmt.Sprintf("machine code for sm_%d", sm))
				continue
			}
			if sm > 90 {
				seen = append(seen, fmt.Sprintf("PTX for compute_%d", sm))
				continue
			}
			text, err := expand(payload, compressed, plain, flags)
			if err != nil {
				return nil, &imageError{errInvalidImage, "fatbin: " + err.Error()}
			}
			if best == nil || sm > bestSM {
				best, bestSM = text, sm
			}
		}
	}
	if best == nil {
		return nil, &imageError{errNoBinaryForGPU, "no PTX for compute_90 or older in this fatbin; it holds: " + strings.Join(seen, ", ")}
	}
	return best, nil
}

// expand undoes an entry's compression.
func expand(payload []byte, compressed, plain, flags uint64) ([]byte, error) {
	if flags&(flagLZ4|flagZstd) == 0 {
		return payload, nil
	}
	if compressed > uint64(len(payload)) || plain > maxPTX {
		return nil, fmt.Errorf("compressed entry of %d bytes in %d, %d expanded (at most %d)", compressed, len(payload), plain, maxPTX)
	}
	payload = payload[:compressed]
	if flags&flagLZ4 != 0 {
		out := make([]byte, plain)
		n, err := lz4.UncompressBlock(payload, out)
		if err != nil {
			return nil, fmt.Errorf("LZ4: %w", err)
		}
		return out[:n], nil
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPTX))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	out, err := dec.DecodeAll(payload, nil)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return out, nil
}

// ---- requests ----

func (c *client) imageLoad(r *wire.Request) {
	addr, n := r.Args[0], r.Args[1]
	if n == 0 || n > maxImage {
		c.imageFailed(r.Tag, &imageError{errInvalidImage, fmt.Sprintf("an image of %d bytes", n)})
		return
	}
	raw := make([]byte, n)
	if err := readProcess(c.pid, addr, raw); err != nil {
		c.imageFailed(r.Tag, &imageError{errInvalidValue, err.Error()})
		return
	}
	// Decoding may take long; other threads of the client need not wait for it.
	tag := r.Tag
	go func() {
		var im *image
		err := c.srv.guard("loading an image", func() (err error) { im, err = c.srv.image(raw); return err })
		if err != nil {
			var ie *imageError
			if !errors.As(err, &ie) {
				ie = &imageError{errInvalidPTX, err.Error()}
			}
			c.imageFailed(tag, ie)
			return
		}
		f, err := textFile(describe(im))
		if err != nil {
			c.srv.releaseImage(im)
			c.status(tag, errOutOfMemory)
			return
		}
		id := c.srv.nextID.Add(1)
		c.mu.Lock()
		if c.ctx.Err() != nil {
			c.srv.releaseImage(im)
		} else {
			c.imageIDs[id] = im
		}
		c.mu.Unlock()
		c.reply(tag, success, []uint64{id}, nil, f)
	}()
}

func (c *client) imageFailed(tag uint64, e *imageError) {
	c.srv.logf("client %d (%s): image refused: %s", c.pid, c.name, strings.TrimSpace(e.log))
	f, err := textFile([]byte(e.log))
	if err != nil {
		f = (*os.File)(nil)
	}
	c.reply(tag, e.code, nil, nil, f)
}

// image gives the program for these bytes, from the cache where it is in use.
func (s *Server) image(raw []byte) (*image, error) {
	hash := sha256.Sum256(raw)
	s.mu.Lock()
	if im := s.images[hash]; im != nil {
		im.refs++
		s.mu.Unlock()
		return im, nil
	}
	s.mu.Unlock()
	im, err := loadImage(raw)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.images[hash]; other != nil {
		other.refs++
		return other, nil
	}
	im.hash, im.refs = hash, 1
	s.images[hash] = im
	return im, nil
}

func (s *Server) releaseImage(im *image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if im.refs--; im.refs == 0 {
		delete(s.images, im.hash)
	}
}

// describe writes what libcuda.so.1 needs to know of an image (module.c parses it).
func describe(im *image) []byte {
	var b strings.Builder
	for i := range im.entries {
		e := &im.entries[i]
		req := e.Limits.ReqNTID
		broken := 0
		if e.Err != nil {
			broken = 1
		}
		fmt.Fprintf(&b, "E %s %d %d %d %d %d %d %d %d %d %d", e.Name, len(e.Params), e.ParamBytes, e.StaticShared, e.LocalBytes,
			e.MaxThreads, e.Regs, req[0], req[1], req[2], broken)
		for _, p := range e.Params {
			fmt.Fprintf(&b, " %d:%d", p.Offset, p.Size)
		}
		b.WriteByte('\n')
	}
	for _, g := range im.globals {
		constant := 0
		if g.Const {
			constant = 1
		}
		fmt.Fprintf(&b, "G %s %d %d\n", g.Name, g.Size, constant)
	}
	return []byte(b.String())
}

func (c *client) imageFree(r *wire.Request) {
	c.mu.Lock()
	im := c.imageIDs[r.Args[0]]
	delete(c.imageIDs, r.Args[0])
	c.mu.Unlock()
	if im != nil {
		c.srv.releaseImage(im)
	}
	c.status(r.Tag, success)
}

func (c *client) instantiate(r *wire.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, im := c.contexts[r.Args[0]], c.imageIDs[r.Args[1]]
	if d == nil || im == nil {
		c.status(r.Tag, errInvalidValue)
		return
	}
	if 8*len(im.globals) > wire.MaxMessage-256 {
		c.srv.logf("client %d: %d global variables: at most %d", c.pid, len(im.globals), (wire.MaxMessage-256)/8)
		c.status(r.Tag, errNotSupported)
		return
	}
	in := &instance{d: d, image: im}
	offsets, total := map[string]uint64{}, uint64(0)
	for _, g := range im.globals {
		align := max(uint64(g.Align), 256)
		total = (total + align - 1) &^ (align - 1)
		offsets[g.Name] = total
		total += uint64(max(g.Size, 1))
	}
	base := uint64(0)
	if total > 0 {
		if in.seg = c.alloc(d, d.dev, total); in.seg == nil {
			c.status(r.Tag, errOutOfMemory)
			return
		}
		base = in.seg.base
	}
	var err error
	if in.in, err = im.prog.Instantiate(func(name string) uint64 { return base + offsets[name] }); err != nil {
		c.srv.logf("client %d: %v", c.pid, err)
		if in.seg != nil {
			c.arena.free(in.seg)
			in.seg.drop()
		}
		c.status(r.Tag, errInvalidPTX)
		return
	}
	var addrs []byte
	for _, g := range im.globals {
		addrs = binary.LittleEndian.AppendUint64(addrs, base+offsets[g.Name])
		copy(in.seg.mem[offsets[g.Name]:], in.in.InitBytes(g))
	}
	if in.seg != nil {
		c.space.add(in.seg)
	}
	id := c.srv.nextID.Add(1)
	c.instances[id] = in
	c.reply(r.Tag, success, []uint64{id}, addrs, nil)
}

// instanceFree waits for the context's work, as the driver does.
func (c *client) instanceFree(r *wire.Request) {
	c.mu.Lock()
	in := c.instances[r.Args[0]]
	delete(c.instances, r.Args[0])
	c.mu.Unlock()
	if in == nil {
		c.status(r.Tag, errInvalidHandle)
		return
	}
	tag := r.Tag
	whenAll(c.lastOps(in.d), func() {
		if in.seg != nil {
			c.mu.Lock()
			c.releaseSegment(in.seg.base)
			c.mu.Unlock()
		}
		c.status(tag, success)
	})
}
