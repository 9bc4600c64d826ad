package inventory

import (
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
)

// broken is a DGX A100 (go-nvml's own mock server) on which one GPU fell off the bus.
type broken struct{ *dgxa100.Server }

func (broken) SystemGetDriverVersion() (string, nvml.Return)  { return "580.1", nvml.SUCCESS }
func (broken) SystemGetCudaDriverVersion() (int, nvml.Return) { return 13000, nvml.SUCCESS }

func (b broken) DeviceGetHandleByIndex(i int) (nvml.Device, nvml.Return) {
	if i == 3 {
		return nil, nvml.ERROR_GPU_IS_LOST
	}
	dev, ret := b.Server.DeviceGetHandleByIndex(i)
	return device{dev.(*dgxa100.Device)}, ret
}

// device answers what go-nvml's mock leaves out.
type device struct{ *dgxa100.Device }

func (device) GetComputeMode() (nvml.ComputeMode, nvml.Return) {
	return nvml.COMPUTEMODE_EXCLUSIVE_PROCESS, nvml.SUCCESS
}

func (device) GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return []nvml.ProcessInfo{{Pid: 42}}, nvml.SUCCESS
}

func TestOneLostGPUDoesNotHideTheOthers(t *testing.T) {
	inv := read(broken{dgxa100.New()})
	if len(inv.Devices) != 8 {
		t.Fatalf("%d devices, want 8", len(inv.Devices))
	}
	for i, d := range inv.Devices {
		if i == 3 {
			if !strings.HasPrefix(d.Name, "unreadable") {
				t.Errorf("device 3: %q", d.Name)
			}
			continue
		}
		if !strings.HasPrefix(d.UUID, "GPU-") || d.MemoryBytes == 0 || d.ComputeMode != "exclusive-process" || len(d.Processes) != 1 || d.Processes[0] != 42 {
			t.Errorf("device %d: %+v", i, d)
		}
	}
	if inv.Driver != "580.1" || inv.CUDAVersion != "13.0" {
		t.Errorf("driver %q cuda %q", inv.Driver, inv.CUDAVersion)
	}
}

func TestServesNamesTheMendingCommand(t *testing.T) {
	inv := Inventory{Devices: []Device{
		{Index: 0, UUID: "GPU-a", ComputeMode: "default"},
		{Index: 1, UUID: "GPU-b", ComputeMode: "exclusive-process"},
		{Index: 2, UUID: "GPU-c", ComputeMode: "default", MIG: true},
	}}
	if err := inv.Serves("GPU-a"); err != nil {
		t.Error(err)
	}
	if err := inv.Serves("GPU-unknown"); err != nil {
		t.Error("a GPU that NVML does not know must be left to the driver:", err)
	}
	if err := inv.Serves("GPU-b"); err == nil || !strings.Contains(err.Error(), "nvidia-smi -i 1 -c DEFAULT") {
		t.Error(err)
	}
	if err := inv.Serves("GPU-c"); err == nil || !strings.Contains(err.Error(), "nvidia-smi -i 2 -mig 0") {
		t.Error(err)
	}
}

func TestFormatUUID(t *testing.T) {
	var b [16]byte
	for i := range b {
		b[i] = byte(i * 0x11)
	}
	if got := FormatUUID(b); got != "GPU-00112233-4455-6677-8899-aabbccddeeff" {
		t.Fatal(got)
	}
}
