// Package inventory tells what GPUs a machine has and what state they are in,
// through NVML. A machine without NVML (no GPU, or the software GPU) has an
// empty inventory; that is not an error.
package inventory

import (
	"fmt"
	"strings"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Device is one GPU as NVML sees it.
type Device struct {
	Index       int    `json:"index"`
	UUID        string `json:"uuid"` // "GPU-…"
	Name        string `json:"name"`
	MemoryBytes uint64 `json:"memory_bytes"`
	MIG         bool   `json:"mig"`          // MIG mode is on: kernels need a MIG instance, Heddle does not serve those
	ComputeMode string `json:"compute_mode"` // default, exclusive-process, exclusive-thread or prohibited
	PCIBusID    string `json:"pci_bus_id"`
	Processes   []int  `json:"processes"` // pids with a compute context
}

// Inventory is a snapshot.
type Inventory struct {
	Driver      string   `json:"driver,omitempty"` // "580.159.03"
	CUDAVersion string   `json:"cuda,omitempty"`   // highest version the driver serves, "13.0"
	Devices     []Device `json:"devices"`
	Unavailable string   `json:"unavailable,omitempty"` // why NVML could not be asked; "" when it could
}

// once guards nvml.Init: NVML stays initialised for the life of the process.
var once = sync.OnceValue(nvml.Init)

// Read takes a snapshot.
func Read() Inventory {
	if ret := once(); ret != nvml.SUCCESS {
		return Inventory{Unavailable: unavailable(ret)}
	}
	return read(library{})
}

// api is the part of NVML that a snapshot needs; tests give their own.
type api interface {
	SystemGetDriverVersion() (string, nvml.Return)
	SystemGetCudaDriverVersion() (int, nvml.Return)
	DeviceGetCount() (int, nvml.Return)
	DeviceGetHandleByIndex(int) (nvml.Device, nvml.Return)
}

type library struct{}

func (library) SystemGetDriverVersion() (string, nvml.Return) { return nvml.SystemGetDriverVersion() }
func (library) SystemGetCudaDriverVersion() (int, nvml.Return) {
	return nvml.SystemGetCudaDriverVersion()
}
func (library) DeviceGetCount() (int, nvml.Return) { return nvml.DeviceGetCount() }
func (library) DeviceGetHandleByIndex(i int) (nvml.Device, nvml.Return) {
	return nvml.DeviceGetHandleByIndex(i)
}

func read(lib api) Inventory {
	var inv Inventory
	inv.Driver, _ = lib.SystemGetDriverVersion()
	if v, ret := lib.SystemGetCudaDriverVersion(); ret == nvml.SUCCESS {
		inv.CUDAVersion = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
	}
	n, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		inv.Unavailable = unavailable(ret)
		return inv
	}
	for i := range n {
		dev, ret := lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			// A GPU that fell off the bus must not hide the others.
			inv.Devices = append(inv.Devices, Device{Index: i, Name: "unreadable: " + nvml.ErrorString(ret)})
			continue
		}
		inv.Devices = append(inv.Devices, describe(i, dev))
	}
	return inv
}

func describe(i int, dev nvml.Device) Device {
	d := Device{Index: i, ComputeMode: "unknown"}
	d.UUID, _ = dev.GetUUID()
	d.Name, _ = dev.GetName()
	if m, ret := dev.GetMemoryInfo(); ret == nvml.SUCCESS {
		d.MemoryBytes = m.Total
	}
	if current, _, ret := dev.GetMigMode(); ret == nvml.SUCCESS {
		d.MIG = current == nvml.DEVICE_MIG_ENABLE
	}
	if mode, ret := dev.GetComputeMode(); ret == nvml.SUCCESS {
		d.ComputeMode = modeName(mode)
	}
	if p, ret := dev.GetPciInfo(); ret == nvml.SUCCESS {
		var b strings.Builder
		for _, c := range p.BusId {
			if c == 0 {
				break
			}
			b.WriteByte(byte(c))
		}
		d.PCIBusID = b.String()
	}
	if ps, ret := dev.GetComputeRunningProcesses(); ret == nvml.SUCCESS {
		for _, p := range ps {
			d.Processes = append(d.Processes, int(p.Pid))
		}
	}
	return d
}

func modeName(m nvml.ComputeMode) string {
	switch m {
	case nvml.COMPUTEMODE_DEFAULT:
		return "default"
	case nvml.COMPUTEMODE_EXCLUSIVE_THREAD:
		return "exclusive-thread"
	case nvml.COMPUTEMODE_PROHIBITED:
		return "prohibited"
	case nvml.COMPUTEMODE_EXCLUSIVE_PROCESS:
		return "exclusive-process"
	}
	return "unknown"
}

func unavailable(ret nvml.Return) string {
	switch ret {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return "libnvidia-ml.so.1 not found: no NVIDIA driver is installed here"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return "the NVIDIA kernel driver is not loaded: modprobe nvidia"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return "the NVIDIA driver was updated without a reboot: reboot, or reload the nvidia modules"
	case nvml.ERROR_NO_PERMISSION:
		return "no permission to open the GPU: check /dev/nvidia* and your groups"
	}
	return "NVML: " + nvml.ErrorString(ret)
}

// FormatUUID writes a CUuuid the way NVML and nvidia-smi do.
func FormatUUID(b [16]byte) string {
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// Serves says why Heddle cannot serve the GPU with this UUID, or nil. A GPU that
// NVML does not list is let through: the driver itself will judge it.
func (inv Inventory) Serves(uuid string) error {
	for _, d := range inv.Devices {
		if d.UUID != uuid {
			continue
		}
		if d.MIG {
			return fmt.Errorf("GPU %d (%s) is in MIG mode, which Heddle does not serve: turn it off with `nvidia-smi -i %d -mig 0`, or run without Heddle", d.Index, d.UUID, d.Index)
		}
		switch d.ComputeMode {
		case "exclusive-process", "exclusive-thread", "prohibited":
			return fmt.Errorf("GPU %d (%s) is in compute mode %s, but client and executor both need a context: `nvidia-smi -i %d -c DEFAULT`", d.Index, d.UUID, d.ComputeMode, d.Index)
		}
	}
	return nil
}
