package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/executor"
)

func newKernels(o *options) *cobra.Command {
	var client uint64
	var all bool
	cmd := &cobra.Command{
		Use:   "kernels",
		Short: "Kernels that clients launched, and what was coalesced",
		Long: `Lists every kernel that clients launched: how often, how much of that in one
launch with others, its time on the GPU where it was measured, where its PTX came
from, the rewritten forms that there are, and why there is none. docs/cli.md has
the columns, docs/reasons.md the codes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := admin.Dial().Kernels(cmd.Context(), client)
			if err != nil {
				return unreachable(err)
			}
			if o.json {
				return o.printJSON(list)
			}
			return printKernels(o.stdout, list, all)
		},
	}
	cmd.Flags().Uint64Var(&client, "client", 0, "only the kernels of this client (its ID in heddle ps)")
	cmd.Flags().BoolVar(&all, "all", false, "also kernels that were loaded and never launched; names in full")
	return cmd
}

// nameWidth bounds a kernel's name in the table.
const nameWidth = 48

// printKernels writes the table, most launched first.
func printKernels(out io.Writer, list []admin.Kernels, full bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for i, e := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "GPU %s, user %d\n", short(e.GPU), e.UID)
		fmt.Fprintln(w, "KERNEL\tIMAGE\tLAUNCHES\tIN GRAPHS\tCOALESCED\tWIDTH\tALONE\tEACH TOGETHER\tPTX\tFORMS\tWHY NOT")
		rows := make([]executor.CodeStats, 0, len(e.Kernels))
		for _, raw := range e.Kernels {
			var r executor.CodeStats
			if err := json.Unmarshal(raw, &r); err != nil {
				return fail(ExitFailed, "the executor's answer: %w; is it of another version? heddle version", err)
			}
			if r.Launches+r.InGraphs > 0 || full {
				rows = append(rows, r)
			}
		}
		sort.SliceStable(rows, func(i, k int) bool { return rows[i].Launches+rows[i].InGraphs > rows[k].Launches+rows[k].InGraphs })
		for _, r := range rows {
			name := printable(r.Name)
			if cut := fit(name, nameWidth); !full && cut != name {
				name = cut + "…"
			}
			share, width := "-", "-"
			if r.Coalesced > 0 {
				share, width = fmt.Sprintf("%.1f %%", 100*float64(r.Coalesced)/float64(max(r.Launches, 1))), fmt.Sprintf("%.1f", r.MeanWidth)
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, r.Image, r.Launches, r.InGraphs, share, width, gpuTime(r.AloneNS),
				gpuTime(together(&r)), dash(r.PTX), dash(strings.Join(r.Forms, ", ")), whyNot(&r))
		}
	}
	return written(w.Flush())
}

// together is an instance's share of the widest words that were measured, 0 when none was.
func together(r *executor.CodeStats) int64 {
	for i := len(r.TogetherNS) - 1; i >= 0; i-- {
		if r.TogetherNS[i] > 0 {
			return r.TogetherNS[i]
		}
	}
	return 0
}

func gpuTime(ns int64) string {
	if ns == 0 {
		return "-"
	}
	return time.Duration(ns).Round(100 * time.Nanosecond).String()
}

// whyNot says why there is no form, or what mostly kept launches apart.
func whyNot(r *executor.CodeStats) string {
	if r.Why != "" {
		return r.Why
	}
	most, reason := uint64(0), ""
	for name, n := range r.Apart {
		if n > most || n == most && name < reason {
			most, reason = n, name
		}
	}
	if most == 0 {
		return "-"
	}
	return fmt.Sprintf("%s (%d)", reason, most)
}
