package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// TraceOptions say what to record.
type TraceOptions struct {
	Length time.Duration // the executor bounds it (trace.MaxTime)
	Client uint64        // 0: all clients of all executors
	Room   int           // events that an executor keeps until they are read; it bounds that too (trace.MaxEvents)
	Ends   bool          // every op that is issued meanwhile gets a done word of its own
}

// TracePage is a part of one executor's recording. In the stream it is a line of JSON, and Bytes bytes of events behind it.
type TracePage struct {
	GPU string `json:"gpu"` // UUID
	UID int    `json:"uid"`
	Pid int    `json:"pid"`
	// Names is an executor.TraceNames, in the first page only.
	Names json.RawMessage `json:"names,omitempty"`
	// Bytes are those of Events, which are shm.TraceEvent structs.
	Bytes  int    `json:"bytes"`
	Events []byte `json:"-"`
	// Recorded and Dropped count events so far, those that found no room.
	Recorded uint64 `json:"recorded"`
	Dropped  uint64 `json:"dropped"`
	// End: nothing more comes from this executor. Problem says why it ended early.
	End     bool   `json:"end,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// maxPage bounds a page and its line.
const maxPage = 1 << 20

// Trace records what executors do and hands over the pages as they come; an error of take ends the recording, as the end of ctx
// does.
func (c *Conn) Trace(ctx context.Context, o TraceOptions, take func(*TracePage) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := url.Values{"ns": {strconv.FormatInt(int64(o.Length), 10)}, "room": {strconv.Itoa(o.Room)}}
	if o.Client != 0 {
		q.Set("client", strconv.FormatUint(o.Client, 10))
	}
	if o.Ends {
		q.Set("ends", "1")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://heddle/v1/trace?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	client := c.http
	client.Timeout = 0 // the recording says how long it takes
	resp, err := client.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return refused("/v1/trace", resp, text)
	}
	in := bufio.NewReaderSize(resp.Body, maxPage)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		var p TracePage
		if err == nil {
			err = json.Unmarshal(line, &p)
		}
		if err == nil && (p.Bytes < 0 || p.Bytes > maxPage) {
			err = fmt.Errorf("a page of %d bytes", p.Bytes)
		}
		if err == nil {
			p.Events = make([]byte, p.Bytes)
			_, err = io.ReadFull(in, p.Events)
		}
		if err != nil {
			return fmt.Errorf("/v1/trace: the daemon's answer: %w; did it end, or is it of another version? heddle version", err)
		}
		if err := take(&p); err != nil {
			return err
		}
	}
}

// RefusedKernel is a kernel of a client that runs natively.
type RefusedKernel struct {
	Image uint64 `json:"image"`
	Name  string `json:"name"`
	Why   string `json:"why"`
}

// Refused asks for the kernels of a client that run natively because they were refused.
func (c *Conn) Refused(ctx context.Context, client uint64) ([]RefusedKernel, error) {
	var all []RefusedKernel
	err := c.do(ctx, http.MethodGet, fmt.Sprintf("/v1/refused?client=%d", client), &all)
	return all, err
}
