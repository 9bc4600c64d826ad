package shm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrProtocol is wrapped by every error that means: the peer does not speak this wire; close the connection.
var ErrProtocol = errors.New("shm: bad message")

const messageHeaderBytes = int(unsafe.Sizeof(MessageHeader{}))

// sendTimeout bounds Conn.Send against a peer that does not read. A variable for the tests.
var sendTimeout = 5 * time.Second

// Message is one packet. Type carries ReplyBit in replies. Body is a wire struct's bytes (Encode, Decode) of exactly the size that
// the type says. Fds are borrowed by Send; those of a received message are the receiver's to close (CloseFds).
type Message struct {
	Type, Status uint16
	Request      uint32
	ClientID     uint64
	Body         []byte
	Tail         []byte
	Fds          []int
}

// Reply starts the reply to m with a status and a body (nil: the right number of zero bytes).
func (m *Message) Reply(status uint16, body []byte) Message {
	if body == nil {
		body = make([]byte, max(0, BodyBytes(m.Type, true)))
	}
	return Message{Type: m.Type | ReplyBit, Status: status, Request: m.Request, ClientID: m.ClientID, Body: body}
}

// CloseFds closes the message's descriptors.
func (m *Message) CloseFds() {
	for _, fd := range m.Fds {
		unix.Close(fd)
	}
	m.Fds = nil
}

// TakeFds hands the descriptors over when there are exactly n, and closes them all otherwise.
func (m *Message) TakeFds(n int) ([]int, error) {
	if len(m.Fds) != n {
		err := fmt.Errorf("%w: %s with %d fds; expected %d", ErrProtocol, TypeName(m.Type), len(m.Fds), n)
		m.CloseFds()
		return nil, err
	}
	fds := m.Fds
	m.Fds = nil
	return fds, nil
}

// WireStruct is any struct that travels in a message or a record.
type WireStruct interface {
	Hello | Welcome | Range | Image | Kernel | Setting | Graph | Share | Attach | Fault | Class | Codes | Trace | TraceEvent | TraceMark |
		LaneOpen | Launch | Memset | Copy | Copy3D | InlineCopy | EventMark | Elapsed | RequestBegin | RequestEnd | GraphLaunch
}

// Encode is v's bytes on the wire.
func Encode[T WireStruct](v T) []byte {
	out := make([]byte, unsafe.Sizeof(v))
	copy(out, unsafe.Slice((*byte)(unsafe.Pointer(&v)), len(out)))
	return out
}

// Put writes v into a record's body, as Producer.Begin gave it.
func Put[T WireStruct](body []byte, v T) int {
	return copy(body, unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v)))
}

// Decode copies a wire struct out of a message's body.
func Decode[T WireStruct](body []byte) (T, error) {
	var v T
	if len(body) != int(unsafe.Sizeof(v)) {
		return v, fmt.Errorf("%w: body of %d bytes; %T has %d", ErrProtocol, len(body), v, unsafe.Sizeof(v))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&v)), len(body)), body)
	return v, nil
}

// Conn is a connected SOCK_SEQPACKET unix socket. One goroutine may receive while others send.
type Conn struct {
	c      *net.UnixConn
	sendMu sync.Mutex
	recvMu sync.Mutex
	buf    [MessageBytes + 1]byte // one more than allowed, to see that a packet is too long
	oob    []byte
}

// NewConn takes over a connected socket, for instance fd 3 of an executor. On success fd belongs to the Conn (under another number);
// on error it stays the caller's.
func NewConn(fd int) (*Conn, error) {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, fmt.Errorf("fd %d: %w", fd, err)
	}
	if typ != unix.SOCK_SEQPACKET {
		return nil, fmt.Errorf("fd %d: socket type %d; expected SOCK_SEQPACKET (%d)", fd, typ, unix.SOCK_SEQPACKET)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "heddle-conn")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("fd %d: not a unix socket", fd)
	}
	unix.Close(fd)
	return newConn(u), nil
}

func newConn(u *net.UnixConn) *Conn {
	// Room for more fds than are allowed, so that they can be closed; the kernel drops the rest and says so.
	return &Conn{c: u, oob: make([]byte, unix.CmsgSpace(4*(MessageFds+4)))}
}

// Pair is a connected pair: an end for this process and the fd of the other, close-on-exec, for a child.
func Pair() (*Conn, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, err
	}
	c, err := NewConn(fds[0])
	if err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, -1, err
	}
	return c, fds[1], nil
}

// Close closes the socket; a Recv in progress returns an error that wraps net.ErrClosed.
func (c *Conn) Close() error { return c.c.Close() }

// Send sends one message, waiting at most 5 s for room. It refuses a message that the other side would refuse.
func (c *Conn) Send(m Message) error {
	want := BodyBytes(m.Type&^ReplyBit, m.Type&ReplyBit != 0)
	if want < 0 {
		return fmt.Errorf("send: type %#x does not exist", m.Type)
	}
	if len(m.Body) != want {
		return fmt.Errorf("send %s: body of %d bytes; expected %d", TypeName(m.Type), len(m.Body), want)
	}
	total := messageHeaderBytes + want + len(m.Tail)
	if total > MessageBytes {
		return fmt.Errorf("send %s: %d bytes; a message has at most %d", TypeName(m.Type), total, MessageBytes)
	}
	if len(m.Fds) > MessageFds {
		return fmt.Errorf("send %s: %d fds; a message has at most %d", TypeName(m.Type), len(m.Fds), MessageFds)
	}
	h := MessageHeader{Magic: MessageMagic, Type: m.Type, Status: m.Status, Request: m.Request, TailBytes: uint32(len(m.Tail)), ClientID: m.ClientID}
	packet := make([]byte, 0, total)
	packet = append(packet, unsafe.Slice((*byte)(unsafe.Pointer(&h)), messageHeaderBytes)...)
	packet = append(append(packet, m.Body...), m.Tail...)
	var oob []byte
	if len(m.Fds) > 0 {
		oob = unix.UnixRights(m.Fds...)
	}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if err := c.c.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if _, _, err := c.c.WriteMsgUnix(packet, oob, nil); err != nil {
		return fmt.Errorf("send %s: %w", TypeName(m.Type), err)
	}
	return nil
}

// Recv receives one message; the zero deadline waits for ever. io.EOF: the peer closed. os.ErrDeadlineExceeded: nothing came, and
// nothing was consumed. An error that wraps ErrProtocol: the peer sent something that the wire does not know; its fds are closed.
func (c *Conn) Recv(deadline time.Time) (Message, error) {
	c.recvMu.Lock()
	defer c.recvMu.Unlock()
	if err := c.c.SetReadDeadline(deadline); err != nil {
		return Message{}, err
	}
	n, oobn, flags, _, err := c.c.ReadMsgUnix(c.buf[:], c.oob)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return Message{}, io.EOF
		}
		return Message{}, err
	}
	fds, ferr := parseFds(c.oob[:oobn])
	m, err := parseMessage(c.buf[:n])
	switch {
	case n == 0 && len(fds) == 0:
		err = io.EOF
	case ferr != nil:
		err = ferr
	case flags&unix.MSG_CTRUNC != 0 || len(fds) > MessageFds:
		err = fmt.Errorf("%w: more than %d fds", ErrProtocol, MessageFds)
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("%w: longer than %d bytes", ErrProtocol, MessageBytes)
	}
	m.Fds = fds
	if err != nil {
		m.CloseFds()
		return Message{}, err
	}
	return m, nil
}

// parseFds takes the descriptors out of control data. Descriptors that were found are returned with an error too, to be closed.
func parseFds(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control data: %v", ErrProtocol, err)
	}
	var fds []int
	for i := range controls {
		if controls[i].Header.Level != unix.SOL_SOCKET || controls[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		if len(controls[i].Data)%4 != 0 {
			return fds, fmt.Errorf("%w: control data: %d bytes of fds", ErrProtocol, len(controls[i].Data))
		}
		got, err := unix.ParseUnixRights(&controls[i])
		if err != nil {
			return fds, fmt.Errorf("%w: control data: %v", ErrProtocol, err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// parseMessage checks and copies one packet.
func parseMessage(p []byte) (Message, error) {
	if len(p) < messageHeaderBytes || len(p) > MessageBytes {
		return Message{}, fmt.Errorf("%w: %d bytes; expected %d to %d", ErrProtocol, len(p), messageHeaderBytes, MessageBytes)
	}
	var h MessageHeader
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&h)), messageHeaderBytes), p)
	if h.Magic != MessageMagic {
		return Message{}, fmt.Errorf("%w: magic %#x; expected %#x", ErrProtocol, h.Magic, uint32(MessageMagic))
	}
	body := BodyBytes(h.Type&^ReplyBit, h.Type&ReplyBit != 0)
	if body < 0 {
		return Message{}, fmt.Errorf("%w: type %#x does not exist", ErrProtocol, h.Type)
	}
	if uint64(len(p)) != uint64(messageHeaderBytes)+uint64(body)+uint64(h.TailBytes) {
		hint := ""
		if h.Type&^ReplyBit == TypeHello {
			hint = ": the other side comes from another build of heddle"
		}
		return Message{}, fmt.Errorf("%w: %s of %d bytes; header %d, body %d and tail %d come to another number%s", ErrProtocol, TypeName(h.Type), len(p), messageHeaderBytes, body, h.TailBytes, hint)
	}
	data := append([]byte(nil), p[messageHeaderBytes:]...)
	return Message{Type: h.Type, Status: h.Status, Request: h.Request, ClientID: h.ClientID, Body: data[:body:body], Tail: data[body:]}, nil
}
