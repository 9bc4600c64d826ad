package daemon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"strconv"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/shm"
)

// kernelHandlers serves `heddle kernels`.
func (d *Daemon) kernelHandlers(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/kernels", func(w http.ResponseWriter, r *http.Request) {
		var client uint64
		if text := r.URL.Query().Get("client"); text != "" {
			var err error
			if client, err = strconv.ParseUint(text, 10, 64); err != nil || client == 0 {
				http.Error(w, fmt.Sprintf("client %q: expected the number of a client, as heddle ps shows it", text), http.StatusBadRequest)
				return
			}
		}
		all, err := d.kernels(client)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(all); err != nil {
			d.log.Debug("kernels", "error", err)
		}
	})
}

// kernels asks every executor, or the one that serves a client.
func (d *Daemon) kernels(client uint64) ([]admin.Kernels, error) {
	d.mu.Lock()
	slots := make([]*slot, 0, len(d.slots))
	for _, sl := range d.slots {
		slots = append(slots, sl)
	}
	d.mu.Unlock()
	all := []admin.Kernels{}
	for _, sl := range slots {
		if client != 0 && !sl.serves(client) {
			continue
		}
		rows, err := sl.kernels(client)
		if err != nil {
			if client != 0 {
				return nil, fmt.Errorf("client %d: %w", client, err)
			}
			d.log.Debug("kernels", "gpu", sl.gpu(), "error", err) // it has none to tell of; the others may
		}
		all = append(all, admin.Kernels{GPU: sl.gpu(), UID: int(sl.key.uid), Kernels: rows})
	}
	if client != 0 && len(all) == 0 {
		return nil, fmt.Errorf("no client has the number %d; see: heddle ps", client)
	}
	sort.Slice(all, func(i, j int) bool {
		return all[i].GPU < all[j].GPU || all[i].GPU == all[j].GPU && all[i].UID < all[j].UID
	})
	return all, nil
}

// serves tells whether a client is here.
func (sl *slot) serves(client uint64) bool {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	return sl.sessions[client] != nil
}

// maxKernelRows bounds what one executor may tell of kernels.
const maxKernelRows = 1 << 16

// kernels asks the executor that is there now, a page at a time.
func (sl *slot) kernels(client uint64) ([]json.RawMessage, error) {
	sl.mu.Lock()
	p := sl.process
	sl.mu.Unlock()
	rows := []json.RawMessage{}
	if p == nil {
		return rows, errExecutorLost
	}
	for from := uint32(0); ; {
		reply, err := p.call(client, shm.TypeCodes, shm.Encode(shm.Codes{From: from}), nil)
		if err != nil {
			return rows, err
		}
		body, err := shm.Decode[shm.Codes](reply.Body)
		if err != nil {
			return rows, err
		}
		var page []json.RawMessage
		if err := json.Unmarshal(reply.Tail, &page); err != nil {
			return rows, fmt.Errorf("the executor's list of kernels: %w", err)
		}
		rows = append(rows, page...)
		if body.From <= from || len(rows) >= maxKernelRows { // the end, or an executor that does not get on
			return rows, nil
		}
		from = body.From
	}
}
