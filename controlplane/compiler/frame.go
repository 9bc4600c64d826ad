package compiler

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/heddle-gpu/heddle/jit/coalesce"
	"github.com/heddle-gpu/heddle/jit/harvest"
)

// Between service and worker travel frames: u32 magic, u32 bytes of JSON, u32 number of blobs, u64 bytes of each blob
// (little-endian), the JSON, the blobs. Both sides read with bounds: the worker may be a wreck, and the service's pipe may be
// somebody's keyboard.
const (
	frameMagic  = 0x4d524648 // "HFRM"
	maxJSON     = 1 << 20
	maxBlobs    = 8
	headerBytes = 12
)

var errFrame = errors.New("not a frame")

func writeFrame(w io.Writer, v any, blobs ...[]byte) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxJSON || len(blobs) > maxBlobs {
		return fmt.Errorf("a frame of %d bytes and %d blobs; at most %d and %d", len(text), len(blobs), maxJSON, maxBlobs)
	}
	le := binary.LittleEndian
	head := le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, frameMagic), uint32(len(text))), uint32(len(blobs)))
	for _, b := range blobs {
		head = le.AppendUint64(head, uint64(len(b)))
	}
	for _, part := range append([][]byte{append(head, text...)}, blobs...) {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// readFrame reads one frame whose blobs have at most limit bytes together. io.EOF: there is none.
func readFrame(r io.Reader, v any, limit uint64) ([][]byte, error) {
	le := binary.LittleEndian
	var head [headerBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	text, n := le.Uint32(head[4:]), le.Uint32(head[8:])
	if le.Uint32(head[:]) != frameMagic || text > maxJSON || n > maxBlobs {
		return nil, fmt.Errorf("%w: it begins with % x", errFrame, head)
	}
	sizes := make([]uint64, n)
	var total uint64
	for i := range sizes {
		var b [8]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, whole(err)
		}
		sizes[i] = le.Uint64(b[:])
		if sizes[i] > limit || total+sizes[i] > limit {
			return nil, fmt.Errorf("%w: a blob of %d bytes; at most %d are taken", errFrame, sizes[i], limit)
		}
		total += sizes[i]
	}
	b := make([]byte, text)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, whole(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	blobs := make([][]byte, n)
	for i, size := range sizes {
		blobs[i] = make([]byte, size)
		if _, err := io.ReadFull(r, blobs[i]); err != nil {
			return nil, whole(err)
		}
	}
	return blobs, nil
}

// whole: a frame that ends early is no end between frames.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// order is a request on the wire; its blobs are the images.
type order struct {
	Bodies []orderBody    `json:"bodies"`
	Spec   coalesce.Spec  `json:"spec"`
	Device Device         `json:"device"`
	Places harvest.Places `json:"places"`
}

type orderBody struct {
	Image int    `json:"image"` // index of the blob
	Entry string `json:"entry"`
}

// reply is an answer on the wire; its one blob is the code, absent with a failure.
type reply struct {
	Answer
	Failure *Failure `json:"failure,omitempty"`
}

func (r *Request) write(w io.Writer) error {
	o := order{Spec: r.Spec, Device: r.Device, Places: r.Places}
	var blobs [][]byte
	at := map[[32]byte]int{}
	for i := range r.Bodies {
		b := &r.Bodies[i]
		k, ok := at[b.Hash]
		if !ok {
			k = len(blobs)
			at[b.Hash] = k
			blobs = append(blobs, b.Image)
		}
		o.Bodies = append(o.Bodies, orderBody{k, b.Entry})
	}
	return writeFrame(w, o, blobs...)
}

func readRequest(r io.Reader) (*Request, error) {
	var o order
	blobs, err := readFrame(r, &o, MaxImageBytes)
	if err != nil {
		return nil, err
	}
	out := &Request{Spec: o.Spec, Device: o.Device, Places: o.Places}
	for _, b := range o.Bodies {
		if b.Image < 0 || b.Image >= len(blobs) {
			return nil, fmt.Errorf("%w: image %d of %d", errFrame, b.Image, len(blobs))
		}
		out.Bodies = append(out.Bodies, Body{Image: blobs[b.Image], Entry: b.Entry})
	}
	return out, nil
}
