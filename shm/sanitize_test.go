package shm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"unsafe"
)

// runSanitized runs a C program and returns its output. The thread sanitizer of some gcc versions cannot start under much address
// randomisation, hence setarch -R.
func runSanitized(t *testing.T, stdin []byte, program string) (string, error) {
	t.Helper()
	cmd := exec.Command("setarch", "-R", program)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(cmd.Environ(), "TSAN_OPTIONS=halt_on_error=1 exitcode=66", "UBSAN_OPTIONS=halt_on_error=1 print_stacktrace=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestThreadSanitizer runs the C producer against a C consumer in one process.
func TestThreadSanitizer(t *testing.T) {
	out, err := runSanitized(t, nil, buildC(t, "threads", "-fsanitize=thread"))
	if err != nil || !strings.HasPrefix(out, "ok ") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestThreadSanitizerFindsFaults takes the acquire out of the consumer and expects a race.
func TestThreadSanitizerFindsFaults(t *testing.T) {
	out, err := runSanitized(t, nil, buildC(t, "threads", "-fsanitize=thread", "-DBROKEN_ACQUIRE"))
	if err == nil || !strings.Contains(out, "data race") {
		t.Fatalf("a consumer without acquire was not reported: %v\n%s", err, out)
	}
}

// TestAddressSanitizer runs the same threads under the address and undefined-behaviour sanitizers.
func TestAddressSanitizer(t *testing.T) {
	out, err := runSanitized(t, nil, buildC(t, "threads", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
	if err != nil || !strings.HasPrefix(out, "ok ") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestHostilePacketsInC gives the C receiver good packets, good ones with a byte or a length changed, and noise, with and without
// descriptors; and its session file check headers that lie.
func TestHostilePacketsInC(t *testing.T) {
	var input bytes.Buffer
	r := rand.New(rand.NewPCG(1, 2))
	send := func(packet []byte, fds int) {
		_ = binary.Write(&input, binary.LittleEndian, []uint32{uint32(len(packet)), uint32(fds)})
		input.Write(packet)
	}
	good := func(typ uint16, tail int) []byte {
		body := BodyBytes(typ&^ReplyBit, typ&ReplyBit != 0)
		h := MessageHeader{Magic: MessageMagic, Type: typ, TailBytes: uint32(tail), Request: 9}
		p := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), messageHeaderBytes)...)
		return append(p, make([]byte, body+tail)...)
	}
	wantAccepted, total := 0, 0
	for typ := range typeNames {
		for _, typ := range []uint16{typ, typ | ReplyBit} {
			for _, tail := range []int{0, 1, 4096} {
				for _, fds := range []int{0, 2, 4} {
					send(good(typ, tail), fds)
					wantAccepted++
					total++
				}
				for _, fds := range []int{5, 8, 9, 64} {
					send(good(typ, tail), fds)
					total++
				}
			}
			send(good(typ, 4097), 1) // more than the receiver has room for
			p := good(typ, 8)
			send(p[:len(p)-1], 1)
			send(append(p, 0), 1)
			p[0] ^= 1
			send(p, 1)
			total += 4
		}
	}
	for range 500 {
		p := make([]byte, r.IntN(200))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		if len(p) > 8 && r.IntN(2) == 0 {
			binary.LittleEndian.PutUint32(p, MessageMagic)
		}
		send(p, r.IntN(6))
		total++
	}
	send(make([]byte, MessageBytes+1), 1)
	total++
	out, err := runSanitized(t, input.Bytes(), buildC(t, "hostile", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var accepted, refused, headers int
	if _, err := fmt.Sscanf(out, "ok %d %d %d", &accepted, &refused, &headers); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if accepted != wantAccepted || accepted+refused != total || headers < 200 {
		t.Errorf("%d accepted, %d refused of %d, %d headers; expected %d accepted", accepted, refused, total, headers, wantAccepted)
	}
}
