package harvest

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"time"
)

// Triton keeps what it compiles in folders named by a hash of its own: CACHE/HASH/NAME.cubin, and beside it NAME.ptx, from which
// its ptxas made the cubin, and NAME.json, which says how (triton/compiler/compiler.py: every file goes to the folder by a rename,
// the kernel's metadata last). torch.compile has such a cache for each device: CACHE/triton/DEVICE.
//
// The name of a folder says nothing about the machine code, so folders are indexed by the sizes of their cubins, and a cubin of
// the right size is compared byte by byte.

const (
	// maxCubins bounds the cubins of one folder of the cache that are looked at; Triton puts one there.
	maxCubins = 64
	// maxDevices bounds the caches below one of torch.compile's.
	maxDevices = 64
	// maxCaches bounds the caches that are remembered.
	maxCaches = 64
	maxJSON   = 1 << 20
	// settled is how old a folder's time must be before it tells of later changes: file systems count time in ticks.
	settled = 2 * time.Second
)

// tritonIndex remembers one cache folder.
type tritonIndex struct {
	folders map[string]*tritonFolder
}

// tritonFolder is one folder of a cache: its cubins, as they were when it had that time of change.
type tritonFolder struct {
	changed time.Time
	sure    bool // changed was old when it was read
	cubins  []tritonCubin
}

type tritonCubin struct {
	name string // without .cubin
	size int64
}

func (f *Finder) fromTriton(m *machineCode, _ string, p Places) (candidate, *Missing) {
	var first *Missing
	for _, path := range slices.Concat(p.Triton, devices(p.Inductor)) {
		c, why := f.inCache(m, path)
		if why == nil && c.text != nil {
			return c, nil
		}
		if first == nil {
			first = why
		}
	}
	return candidate{}, first
}

// devices lists Triton's caches below torch.compile's. One that cannot be read has none.
func devices(inductor []string) []string {
	var out []string
	for _, path := range inductor {
		d, err := open(path)
		if err != nil {
			continue
		}
		if all, err := d.list("triton"); err == nil {
			for _, e := range all[:min(len(all), maxDevices)] {
				out = append(out, path+"/triton/"+e.Name())
			}
		}
		d.close()
	}
	return out
}

// inCache looks for the machine code in one cache: in what is remembered of it, then in what is new.
func (f *Finder) inCache(m *machineCode, path string) (candidate, *Missing) {
	d, err := open(path)
	if err != nil {
		return candidate{}, reading(err)
	}
	defer d.close()
	ix := f.triton[path]
	if ix != nil {
		if c, why := ix.find(d, m); why != nil || c.text != nil {
			return c, why
		}
	} else {
		ix = &tritonIndex{folders: map[string]*tritonFolder{}}
		if f.triton == nil || len(f.triton) == maxCaches {
			f.triton = map[string]*tritonIndex{} // clients come and go: what is needed is read again
		}
		f.triton[path] = ix
	}
	if err := ix.refresh(d); err != nil {
		return candidate{}, reading(err)
	}
	return ix.find(d, m)
}

// refresh reads the folders that are new or have changed.
func (ix *tritonIndex) refresh(d folder) error {
	all, err := d.list(".")
	if err != nil {
		return err
	}
	seen := make(map[string]*tritonFolder, len(all))
	for _, e := range all {
		if !e.IsDir() {
			continue
		}
		st, err := d.root.Lstat(e.Name())
		if err != nil || !st.IsDir() {
			continue
		}
		old := ix.folders[e.Name()]
		if old != nil && old.sure && old.changed.Equal(st.ModTime()) {
			seen[e.Name()] = old
			continue
		}
		now := &tritonFolder{changed: st.ModTime(), sure: time.Since(st.ModTime()) > settled}
		now.cubins = cubins(d, e.Name())
		seen[e.Name()] = now
	}
	ix.folders = seen
	return nil
}

// cubins lists the cubins of one folder of a cache.
func cubins(d folder, name string) []tritonCubin {
	files, err := d.list(name)
	if err != nil {
		return nil // gone, or not ours to read: it has nothing for us
	}
	var out []tritonCubin
	for _, e := range files {
		base, ok := strings.CutSuffix(e.Name(), ".cubin")
		if !ok || len(out) == maxCubins {
			continue
		}
		if st, err := d.root.Lstat(name + "/" + e.Name()); err == nil && st.Mode().IsRegular() {
			out = append(out, tritonCubin{base, st.Size()})
		}
	}
	return out
}

// find compares the cubins whose size fits. Folders with the same machine code may hold different text; any of them made it.
func (ix *tritonIndex) find(d folder, m *machineCode) (candidate, *Missing) {
	var fit []string
	want := int64(len(m.cubin))
	for name, f := range ix.folders {
		for _, c := range f.cubins {
			if c.size == want {
				fit = append(fit, name+"/"+c.name)
			}
		}
	}
	slices.Sort(fit)
	var first *Missing
	for _, base := range fit {
		b, err := d.read(base+".cubin", want)
		if err != nil || !bytes.Equal(b, m.cubin) {
			continue
		}
		c, why := beside(d, base)
		if why == nil {
			return c, nil
		}
		if first == nil {
			first = why
		}
	}
	return candidate{}, first
}

// beside reads the text beside a cubin of the cache.
func beside(d folder, base string) (candidate, *Missing) {
	text, err := d.read(base+".ptx", MaxPTX)
	if errors.Is(err, os.ErrNotExist) {
		return candidate{}, missing(NoPTX, "%s.cubin is the machine code, but no .ptx lies beside it", d.full(base))
	}
	if err != nil {
		return candidate{}, reading(err)
	}
	contraction, err := contracts(d, base+".json")
	if err != nil {
		var m *Missing
		if errors.As(err, &m) {
			return candidate{}, m
		}
		return candidate{}, missing(Unreadable, "%s.json does not say how the machine code was made: %v", d.full(base), err)
	}
	if text = trimText(text); text == nil {
		text = []byte{}
	}
	return candidate{text, FromTriton, d.full(base + ".ptx"), !contraction}, nil
}

// contracts tells from a kernel's metadata whether ptxas could contract multiplications and additions: Triton gives it
// --fmad=false when the option enable_fp_fusion is off, and passes ptx_options on (backends/nvidia/compiler.py). Versions without
// these options let it.
func contracts(d folder, name string) (bool, error) {
	b, err := d.read(name, maxJSON)
	if err != nil {
		return false, err
	}
	var meta struct {
		Fusion  *bool   `json:"enable_fp_fusion"`
		Options *string `json:"ptx_options"`
	}
	if err := json.Unmarshal(b, &meta); err != nil {
		return false, err
	}
	if meta.Options != nil && strings.Contains(*meta.Options, "fmad") {
		return false, errors.New("ptx_options names fmad, which is Triton's to set")
	}
	return meta.Fusion == nil || *meta.Fusion, nil
}
