package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
)

// TestMetrics: what metrics, status and `heddle top` say of real clients agrees, and adds up to what the clients did.
func TestMetrics(t *testing.T) {
	b := newBed(t)
	b.startDaemon(gather)
	const clients = 4
	native := b.nativeAlike(clients, "E2E_ROUNDS=6")
	b.formed(native, alike(clients, "E2E_ROUNDS=6"))
	during := 0
	b.inStep(native, alike(clients, "E2E_ROUNDS=6"), func() {
		out, err := b.heddle("top", "--once", "--interval", "100ms").Output()
		if err != nil || !strings.Contains(string(out), "OPS/S") || strings.Contains(string(out), "\x1b") {
			t.Errorf("heddle top: %v\n%s", err, out)
		}
		var r struct {
			Executors []struct{ State string }
			Clients   []struct{ Class string }
		}
		if out, err = b.heddle("top", "--once", "--interval", "100ms", "--json").Output(); err != nil || json.Unmarshal(out, &r) != nil || len(r.Executors) != 1 {
			t.Errorf("heddle top --json: %v\n%s", err, out)
		}
		during = len(r.Clients)
	})
	if during == 0 {
		t.Error("heddle top saw no client")
	}
	// All is done: the executor stays a while, and what it counted.
	conn := admin.DialDir(b.dir)
	st, err := conn.Status(context.Background())
	if err != nil || len(st.Executors) != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	var x executor.Stats
	if err := json.Unmarshal(st.Executors[0].Counters, &x); err != nil {
		t.Fatal(err)
	}
	text, err := conn.Metrics(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string, labels ...string) float64 {
		sum, found := 0.0, false
	lines:
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, name+"{") {
				continue
			}
			for _, l := range labels {
				if !strings.Contains(line, l) {
					continue lines
				}
			}
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
				t.Fatal(err)
			}
			sum, found = sum+v, true
		}
		if !found {
			t.Errorf("no %s%v in the metrics", name, labels)
		}
		return sum
	}
	kernels := value("heddle_kernel_ops_total")
	if kernels == 0 || kernels != float64(x.Launches) || value("heddle_word_width_sum") != kernels || value("heddle_ops_total") != float64(x.Ops) {
		t.Errorf("%v kernels, %v in words of them; the executor says %d kernels, %d ops", kernels, value("heddle_word_width_sum"), x.Launches, x.Ops)
	}
	joined := value("heddle_coalesced_ops_total")
	if joined == 0 || joined > kernels || value("heddle_word_width_bucket", `le="1"`) != kernels-joined {
		t.Errorf("%v of %v kernels shared a launch, %v did not", joined, kernels, value("heddle_word_width_bucket", `le="1"`))
	}
	if n := value("heddle_class_ops_total", `class="default"`); n == 0 || n != value("heddle_op_queue_seconds_count", `class="default"`) {
		t.Errorf("%v ops of the class, %v of them have a time of queueing", n, value("heddle_op_queue_seconds_count", `class="default"`))
	}
	requests := value("heddle_requests_total", `class="default"`)
	if requests == 0 || value("heddle_request_latency_seconds_count", `class="default"`) != requests || value("heddle_requests_attained_total", `class="default"`) != requests {
		t.Errorf("%v requests without an objective: %v have a latency, %v attained it", requests, value("heddle_request_latency_seconds_count", `class="default"`), value("heddle_requests_attained_total", `class="default"`))
	}
	if v := value("heddle_gpu_seconds_total", `class="default"`); v <= 0 || math.IsNaN(v) {
		t.Errorf("%v s of the GPU", v)
	}
	if value("heddle_forms") == 0 || value("heddle_executor_starts_total") != 1 || value("heddle_executor_answers") != 1 {
		t.Errorf("forms, starts or answers:\n%s", text)
	}
}
