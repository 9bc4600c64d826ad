package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/tools/simgpu/wire"
)

// Do sends a Command to the server at a socket and returns its answer; an
// Answer with an Error becomes an error.
func Do(socket string, cmd Command) (*Answer, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("simgpu: no server at %s: %w", socket, err)
	}
	defer conn.Close()
	body, err := json.Marshal(&cmd)
	if err != nil {
		return nil, err
	}
	hello := []uint64{wire.Version, uint64(os.Getpid()), wire.KindControl, 0, 0, 0}
	if _, err := call(conn, wire.AppendRequest(nil, wire.OpHello, 1, hello, nil)); err != nil {
		return nil, err
	}
	f, err := call(conn, wire.AppendRequest(nil, wire.OpControl, 2, nil, body))
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, errors.New("simgpu: the server's answer lacks its text")
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		return nil, err
	}
	var ans Answer
	if err := json.Unmarshal(text, &ans); err != nil {
		return nil, fmt.Errorf("simgpu: the server's answer: %w", err)
	}
	if ans.Error != "" {
		return nil, errors.New(ans.Error)
	}
	return &ans, nil
}

// call sends one packet and receives one; it returns the descriptor that came along.
func call(conn *net.UnixConn, pkt []byte) (*os.File, error) {
	if _, err := conn.Write(pkt); err != nil {
		return nil, err
	}
	buf, oob := make([]byte, wire.MaxMessage+1), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, fmt.Errorf("simgpu: the server closed the connection: %w", err)
	}
	fd := takeFD(oob[:oobn])
	status, _, _, _, err := wire.DecodeReply(buf[:n])
	if err == nil && status != success {
		err = fmt.Errorf("simgpu: the server answered error %d", status)
	}
	if fd < 0 {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "simgpu-answer")
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
