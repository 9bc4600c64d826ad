package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// Kernels are the kernels that clients launched through one executor, in the order of their first launch.
type Kernels struct {
	GPU     string            `json:"gpu"` // UUID
	UID     int               `json:"uid"`
	Kernels []json.RawMessage `json:"kernels"` // executor.CodeStats each
}

// Kernels asks for the kernels of every executor; of one client alone when client is not 0.
func (c *Conn) Kernels(ctx context.Context, client uint64) ([]Kernels, error) {
	path := "/v1/kernels"
	if client != 0 {
		path += fmt.Sprintf("?client=%d", client)
	}
	var all []Kernels
	err := c.do(ctx, http.MethodGet, path, &all)
	return all, err
}
