package gpu

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/heddle-gpu/heddle/tools/simgpu/simtest"
)

func TestUUID(t *testing.T) {
	const text = "GPU-12345678-9abc-def0-1122-334455667788"
	u, err := ParseUUID(text)
	if err != nil || u.String() != text {
		t.Errorf("%v, %v", u, err)
	}
	for _, bad := range []string{"", "GPU-", text[:30], text + "00", "GPU-zz345678-9abc-def0-1122-334455667788"} {
		if _, err := ParseUUID(bad); err == nil {
			t.Errorf("%q is no UUID", bad)
		}
	}
}

func TestSticky(t *testing.T) {
	for r, want := range map[Result]bool{Success: false, InvalidValue: false, OutOfMemory: false, NotReady: false, 701: false, 209: false, IllegalAddress: true, 710: true, LaunchFailed: true, 214: true, Unknown: true} {
		if r.Sticky() != want {
			t.Errorf("%d: sticky is not %v", r, want)
		}
	}
}

// inChild runs the rest of a test in a process of its own: a process keeps the driver library that it loaded first.
func inChild(t *testing.T, env ...string) bool {
	t.Helper()
	const marker = "HEDDLE_TEST_CHILD"
	if os.Getenv(marker) == t.Name() {
		return true
	}
	cmd := simtest.Start(t).Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(append(cmd.Env, marker+"="+t.Name(), LibraryEnv+"="+simtest.Library(t)+"/libcuda.so.1"), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestNoLibrary(t *testing.T) {
	if !inChild(t, LibraryEnv+"=/nonexistent/libcuda.so.1") {
		return
	}
	err := Init()
	if err == nil || !strings.Contains(err.Error(), "/nonexistent") || !strings.Contains(err.Error(), LibraryEnv) {
		t.Errorf("%v; want an error that names the file and what to do", err)
	}
	if s := IllegalAddress.Error(); s != "CUresult(700) (700)" {
		t.Errorf("without a driver: %q", s)
	}
}

const kernelText = `.version 8.0
.target sm_80
.address_size 64
.visible .global .u32 counter = 40;
.visible .entry add(.param .u64 p, .param .u32 n) {
	.reg .u64 %rd<3>; .reg .u32 %r<4>;
	ld.param.u64 %rd1, [p];
	ld.param.u32 %r1, [n];
	ld.global.u32 %r2, [%rd1];
	add.u32 %r3, %r2, %r1;
	st.global.u32 [%rd1], %r3;
	ret;
}` + "\x00"

// Every call of the binding once, against a libcuda.so.1.
func TestBinding(t *testing.T) {
	if !inChild(t) {
		return
	}
	runtime.LockOSThread()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok := func(r Result) { t.Helper(); must(r.Err()) }
	must(Init())
	must(Init())
	if v, err := DriverVersion(); err != nil || v < 12000 {
		t.Errorf("driver version %d, %v", v, err)
	}
	all, err := Devices()
	must(err)
	if _, err := Open(UUID{1}); err == nil || !strings.Contains(err.Error(), all[0].UUID.String()) {
		t.Errorf("a UUID that nobody has: %v", err)
	}
	d, err := Open(all[0].UUID)
	must(err)
	if d.Major < 7 || d.Bytes == 0 || d.Name == "" || d.SharedOptin < 48<<10 || d.GreatestPriority > d.LeastPriority {
		t.Errorf("%+v", d)
	}
	s, err := d.StreamCreate(d.GreatestPriority)
	must(err)

	g, r := d.Granularity()
	ok(r)
	const at = uint64(0x4000_0000_0000) // clear of what the race detector maps
	_, err = d.Reserve(at, 4*g)
	must(err)
	if _, err := d.Reserve(at, 4*g); err == nil {
		t.Error("an address that is taken was reserved again")
	}
	h, r := d.Create(g)
	ok(r)
	fd, r := d.Export(h)
	ok(r)
	h2, r := d.Import(fd)
	ok(r)
	must(unix.Close(fd))
	ok(d.Map(at, g, h))
	ok(d.Map(at+g, g, h2))
	ok(d.Release(h))
	ok(d.Release(h2))

	host, r := d.HostAlloc(8192)
	ok(r)
	words := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), host)), 8192)
	ok(d.Memset(s, at, 0, 1024, 1, 4, 5))
	ok(d.Memset(s, at+8192, 64, 8, 4, 2, 0x0102))
	ok(d.Memset(s, at+16384, 0, 100, 1, 1, 7))
	if r := d.Memset(s, at, 0, 1, 1, 3, 0); r != InvalidValue {
		t.Errorf("element of 3 bytes: %v", r)
	}
	ok(d.Copy(s, at+4096, at, 64))
	copy(words[4096:], "hello")
	ok(d.CopyToDevice(s, at+4100, host+4096, 5))
	ok(d.Copy3D(s, &Copy3D{at + 20480, 32, 8, 0, 0, 0, at + 8192, 64, 8, 0, 1, 0, 16, 2, 1}))

	linked, err := d.LinkPTX([]byte(strings.TrimSuffix(kernelText, "\x00")), ArchitectureTarget(80, 0))
	must(err)
	lm, err := d.ModuleLoad(linked)
	must(err)
	_, err = d.ModuleFunction(lm, "add")
	must(err)
	ok(d.ModuleUnload(lm))
	if _, err := d.LinkPTX([]byte(".version 8.0\n.target sm_80\n.address_size 64\nnonsense"), DeviceTarget); err == nil || !strings.Contains(err.Error(), "nonsense") && !strings.Contains(err.Error(), "line") {
		t.Errorf("PTX that cannot be compiled: %v; want the log", err)
	}
	if _, err := d.LinkPTX(nil, DeviceTarget); !errors.Is(err, InvalidValue) {
		t.Errorf("no PTX: %v", err)
	}
	m, err := d.ModuleLoad([]byte(kernelText))
	must(err)
	if _, err := d.ModuleLoad([]byte(".version 8.0\n.target sm_80\n.address_size 64\nnonsense\x00")); err == nil || !strings.Contains(err.Error(), "nonsense") && !strings.Contains(err.Error(), "line") {
		t.Errorf("PTX that cannot be assembled: %v; want the log", err)
	}
	f, err := d.ModuleFunction(m, "add")
	must(err)
	if _, err := d.ModuleFunction(m, "absent"); !errors.Is(err, Result(500)) {
		t.Errorf("a kernel that is not there: %v", err)
	}
	if n, known := d.FuncParamBytes(f); !known || n != 12 {
		t.Errorf("parameters have %d bytes, known %v; want 12", n, known)
	}
	if n, r := d.FuncAttribute(f, FuncMaxDynamicShared); r != Success || n < 0 {
		t.Errorf("attribute: %d, %v", n, r)
	}
	ok(d.SetFuncAttribute(f, FuncMaxDynamicShared, 64<<10))
	where, n, err := d.ModuleGlobal(m, "counter")
	must(err)
	if n != 4 {
		t.Errorf("the global has %d bytes", n)
	}
	params := words[6000:6012]
	binary.LittleEndian.PutUint64(params, where)
	binary.LittleEndian.PutUint32(params[8:], 2)
	l := &Launch{Function: f, Stream: s, Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{1, 1, 1}, Params: host + 6000, ParamBytes: 12}
	ok(d.Launch(l))
	l.Flags, l.Cluster = 1, [3]uint32{1, 1, 1}
	ok(d.Launch(l))

	graphs(t, d, s, f, where, at, host)

	start, r := d.EventCreate(true)
	ok(r)
	end, r := d.EventCreate(true)
	ok(r)
	ok(d.EventRecord(start, s))
	ok(d.CopyToHost(s, host, where, 4))
	ok(d.CopyToHost(s, host+8, at+4096, 16))
	ok(d.CopyToHost(s, host+64, at+20480, 64))
	ok(d.WriteValue32(s, host+256, 77))
	ok(d.EventRecord(end, s))
	other, err := d.StreamCreate(0)
	must(err)
	ok(d.StreamWaitEvent(other, end))
	ok(d.StreamSynchronize(other))
	for d.StreamQuery(s) == NotReady || d.EventQuery(end) == NotReady {
		time.Sleep(time.Millisecond)
	}
	if ms, r := d.EventElapsed(start, end); r != Success || ms < 0 {
		t.Errorf("elapsed: %v ms, %v", ms, r)
	}
	if v := binary.LittleEndian.Uint32(words); v != 44 {
		t.Errorf("the global holds %d; want 44", v)
	}
	if string(words[12:17]) != "hello" || words[8] != 5 {
		t.Errorf("copies: % x", words[8:24])
	}
	if words[64] != 2 || words[96] != 2 || words[65] != 1 || words[64+16] != 0 {
		t.Errorf("pitched: % x", words[64:128])
	}
	if v := binary.LittleEndian.Uint32(words[256:]); v != 77 {
		t.Errorf("written value %d", v)
	}
	fdm, err := unix.MemfdCreate("host", 0)
	must(err)
	must(unix.Ftruncate(fdm, 8192))
	b, err := unix.Mmap(fdm, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	address := uint64(uintptr(unsafe.Pointer(&b[0])))
	seen, r := d.HostRegister(address, 8192)
	ok(r)
	ok(d.WriteValue32(s, seen+4, 99))
	ok(d.StreamSynchronize(s))
	if b[4] != 99 {
		t.Error("a registered word was not written")
	}
	ok(d.HostUnregister(address))

	if v, r := d.GetLimit(0); r != Success || v == 0 {
		t.Errorf("stack limit %d, %v", v, r)
	}
	ok(d.SetLimit(0, 4096))
	ok(d.Synchronize())
	ok(d.EventDestroy(start))
	ok(d.EventDestroy(end))
	ok(d.StreamDestroy(other))
	ok(d.StreamDestroy(s))
	ok(d.ModuleUnload(m))
	ok(d.Unmap(at, g))
	ok(d.Unmap(at+g, g))
	ok(d.Unreserve(at, 4*g))
	ok(d.HostFree(host))
	must(d.Close())
	if text := IllegalAddress.Error(); !strings.HasPrefix(text, "CUDA_ERROR_ILLEGAL_ADDRESS (700)") {
		t.Errorf("%q", text)
	}
}

// graphs builds one graph of every kind of node: kernels that add to the word at global, between memory at at and pinned memory at
// host; and changes it. The word holds what it held before.
func graphs(t *testing.T, d *Device, s Stream, f Function, global, at, host uint64) {
	t.Helper()
	ok := func(r Result) {
		t.Helper()
		if r != Success {
			t.Fatal(r)
		}
	}
	words := unsafe.Slice((*uint32)(unsafe.Add(unsafe.Pointer(nil), host)), 2048)
	params := make([]byte, 12) // Go memory: adding a node copies it
	var pin runtime.Pinner
	pin.Pin(&params[0])
	defer pin.Unpin()
	add := func(by int32) *Launch {
		binary.LittleEndian.PutUint64(params, global)
		binary.LittleEndian.PutUint32(params[8:], uint32(by))
		return &Launch{Function: f, Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{1, 1, 1}, Params: uint64(uintptr(unsafe.Pointer(&params[0]))), ParamBytes: 12}
	}
	g, r := d.GraphCreate()
	ok(r)
	a, r := d.GraphKernel(g, nil, add(10))
	ok(r)
	cooperative := add(100)
	cooperative.Flags, cooperative.Cluster, cooperative.ClusterPolicy = 3, [3]uint32{1, 1, 1}, 1
	b, r := d.GraphKernel(g, []GraphNode{a}, cooperative)
	ok(r)
	c, r := d.GraphCopy(g, []GraphNode{b}, host, global, 4)
	ok(r)
	m, r := d.GraphMemset(g, nil, at+32768, 0, 16, 1, 4, 9)
	ok(r)
	pitched, r := d.GraphMemset(g, []GraphNode{m}, at+32768, 16, 2, 2, 2, 7)
	ok(r)
	e, r := d.GraphEmpty(g, []GraphNode{pitched, c})
	ok(r)
	_, r = d.GraphCopy3D(g, []GraphNode{e}, &Copy3D{host + 64, 16, 4, 0, 0, 0, at + 32768, 16, 4, 0, 0, 0, 16, 4, 1})
	ok(r)
	nothing, r := d.GraphMemset(g, nil, at, 0, 0, 1, 4, 1)
	ok(r)
	if _, r = d.GraphCopy(g, []GraphNode{nothing}, at, host, 0); r != Success {
		t.Errorf("a copy of nothing: %v", r)
	}
	if _, r := d.GraphEmpty(g, []GraphNode{1 << 40}); r == Success {
		t.Error("a node that does not exist was taken for a predecessor")
	}
	x, r := d.GraphInstantiate(g)
	ok(r)
	ok(d.GraphUpload(x, s))
	ok(d.GraphLaunch(x, s))
	ok(d.GraphLaunch(x, s))
	ok(d.StreamSynchronize(s))
	first := words[0]
	if words[16] != 0x00070007 || words[17] != 9 || words[20] != 0x00070007 || words[24] != 9 {
		t.Errorf("memsets and pitched copy: %x", words[16:32])
	}
	ok(d.GraphSetKernel(x, a, add(-110)))
	ok(d.GraphSetEnabled(x, b, false))
	ok(d.GraphLaunch(x, s))
	ok(d.GraphLaunch(x, s))
	ok(d.StreamSynchronize(s))
	if words[0] != first-220 {
		t.Errorf("after a change of one node, with another disabled: %d; want %d", words[0], first-220)
	}
	ok(d.GraphDestroy(g))
	ok(d.GraphLaunch(x, s))
	ok(d.GraphExecDestroy(x))
	ok(d.StreamSynchronize(s))
	ok(d.Launch(&Launch{Function: f, Stream: s, Grid: [3]uint32{1, 1, 1}, Block: [3]uint32{1, 1, 1}, Params: add(110).Params, ParamBytes: 12}))
	ok(d.StreamSynchronize(s))
}
