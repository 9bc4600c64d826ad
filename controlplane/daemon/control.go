package daemon

import (
	"encoding/json"
	"net/http"
	"time"
)

// statusPatience bounds `heddle ps`: an executor that hangs is shown without its counters.
const statusPatience = 10 * time.Second

// handler serves the control socket; only the daemon's own user (and root) can
// open it.
func (d *Daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(d.status(statusPatience)); err != nil {
			d.log.Debug("status", "error", err)
		}
	})
	mux.HandleFunc("POST /v1/drain", func(w http.ResponseWriter, _ *http.Request) {
		d.draining.Store(true)
		w.WriteHeader(http.StatusNoContent)
		d.touch()
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		d.cancel()
	})
	d.policyHandlers(mux)
	d.kernelHandlers(mux)
	d.traceHandlers(mux)
	mux.Handle("GET /metrics", d.metricsHandler())
	return mux
}
