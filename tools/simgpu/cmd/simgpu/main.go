// Command simgpu is a GPU in software.
//
//	simgpu serve --socket PATH     runs the GPU until it is interrupted
//	simgpu run -- CMD ARGS         runs CMD on a GPU of its own
//	simgpu stats [--json]          says what the GPU at $SIMGPU_SOCKET did
//	simgpu inject ...              makes it fail
//
// tools/simgpu/README.md describes it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/tools/simgpu/server"
)

func main() {
	root := &cobra.Command{Use: "simgpu", Short: "A GPU in software: libcuda.so.1 and its server", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(serveCmd(), runCmd(), statsCmd(), injectCmd())
	err := root.Execute()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "simgpu:", strings.TrimPrefix(err.Error(), "simgpu: "))
		os.Exit(1)
	}
}

// openLog gives where SIMGPU_SERVER_LOG says the server logs: a path, stderr, or nowhere.
func openLog() (io.Writer, error) {
	switch where := os.Getenv("SIMGPU_SERVER_LOG"); where {
	case "":
		return nil, nil
	case "stderr":
		return os.Stderr, nil
	default:
		return os.OpenFile(where, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
}

// start makes a listening server by the environment's options.
func start(socket string) (*server.Server, error) {
	opt, err := server.OptionsFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	if opt.Log, err = openLog(); err != nil {
		return nil, err
	}
	s, err := server.New(opt)
	if err != nil {
		return nil, err
	}
	return s, s.Listen(socket)
}

func serveCmd() *cobra.Command {
	var socket string
	cmd := &cobra.Command{Use: "serve --socket PATH", Short: "run the GPU until interrupted", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := start(socket)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			fmt.Fprintln(cmd.OutOrStdout(), "simgpu: listening at", socket)
			defer os.Remove(socket)
			return s.Serve(ctx)
		}}
	cmd.Flags().StringVar(&socket, "socket", os.Getenv("SIMGPU_SOCKET"), "path of the unix socket")
	return cmd
}

// libraryFolder is where libcuda.so.1 lies: beside this program's folder, or SIMGPU_LIB.
func libraryFolder() (string, error) {
	if dir := os.Getenv("SIMGPU_LIB"); dir != "" {
		return dir, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(filepath.Dir(exe)), "lib")
	if _, err := os.Stat(filepath.Join(dir, "libcuda.so.1")); err != nil {
		return "", fmt.Errorf("no libcuda.so.1 in %s: build with tools/simgpu/build.sh, or set SIMGPU_LIB", dir)
	}
	return dir, nil
}

func runCmd() *cobra.Command {
	return &cobra.Command{Use: "run -- CMD [ARGS]", Short: "run a program on a GPU of its own", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := os.MkdirTemp("", "simgpu")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			lib, err := libraryFolder()
			if err != nil {
				return err
			}
			socket := filepath.Join(dir, "socket")
			s, err := start(socket)
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx) }()
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
			path := lib
			if old := os.Getenv("LD_LIBRARY_PATH"); old != "" {
				path += ":" + old
			}
			cmd.Env = append(os.Environ(), "SIMGPU_SOCKET="+socket, "LD_LIBRARY_PATH="+path)
			signal.Ignore(os.Interrupt) // the program decides
			err = cmd.Run()
			stop()
			return errors.Join(err, <-done)
		}}
}

// socketFlag adds --socket.
func socketFlag(cmd *cobra.Command, socket *string) *cobra.Command {
	cmd.Flags().StringVar(socket, "socket", os.Getenv("SIMGPU_SOCKET"), "the server's socket")
	return cmd
}

func statsCmd() *cobra.Command {
	var socket string
	var asJSON bool
	cmd := &cobra.Command{Use: "stats", Short: "say what the GPU did", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ans, err := server.Do(socket, server.Command{Cmd: "stats"})
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(ans.Stats)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, d := range ans.Stats.Devices {
				fmt.Fprintf(w, "device %d\t%d of %d MiB used\tvirtual time %v\n", d.Ordinal, d.Used>>20, d.Total>>20, time.Duration(d.VirtualNs))
			}
			fmt.Fprintln(w, "PID\tNAME\tALIVE\tLAUNCHES\tCOPIES\tMEMSETS\tSWITCHES\tINSTRUCTIONS\tCOMPUTE\tSWITCH")
			for _, p := range ans.Stats.Processes {
				fmt.Fprintf(w, "%d\t%s\t%v\t%d\t%d\t%d\t%d\t%d\t%v\t%v\n", p.Pid, p.Name, p.Alive, p.Launches, p.Copies, p.Memsets,
					p.ContextSwitches, p.Instructions, time.Duration(p.ComputeNs), time.Duration(p.SwitchNs))
			}
			return w.Flush()
		}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return socketFlag(cmd, &socket)
}

func injectCmd() *cobra.Command {
	var socket string
	var rule server.Rule
	var drop bool
	var fail int
	memory := int64(-1)
	cmd := &cobra.Command{Use: "inject", Short: "make calls fail, operations slow, memory short", Args: cobra.NoArgs,
		Example: `  simgpu inject --call cuMemAlloc_v2 --nth 3 --times 1 --code 2
  simgpu inject --kernel vecadd --code 700
  simgpu inject --op launch --delay 5ms
  simgpu inject --memory 1073741824
  simgpu inject --fail PID --code 719
  simgpu inject --clear`,
		RunE: func(*cobra.Command, []string) error {
			c := server.Command{Cmd: "inject", Rule: &rule}
			switch {
			case drop:
				c = server.Command{Cmd: "clear"}
			case memory >= 0:
				c = server.Command{Cmd: "memory", Memory: uint64(memory)}
			case fail != 0:
				c = server.Command{Cmd: "fail", Pid: fail, Code: rule.Code}
			}
			_, err := server.Do(socket, c)
			return err
		}}
	f := cmd.Flags()
	f.StringVar(&rule.Call, "call", "", "entry point, as exported (cuMemAlloc_v2)")
	f.StringVar(&rule.Kernel, "kernel", "", "kernel, or * for all")
	f.StringVar(&rule.Op, "op", "", "operation to delay: launch, copy, memset, memop")
	f.IntVar(&rule.Pid, "pid", 0, "only this process")
	f.Uint32Var(&rule.Nth, "nth", 1, "first occurrence that is hit, counted in each process")
	f.Uint32Var(&rule.Times, "times", 0, "how many are hit (0: all from then on)")
	f.Uint32Var(&rule.Code, "code", 0, "CUresult to give")
	f.DurationVar(&rule.Delay, "delay", 0, "how long to wait")
	f.Int64Var(&memory, "memory", -1, "bytes that each device has from now on (0: as started)")
	f.IntVar(&fail, "fail", 0, "make --code (719) sticky in all contexts of this process")
	f.BoolVar(&drop, "clear", false, "forget all rules and limits")
	return socketFlag(cmd, &socket)
}
