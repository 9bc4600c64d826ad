package daemon

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// TestKernelsComeInPages: the daemon asks an executor until it has every kernel, of all clients or of one.
func TestKernelsComeInPages(t *testing.T) {
	h := start(t)
	if all, err := h.conn.Kernels(context.Background(), 0); err != nil || len(all) != 0 {
		t.Errorf("before the first client: %v, %v", all, err)
	}
	c, err := dial(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	id := c.welcome.ClientID
	eventually(t, "an executor serves", func() bool {
		st, err := h.conn.Status(context.Background())
		return err == nil && len(st.Executors) == 1 && st.Executors[0].State == slotLive
	})
	for _, client := range []uint64{0, id} {
		all, err := h.conn.Kernels(context.Background(), client)
		if err != nil || len(all) != 1 || len(all[0].Kernels) != 5 {
			t.Fatalf("client %d: %v, %v", client, all, err)
		}
		for i, row := range all[0].Kernels {
			if want := fmt.Sprintf(`{"id":%d,"client":%d}`, i, client); string(row) != want {
				t.Errorf("row %d: %s, want %s", i, row, want)
			}
		}
	}
	if _, err := h.conn.Kernels(context.Background(), id+1); err == nil || !strings.Contains(err.Error(), "heddle ps") {
		t.Errorf("a client that is not there: %v", err)
	}
}
