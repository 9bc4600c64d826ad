package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/admin"
)

func newPs(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "ps",
		Short: "Clients and executors",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := admin.Dial().Status(cmd.Context())
			if err != nil {
				return unreachable(err)
			}
			if o.json {
				return o.printJSON(s)
			}
			w := tabwriter.NewWriter(o.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tPID\tUID\tSTATE\tGPU\tDEVICE\tSMS\tKERNELS\tOPS\tIN FLIGHT\tLABEL\tPROGRAM")
			for _, c := range s.Clients {
				fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", c.ID, c.Pid, c.UID, c.State, short(c.GPU), mib(c.DeviceBytes), sms(c.Partition), c.Kernels, c.Ops, c.InFlight, dash(printable(c.Label)), printable(c.Exe))
			}
			fmt.Fprintln(w, "\nEXECUTOR\tPID\tUID\tSTATE\tGPU\tSTARTS\tCLIENTS\tIMAGES\tLAST FAULT")
			for i, e := range s.Executors {
				fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%d\t%d\t%d\t%s\n", i, e.Pid, e.UID, e.State, short(e.GPU), e.Epoch, e.Clients, e.Images, dash(printable(e.Fault)))
			}
			if err := w.Flush(); err != nil {
				return written(err)
			}
			fmt.Fprintf(o.stdout, "\ndaemon %d, version %s, up %s\n", s.Pid, s.Version, time.Since(s.Since).Round(time.Second))
			return nil
		},
	}
}

func unreachable(err error) error {
	if errors.Is(err, admin.ErrUnreachable) {
		return exitError{ExitUnreachable, err}
	}
	return exitError{ExitFailed, err}
}

func short(uuid string) string {
	if len(uuid) > 12 {
		return uuid[:12]
	}
	return uuid
}

// sms is how many multiprocessors a client has now.
func sms(n int) string {
	if n == 0 {
		return "all"
	}
	return fmt.Sprint(n)
}

func mib(n uint64) string { return fmt.Sprintf("%d MiB", n>>20) }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
