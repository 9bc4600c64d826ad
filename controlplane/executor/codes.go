package executor

import (
	"encoding/json"
	"fmt"

	"github.com/heddle-gpu/heddle/controlplane/executor/cost"
	"github.com/heddle-gpu/heddle/controlplane/executor/scoreboard"
	"github.com/heddle-gpu/heddle/shm"
)

// CodeStats is one kernel of one image, whoever launches it: a row of `heddle kernels`.
type CodeStats struct {
	ID        uint32            `json:"id"`
	Image     uint64            `json:"image"`
	Name      string            `json:"name"`
	Launches  uint64            `json:"launches"`
	InGraphs  uint64            `json:"in_graphs"`     // launches as nodes of graphs, which Launches does not count
	Coalesced uint64            `json:"coalesced"`     // of Launches, those in words of two or more
	MeanWidth float64           `json:"mean_width"`    // of those words; 0: none yet
	Sliced    uint64            `json:"sliced"`        // launches issued in slices of their blocks
	Slices    uint64            `json:"slices"`        // of those
	PTX       string            `json:"ptx,omitempty"` // where it was found (harvest.Origin); "" until a form of it was made
	Forms     []string          `json:"forms,omitempty"`
	Why       string            `json:"why,omitempty"` // the last reason for having no form: code: sentence
	Apart     map[string]uint64 `json:"apart,omitempty"`
	AloneNS   int64             `json:"alone_ns"` // measured on the GPU; 0: not measured
	// TogetherNS is an instance's share of the measured time of words, by their width: 2, up to 4, 8, … 128.
	TogetherNS [cost.Buckets - 1]int64 `json:"together_ns"`
	// SlowedBy are those beside which it takes longest, Slows those that it slows most, as measured.
	SlowedBy []CompanyStats `json:"slowed_by,omitempty"`
	Slows    []CompanyStats `json:"slows,omitempty"`
}

// codeRow collects a kernel's numbers; it runs on the poller's thread.
func codeRow(c *scoreboard.Code, origin string) CodeStats {
	u := &c.Use
	r := CodeStats{
		ID: c.ID, Image: c.Image, Name: c.Name, Launches: u.Launches, InGraphs: u.InGraphs, Coalesced: u.Coalesced, Sliced: u.Sliced,
		Slices: u.Slices, AloneNS: u.Times.Alone(), PTX: origin,
	}
	if u.Words > 0 {
		r.MeanWidth = float64(u.Slots) / float64(u.Words)
	}
	for i := range r.TogetherNS {
		r.TogetherNS[i] = u.Times.Each(i + 1)
	}
	if forms := c.Forms.Load(); forms != nil {
		for _, f := range *forms {
			text := fmt.Sprintf("%v %d", f.Layout.Mapping, f.Layout.Capacity)
			if len(f.Bodies) > 1 {
				text += fmt.Sprintf(" of %d kernels", len(f.Bodies))
			}
			if f.Refused.Load() {
				text += " refused"
			}
			r.Forms = append(r.Forms, text)
		}
	}
	if why := c.Why.Load(); why != nil {
		r.Why = why.Code + ": " + why.Detail
	}
	r.Apart = reasons(&u.Apart)
	return r
}

// reasons names the counts that are not 0.
func reasons(n *[scoreboard.ReasonCount]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for i, v := range n {
		if v > 0 {
			out[scoreboard.ApartReasons[i]] = v
		}
	}
	return out
}

// codesPerPage bounds how many rows a page has, codesAtOnce how many of them the poller collects at a time, codesBytes the JSON of a page.
const (
	codesPerPage = 64
	codesAtOnce  = 8
	codesBytes   = 30 << 10
)

// codes gives the kernels that were loaded, from a number on, as rows (a JSON array of CodeStats) that fit one message, the number
// to go on with (0: that was all), and how many there are. Rows never move. With a client only its kernels count, in the order in
// which it asked for them; a client that is not there has none.
func (x *executor) codes(from int, client uint64) (rows []byte, next, total int, err error) {
	all := x.forms.known()
	var asked []*scoreboard.Code
	ok := x.poller.call(func() {
		for _, c := range x.poller.clients {
			c.board.CountGraphs()
		}
		if client != 0 {
			asked = x.poller.codesOf(client)
		}
	})
	if client != 0 {
		all = those(all, asked)
	}
	total = len(all)
	from = min(max(from, 0), total)
	rest := all[from:min(total, from+codesPerPage)]
	page := make([]CodeStats, 0, len(rest))
	for ok && len(rest) > 0 {
		some := rest[:min(len(rest), codesAtOnce)]
		rest = rest[len(some):]
		ok = x.poller.call(func() {
			for _, c := range some {
				page = append(page, codeRow(c.code, c.origin))
			}
		})
	}
	if !ok {
		return nil, 0, 0, errStopping
	}
	known := x.acquaintances(x.poller.call)
	if known == nil {
		return nil, 0, 0, errStopping
	}
	slowedBy, slows := known.partners()
	for i := range page {
		page[i].SlowedBy, page[i].Slows = slowedBy[page[i].ID], slows[page[i].ID]
	}
	for {
		next = from + len(page)
		if next >= total {
			next = 0
		}
		b, err := json.Marshal(page)
		if err != nil {
			return nil, 0, 0, fmt.Errorf("executor: list of kernels: %w", err)
		}
		if len(b) <= codesBytes {
			return b, next, total, nil
		}
		if n := len(page); n > 1 {
			page = page[:n/2]
			continue
		}
		c := &page[0] // its texts are what can be long
		c.SlowedBy, c.Slows = nil, nil
		c.Name, c.Why = c.Name[:min(len(c.Name), 256)]+"…", c.Why[:min(len(c.Why), 256)]+"…"
	}
}

// knownCode is a kernel, and where its PTX was found.
type knownCode struct {
	code   *scoreboard.Code
	origin string
}

// known lists all kernels that were loaded, by number.
func (f *forms) known() []knownCode {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]knownCode, len(f.list))
	for i, c := range f.list {
		all[i] = knownCode{c.code, c.origin}
	}
	return all
}

// codesOf gives the kernels that a client asked for, one that has several numbers as often; it runs on the poller's thread.
func (p *poller) codesOf(client uint64) (of []*scoreboard.Code) {
	for _, c := range p.clients {
		if c.id != client {
			continue
		}
		for id, n := uint32(1), c.board.Kernels(); n > 0 && id < maxKernelID; id++ {
			if k := c.board.KernelByID(id); k != nil {
				n--
				of = append(of, k.Code)
			}
		}
	}
	return of
}

// those gives the ones of all that were asked for, each once, in the order of the question.
func those(all []knownCode, asked []*scoreboard.Code) (of []knownCode) {
	byCode := map[*scoreboard.Code]knownCode{}
	for _, c := range all {
		byCode[c.code] = c
	}
	for _, c := range asked {
		if known, ok := byCode[c]; ok {
			delete(byCode, c)
			of = append(of, known)
		}
	}
	return of
}

// maxKernelID bounds the search for a session's kernels; the daemon numbers them from 1.
const maxKernelID = 1 << 20

func (x *executor) answerCodes(m shm.Message) {
	ask, err := shm.Decode[shm.Codes](m.Body)
	if err != nil {
		x.answer(m, nil, err)
		return
	}
	rows, next, total, err := x.codes(int(min(ask.From, 1<<30)), m.ClientID)
	if err != nil {
		x.answer(m, m.Body, err)
		return
	}
	r := m.Reply(shm.StatusOK, shm.Encode(shm.Codes{From: uint32(next), Total: uint32(total)}))
	r.Tail = rows
	if err := x.conn.Send(r); err != nil {
		x.log.Error("list of kernels not sent", "error", err)
	}
}
