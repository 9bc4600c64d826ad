package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/daemon"
	"github.com/heddle-gpu/heddle/controlplane/policy"
	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
)

func newDaemon(o *options) *cobra.Command {
	var dir, metrics string
	var idle time.Duration
	var readyFd int
	var verbose, detach, open bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Run the supervisor in the foreground",
		Long: `Runs the daemon: it gives clients their sessions and starts one executor for
each GPU and user. Under systemd it takes activated sockets and tells when it is
ready. ^C or SIGTERM: executors finish what was issued, clients go on natively.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if detach {
				return startDetached(dir, idle, readyFd)
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(o.stderr, &slog.HandlerOptions{Level: level}))
			ready := readySignal(readyFd)
			err := serveDaemon(cmd.Context(), daemon.Config{Dir: dir, IdleExit: idle, Metrics: metrics, MetricsOpen: open, Log: log}, ready)
			if err != nil {
				if errors.Is(err, daemon.ErrAnotherDaemon) {
					ready("exists")
				} else {
					ready(err.Error())
				}
				return exitError{ExitFailed, err}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "runtime-dir", "", "folder of the sockets (default: $HEDDLE_RUNTIME_DIR, $XDG_RUNTIME_DIR/heddle or /tmp/heddle-UID; root: /run/heddle)")
	cmd.Flags().DurationVar(&idle, "idle-exit", 0, "leave after this long without clients (0: never)")
	cmd.Flags().StringVar(&metrics, "metrics", "", "HOST:PORT where Prometheus and browsers can look, such as 127.0.0.1:9477 (default: nowhere)")
	cmd.Flags().BoolVar(&open, "metrics-open", false, "let --metrics be an address that other machines and their users reach; nothing asks them for a password")
	cmd.Flags().IntVar(&readyFd, "ready-fd", -1, "write \"ready\" or the reason why not to this fd")
	cmd.Flags().BoolVar(&verbose, "verbose", false, "log every message")
	cmd.Flags().BoolVar(&detach, "detach", false, "start the daemon as nobody's child and leave")
	for _, hidden := range []string{"ready-fd", "detach"} {
		if err := cmd.Flags().MarkHidden(hidden); err != nil {
			panic(err) // the flags are defined above
		}
	}
	return cmd
}

// serveDaemon runs a daemon with what its command line says; the rest of config follows from the environment.
func serveDaemon(ctx context.Context, config daemon.Config, ready func(string)) error {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	dir := config.Dir
	if dir == "" {
		dir = runtimedir.Own()
		if os.Getuid() == 0 && os.Getenv("HEDDLE_RUNTIME_DIR") == "" {
			dir = runtimedir.System
		}
	}
	if err := runtimedir.Prepare(dir); err != nil {
		return err
	}
	if dir == runtimedir.System {
		// Other users must reach the client socket; the control socket has its own mode.
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	activated, err := activatedSockets()
	if err != nil {
		return err
	}
	defer notify("STOPPING=1")
	config.Dir, config.Executable, config.Version, config.PolicyPath, config.Activated = dir, self, Version, policy.Path(), activated
	config.Ready = func() {
		ready("ready")
		notify("READY=1\nSTATUS=serving " + dir)
	}
	return daemon.Run(ctx, config)
}

// readySignal returns a function that says one line to whoever started us; only
// the first line is said.
func readySignal(fd int) func(string) {
	if fd < 0 {
		return func(string) {}
	}
	f := os.NewFile(uintptr(fd), "ready")
	return func(line string) {
		if f != nil {
			fmt.Fprintln(f, line)
			f.Close()
			f = nil
		}
	}
}

// activatedSockets takes the sockets that systemd made (sd_listen_fds(3)).
func activatedSockets() ([]int, error) {
	pid, err := strconv.Atoi(os.Getenv("LISTEN_PID"))
	if err != nil || pid != os.Getpid() {
		return nil, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || n > 16 {
		return nil, fmt.Errorf("LISTEN_FDS=%q: expected a small number", os.Getenv("LISTEN_FDS"))
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name) // not for the executors
	}
	const first = 3 // SD_LISTEN_FDS_START
	fds := make([]int, n)
	for i := range fds {
		fds[i] = first + i
		syscall.CloseOnExec(fds[i])
	}
	return fds, nil
}

// notify tells systemd our state (sd_notify(3)); without systemd it does nothing.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, state)
}

func newDrain(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "drain",
		Short: "Take no new client; leave when the last one is gone",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := admin.Dial().Drain(cmd.Context()); err != nil {
				return unreachable(err)
			}
			return nil
		},
	}
}

func newStop(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the daemon now: executors finish what was issued, clients go on natively",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := admin.Dial().Stop(cmd.Context()); err != nil {
				return unreachable(err)
			}
			return nil
		},
	}
}
