package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/shm"
)

type versionReport struct {
	Version    string `json:"version"`
	Wire       int    `json:"wire_version"`
	LayoutHash string `json:"layout_hash"`
	Go         string `json:"go"`
	Daemon     string `json:"daemon,omitempty"` // version of the daemon that answers; absent when none does
}

func newVersion(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Versions of this binary, of the wire, and of the daemon that runs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionReport{Version: Version, Wire: shm.Version, LayoutHash: fmt.Sprintf("%016x", uint64(shm.LayoutHash)), Go: runtime.Version()}
			if s, err := admin.Dial().Status(cmd.Context()); err == nil {
				v.Daemon = s.Version
			}
			if o.json {
				return o.printJSON(v)
			}
			fmt.Fprintf(o.stdout, "heddle %s (wire %d, layout %s, %s)\n", v.Version, v.Wire, v.LayoutHash, v.Go)
			if v.Daemon != "" {
				fmt.Fprintf(o.stdout, "daemon %s\n", v.Daemon)
			}
			if v.Daemon != "" && v.Daemon != v.Version {
				fmt.Fprintln(o.stderr, "heddle: the daemon is of another version; restart it with: heddle drain && heddle daemon")
			}
			return nil
		},
	}
}
