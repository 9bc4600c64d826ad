// Package wire is the one source of the messages between libcuda.so.1 (the C
// side of the simulated GPU) and its server. The generator tools/simgpu/gen
// prints the constants below as wire.h, so that the two sides cannot differ.
//
// A message is one packet of a SOCK_SEQPACKET unix socket, little-endian:
//
//	request: u16 op, u16 thread, u32 nargs, u64 tag, nargs × u64, then a blob
//	reply:   u32 status, u32 nargs, u64 tag,        nargs × u64, then a blob
//
// A request with tag 0 has no reply. A file descriptor may travel beside either.
// Messages of one connection are handled in order; that order is the order of
// submission which the driver's stream rules speak of.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
)

// revision grows when a message's meaning changes and no constant does.
const revision = 4

// Version identifies the protocol: a hash of every constant below, so that a
// library and a server that were not built together notice. The server refuses
// any other.
var Version = fingerprint()

func fingerprint() uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, revision)
	for _, c := range constants() {
		fmt.Fprintf(h, " %s=%d", c.Name, c.Value)
	}
	return h.Sum64() >> 16
}

// MaxMessage bounds a packet in bytes, both directions.
const MaxMessage = 96 << 10

// HeaderSize is the size in bytes of a request's and of a reply's header.
const HeaderSize = 16

// Op names a request. The comment of each lists its arguments → its reply.
type Op uint16

// The requests. "*" marks requests that need no reply (they may still ask one).
const (
	OpHello          Op = iota + 1 // version, pid, kind, probe, arena, arenaSize; blob: entry point names → devices, memory, serverPid; fd: status page
	OpCtxCreate                    // ctx, dev, flags →
	OpCtxDestroy                   // ctx → (after its work stopped)
	OpCtxSync                      // ctx → (after all its work)
	OpStreamCreate                 // * ctx, slot, flags, priority, kind, first SM, SMs (0: all)
	OpStreamDestroy                // * slot
	OpStreamSync                   // slot → (after all its work)
	OpEventCreate                  // * id, flags
	OpEventDestroy                 // * id
	OpEventRecord                  // * slot, seq, id
	OpEventWait                    // * slot, seq, id
	OpEventSync                    // id → (after its record)
	OpEventElapsed                 // start, end → nanoseconds (int64)
	OpEventQuery                   // id →
	OpMemAlloc                     // ctx, dev, size → addr
	OpMemFree                      // addr → (after the context's work)
	OpMemInfo                      // dev → free, total
	OpVmmCreate                    // dev, size, exportable → handle
	OpVmmRelease                   // handle →
	OpVmmExport                    // handle → ; fd
	OpVmmImport                    // ; fd → handle, size, dev
	OpVmmMap                       // addr, size, offset, handle →
	OpVmmUnmap                     // addr, size →
	OpVmmAccess                    // addr, size, dev, flags →
	OpHostRegister                 // addr, size, flags, fdOffset, hasFd; fd →
	OpHostUnregister               // addr → (after the process's work)
	OpCopy                         // * slot, seq, mode, dst, dstPitch, dstSlice, src, srcPitch, srcSlice, width, height, depth; blob: source bytes
	OpMemset                       // * slot, seq, dst, pitch, elem, value, width, height
	OpMemop                        // * slot, seq, n, n × (kind, addr, value, flags)
	OpLaunch                       // * slot, seq, instance, entry, grid×3, block×3, cluster×3, dynShared, flags; blob: parameters
	OpHostFunc                     // * slot, seq, fn, data, kind
	OpNextCallback                 // → id, fn, data, kind, slot, status
	OpCallbackDone                 // * id
	OpImageLoad                    // addr, len → image; fd: description or log
	OpImageFree                    // * image
	OpInstantiate                  // ctx, image → instance; blob: u64 address of each global
	OpInstanceFree                 // instance → (after the context's work)
	OpAsyncFree                    // * slot, seq, addr
	OpIpcMemGet                    // addr → token, offset, size
	OpIpcMemOpen                   // ctx, token → addr, size
	OpIpcMemClose                  // addr →
	OpIpcEventGet                  // id → token
	OpIpcEventOpen                 // id, token →
	OpFetchPrintf                  // ctx → more, 1 standard output or 2 standard error; blob
	OpControl                      // blob: command → more; blob: answer
	OpNop                          // * slot, seq
	OpPeer                         // ctx, dev, enable →
	opEnd
)

// Names gives each op's name, for logs and for wire.h.
var Names = map[Op]string{
	OpHello: "HELLO", OpCtxCreate: "CTX_CREATE", OpCtxDestroy: "CTX_DESTROY", OpCtxSync: "CTX_SYNC",
	OpStreamCreate: "STREAM_CREATE", OpStreamDestroy: "STREAM_DESTROY", OpStreamSync: "STREAM_SYNC",
	OpEventCreate: "EVENT_CREATE", OpEventDestroy: "EVENT_DESTROY", OpEventRecord: "EVENT_RECORD",
	OpEventWait: "EVENT_WAIT", OpEventSync: "EVENT_SYNC", OpEventElapsed: "EVENT_ELAPSED", OpEventQuery: "EVENT_QUERY",
	OpMemAlloc: "MEM_ALLOC", OpMemFree: "MEM_FREE", OpMemInfo: "MEM_INFO",
	OpVmmCreate: "VMM_CREATE", OpVmmRelease: "VMM_RELEASE", OpVmmExport: "VMM_EXPORT", OpVmmImport: "VMM_IMPORT",
	OpVmmMap: "VMM_MAP", OpVmmUnmap: "VMM_UNMAP", OpVmmAccess: "VMM_ACCESS",
	OpHostRegister: "HOST_REGISTER", OpHostUnregister: "HOST_UNREGISTER",
	OpCopy: "COPY", OpMemset: "MEMSET", OpMemop: "MEMOP", OpLaunch: "LAUNCH", OpHostFunc: "HOST_FUNC",
	OpNextCallback: "NEXT_CALLBACK", OpCallbackDone: "CALLBACK_DONE",
	OpImageLoad: "IMAGE_LOAD", OpImageFree: "IMAGE_FREE", OpInstantiate: "INSTANTIATE", OpInstanceFree: "INSTANCE_FREE",
	OpAsyncFree: "ASYNC_FREE", OpIpcMemGet: "IPC_MEM_GET", OpIpcMemOpen: "IPC_MEM_OPEN", OpIpcMemClose: "IPC_MEM_CLOSE",
	OpIpcEventGet: "IPC_EVENT_GET", OpIpcEventOpen: "IPC_EVENT_OPEN", OpFetchPrintf: "FETCH_PRINTF",
	OpControl: "CONTROL", OpNop: "NOP", OpPeer: "PEER",
}

// String returns the op's name.
func (o Op) String() string {
	if n, ok := Names[o]; ok {
		return n
	}
	return fmt.Sprintf("op %d", uint16(o))
}

// Kinds of connection, Hello's third argument.
const (
	KindClient  = 0
	KindControl = 1
)

// Copy modes.
const (
	CopyAsync    = 0 // the reply, if asked for, comes when the op is queued
	CopySync     = 1 // the reply comes when the copy is done
	CopySnapshot = 2 // the source is read now; the reply comes then
	CopyInline   = 3 // the source is the message's blob
)

// Memop kinds.
const (
	MemopWrite32 = 0
	MemopWrite64 = 1
	MemopWait32  = 2
	MemopWait64  = 3
	MemopBarrier = 4
)

// Stream kinds.
const (
	StreamNormal    = 0
	StreamLegacy    = 1
	StreamPerThread = 2
)

// Flags of a launch.
const (
	LaunchCooperative = 1
	LaunchFromGraph   = 2 // the host pays once for all nodes
)

// MaxMemops bounds the operations of one OpMemop.
const MaxMemops = 256

// Layout of the status page, a sealed memfd that the server creates for each
// client. The server writes errors, rules and done counters; the client writes
// call counts. Offsets in bytes.
const (
	StatusMagic     = 0x756467656c646853 // first eight bytes
	StatusRulesGen  = 0x40               // u32: grows whenever the rules change
	StatusPrintf    = 0x44               // u32: output of kernels is waiting
	StatusCtxErr    = 0x1000             // u32 × MaxContexts: sticky error of a context
	StatusCalls     = 0x2000             // u32 × MaxEntries: calls of an entry point
	StatusRules     = 0x8000             // MaxRules × RuleSize
	StatusDone      = 0x20000            // u64 × MaxStreams: last finished sequence number
	StatusSize      = 0xa0000
	MaxContexts     = 1024
	MaxEntries      = 2048
	MaxRules        = 64
	MaxStreams      = 65536
	MaxEvents       = 1 << 20
	RuleSize        = 96 // char name[80]; u32 nth; u32 code; u32 delay_us; u32 times
	RuleNameSize    = 80
	InlineCopyBytes = 16 << 10
	SnapshotRows    = 65536 // rows that a CopySnapshot may have
)

// Constant is a number that both sides know.
type Constant struct {
	Name  string
	Value uint64
}

// Constants lists every constant that the C side needs, in order, for wire.h.
func Constants() []Constant { return append([]Constant{{"VERSION", Version}}, constants()...) }

func constants() []Constant {
	type c = Constant
	out := []c{{"MAX_MESSAGE", MaxMessage}, {"HEADER_SIZE", HeaderSize},
		{"KIND_CLIENT", KindClient}, {"KIND_CONTROL", KindControl},
		{"COPY_ASYNC", CopyAsync}, {"COPY_SYNC", CopySync}, {"COPY_SNAPSHOT", CopySnapshot}, {"COPY_INLINE", CopyInline},
		{"MEMOP_WRITE32", MemopWrite32}, {"MEMOP_WRITE64", MemopWrite64}, {"MEMOP_WAIT32", MemopWait32},
		{"MEMOP_WAIT64", MemopWait64}, {"MEMOP_BARRIER", MemopBarrier}, {"MAX_MEMOPS", MaxMemops}, {"LAUNCH_FROM_GRAPH", LaunchFromGraph},
		{"STREAM_NORMAL", StreamNormal}, {"STREAM_LEGACY", StreamLegacy}, {"STREAM_PER_THREAD", StreamPerThread},
		{"STATUS_MAGIC", StatusMagic}, {"STATUS_RULES_GEN", StatusRulesGen}, {"STATUS_PRINTF", StatusPrintf},
		{"STATUS_CTX_ERR", StatusCtxErr}, {"STATUS_CALLS", StatusCalls}, {"STATUS_RULES", StatusRules},
		{"STATUS_DONE", StatusDone}, {"STATUS_SIZE", StatusSize}, {"MAX_CONTEXTS", MaxContexts},
		{"MAX_ENTRIES", MaxEntries}, {"MAX_RULES", MaxRules}, {"MAX_STREAMS", MaxStreams}, {"MAX_EVENTS", MaxEvents},
		{"RULE_SIZE", RuleSize}, {"RULE_NAME_SIZE", RuleNameSize}, {"INLINE_COPY_BYTES", InlineCopyBytes}, {"SNAPSHOT_ROWS", SnapshotRows}}
	for op := Op(1); op < opEnd; op++ {
		out = append(out, c{"OP_" + Names[op], uint64(op)})
	}
	return out
}

// Request is one decoded request. Args and Blob point into the packet.
type Request struct {
	Op     Op
	Thread uint16 // of the client: its threads' numbers, cyclic; each has a host clock of its own
	Tag    uint64
	Args   []uint64
	Blob   []byte
}

// ErrMalformed is returned for a packet that is no request.
var ErrMalformed = errors.New("simgpu: malformed message")

// Decode parses a packet into r, reusing r.Args. It never reads outside pkt.
func Decode(pkt []byte, r *Request) error {
	if len(pkt) < HeaderSize {
		return fmt.Errorf("%w: %d bytes, a header has %d", ErrMalformed, len(pkt), HeaderSize)
	}
	r.Op = Op(binary.LittleEndian.Uint16(pkt))
	r.Thread = binary.LittleEndian.Uint16(pkt[2:])
	n := binary.LittleEndian.Uint32(pkt[4:])
	r.Tag = binary.LittleEndian.Uint64(pkt[8:])
	if r.Op == 0 || r.Op >= opEnd {
		return fmt.Errorf("%w: unknown op %d", ErrMalformed, uint16(r.Op))
	}
	if uint64(n)*8 > uint64(len(pkt)-HeaderSize) {
		return fmt.Errorf("%w: %s announces %d arguments in %d bytes", ErrMalformed, r.Op, n, len(pkt))
	}
	r.Args = r.Args[:0]
	body := pkt[HeaderSize:]
	for i := uint32(0); i < n; i++ {
		r.Args = append(r.Args, binary.LittleEndian.Uint64(body[8*i:]))
	}
	r.Blob = body[8*n:]
	return nil
}

// AppendReply appends an encoded reply to buf.
func AppendReply(buf []byte, tag uint64, status uint32, args []uint64, blob []byte) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, status)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(args)))
	buf = binary.LittleEndian.AppendUint64(buf, tag)
	for _, a := range args {
		buf = binary.LittleEndian.AppendUint64(buf, a)
	}
	return append(buf, blob...)
}

// AppendRequest appends an encoded request to buf; the Go control client and tests use it.
func AppendRequest(buf []byte, op Op, tag uint64, args []uint64, blob []byte) []byte {
	buf = binary.LittleEndian.AppendUint16(buf, uint16(op))
	buf = binary.LittleEndian.AppendUint16(buf, 0)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(args)))
	buf = binary.LittleEndian.AppendUint64(buf, tag)
	for _, a := range args {
		buf = binary.LittleEndian.AppendUint64(buf, a)
	}
	return append(buf, blob...)
}

// DecodeReply splits a reply packet.
func DecodeReply(pkt []byte) (status uint32, tag uint64, args []uint64, blob []byte, err error) {
	if len(pkt) < HeaderSize {
		return 0, 0, nil, nil, fmt.Errorf("%w: reply of %d bytes", ErrMalformed, len(pkt))
	}
	n := binary.LittleEndian.Uint32(pkt[4:])
	if uint64(n)*8 > uint64(len(pkt)-HeaderSize) {
		return 0, 0, nil, nil, fmt.Errorf("%w: reply announces %d arguments in %d bytes", ErrMalformed, n, len(pkt))
	}
	for i := uint32(0); i < n; i++ {
		args = append(args, binary.LittleEndian.Uint64(pkt[HeaderSize+8*i:]))
	}
	return binary.LittleEndian.Uint32(pkt), binary.LittleEndian.Uint64(pkt[8:]), args, pkt[HeaderSize+8*n:], nil
}
