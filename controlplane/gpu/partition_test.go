package gpu

import (
	"encoding/binary"
	"runtime"
	"testing"
	"unsafe"
)

const whereText = `.version 8.0
.target sm_80
.address_size 64
.visible .entry where(.param .u64 seen) {
	.reg .u64 %rd<4>; .reg .u32 %r<2>;
	ld.param.u64 %rd1, [seen];
	mov.u32 %r1, %smid;
	mul.wide.u32 %rd2, %r1, 4;
	add.s64 %rd3, %rd1, %rd2;
	st.global.u32 [%rd3], 1;
	ret;
}` + "\x00"

// A function of the primary context runs on a partition's SMs when it is launched on a stream of it, and a partition is a multiple of
// what the chip says.
func TestPartition(t *testing.T) {
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
	must(Init())
	all, err := Devices()
	must(err)
	d, err := Open(all[0].UUID)
	must(err)
	sms, unit, err := d.PartitionUnit()
	must(err)
	if sms != 132 || unit != 8 {
		t.Errorf("%d SMs in units of %d", sms, unit)
	}
	p, err := d.NewPartition(33)
	must(err)
	if p.SMs != 40 {
		t.Errorf("a partition of %d SMs, of 33 asked for", p.SMs)
	}
	if _, err := d.NewPartition(133); err == nil {
		t.Error("a partition of more SMs than there are")
	}
	if _, err := d.PartitionStream(Partition{}, 0); err == nil {
		t.Error("a stream of no partition")
	}
	on, err := d.PartitionStream(p, d.LeastPriority)
	must(err)
	plain, err := d.StreamCreate(d.LeastPriority)
	must(err)
	m, err := d.ModuleLoad([]byte(whereText))
	must(err)
	f, err := d.ModuleFunction(m, "where")
	must(err)
	seen, err := d.Zeroed(132 * 4)
	must(err)
	for _, c := range []struct {
		on   Stream
		want int
	}{{on, 40}, {plain, 132}} {
		var params [8]byte
		binary.LittleEndian.PutUint64(params[:], seen)
		host, r := d.HostAlloc(4096)
		must(r.Err())
		copy(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), host)), 4096), params[:])
		must(d.Launch(&Launch{Function: f, Stream: c.on, Grid: [3]uint32{500, 1, 1}, Block: [3]uint32{32, 1, 1}, Params: host, ParamBytes: 8}).Err())
		must(d.CopyToHost(c.on, host, seen, 132*4).Err())
		must(d.Memset(c.on, seen, 0, 132, 1, 4, 0).Err())
		must(d.StreamSynchronize(c.on).Err())
		n := 0
		for _, w := range unsafe.Slice((*uint32)(unsafe.Add(unsafe.Pointer(nil), host)), 132) {
			n += int(w)
		}
		if n != c.want {
			t.Errorf("ran on %d SMs, want %d", n, c.want)
		}
	}
}
