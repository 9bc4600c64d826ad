package daemon

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestMetricsFollowPrometheusRules(t *testing.T) {
	h := start(t)
	c := h.dial()
	c.image(t, "code")
	body, err := h.conn.Metrics(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`heddle_build_info{version="test"} 1`, "heddle_clients{", "heddle_executor_up{", "heddle_executor_starts_total{", "heddle_image_store_bytes{"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in:\n%s", want, body)
		}
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
