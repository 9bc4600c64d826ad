package daemon

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// collector turns the daemon's status into metrics at each scrape. Labels are
// bounded by GPUs and users, never by clients or kernels; UUID joins with DCGM.
type collector struct {
	d *Daemon

	build, clients, executors, starts, device, images, ops *prometheus.Desc
}

func newCollector(d *Daemon) *collector {
	gpu := []string{"UUID", "uid"}
	return &collector{
		d:         d,
		build:     prometheus.NewDesc("heddle_build_info", "Version of the daemon; always 1.", []string{"version"}, nil),
		clients:   prometheus.NewDesc("heddle_clients", "Sessions: client processes on this GPU.", gpu, nil),
		executors: prometheus.NewDesc("heddle_executor_up", "1 while an executor serves.", gpu, nil),
		starts:    prometheus.NewDesc("heddle_executor_starts_total", "Executors started, the first included.", gpu, nil),
		device:    prometheus.NewDesc("heddle_client_device_memory_bytes", "Device memory of clients that the executor maps.", gpu, nil),
		images:    prometheus.NewDesc("heddle_image_store_bytes", "Code that clients have sent.", gpu, nil),
		ops:       prometheus.NewDesc("heddle_live_client_ops", "Ops done for the clients that are connected now.", gpu, nil),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st := c.d.status()
	ch <- prometheus.MustNewConstMetric(c.build, prometheus.GaugeValue, 1, st.Version)
	type key struct {
		gpu string
		uid int
	}
	memory, ops := map[key]uint64{}, map[key]uint64{}
	for _, cl := range st.Clients {
		memory[key{cl.GPU, cl.UID}] += cl.DeviceBytes
		ops[key{cl.GPU, cl.UID}] += cl.Ops
	}
	for _, e := range st.Executors {
		k := key{e.GPU, e.UID}
		labels := []string{e.GPU, strconv.Itoa(e.UID)}
		up := 0.0
		if e.State == slotLive {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(c.clients, prometheus.GaugeValue, float64(e.Clients), labels...)
		ch <- prometheus.MustNewConstMetric(c.executors, prometheus.GaugeValue, up, labels...)
		ch <- prometheus.MustNewConstMetric(c.starts, prometheus.CounterValue, float64(e.Epoch), labels...)
		ch <- prometheus.MustNewConstMetric(c.device, prometheus.GaugeValue, float64(memory[k]), labels...)
		ch <- prometheus.MustNewConstMetric(c.images, prometheus.GaugeValue, float64(e.ImageMiB<<20), labels...)
		ch <- prometheus.MustNewConstMetric(c.ops, prometheus.GaugeValue, float64(ops[k]), labels...)
	}
}

func (d *Daemon) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(d))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: 4})
}
