// Package cli is Heddle's command line: one file a command.
package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// Version is set by the linker.
var Version = "unknown"

// Exit codes, the same for every command (docs/cli.md). `heddle run` exits with
// its command's own code once that has started.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitUnreachable = 3 // no daemon answers
	ExitDegraded    = 4 // works, but something is wrong: doctor's warnings, clients that run natively
)

// exitError carries an exit code up to Main. A nil err prints nothing.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}
func (e exitError) Unwrap() error { return e.err }

func fail(code int, format string, args ...any) error {
	return exitError{code, fmt.Errorf(format, args...)}
}

// options are what every command shares.
type options struct {
	json   bool
	stdout io.Writer
	stderr io.Writer
}

func (o *options) printJSON(v any) error {
	enc := json.NewEncoder(o.stdout)
	enc.SetIndent("", "  ")
	return written(enc.Encode(v))
}

// written says that standard output could not be written; nil: it could.
func written(err error) error {
	if err != nil {
		return fail(ExitFailed, "standard output: %w", err)
	}
	return nil
}

// Main runs one command line and returns its exit code.
func Main(args []string) int { return execute(args, os.Stdout, os.Stderr) }

func execute(args []string, stdout, stderr io.Writer) int {
	root := New(stdout, stderr)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return ExitOK
	}
	var e exitError
	if errors.As(err, &e) {
		if e.err != nil {
			fmt.Fprintln(stderr, "heddle:", e.err)
		}
		return e.code
	}
	// Cobra's own errors: unknown commands and flags, wrong arguments.
	fmt.Fprintln(stderr, "heddle:", strings.TrimSpace(strconvWords.ReplaceAllString(err.Error(), "")))
	if cmd.Runnable() && !cmd.HasSubCommands() {
		fmt.Fprintln(stderr, "usage:", cmd.UseLine())
	}
	fmt.Fprintf(stderr, "next: %s --help\n", cmd.CommandPath())
	return ExitUsage
}

// strconvWords are what package strconv says of a flag's value before it says what is wrong.
var strconvWords = regexp.MustCompile(`strconv\.\w+: parsing "[^"]*": `)

// New builds the command tree.
func New(stdout, stderr io.Writer) *cobra.Command {
	o := &options{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "heddle",
		Short: "Share one GPU between unmodified CUDA processes, by latency target",
		Long: `Heddle takes the kernel launches of many unmodified CUDA processes, decides
late which run, in which order and together with which others, and issues them
from one context. Begin with: heddle run -- python3 serve.py`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON instead of text")
	root.AddCommand(
		newRun(o), newPs(o), newTop(o), newKernels(o), newExplain(o), newRecord(o), newPolicy(o), newSim(o), newReplay(o), newDoctor(o), newDemo(o), newVersion(o),
		newDaemon(o), newDrain(o), newStop(o), newExecutor(o), newCompile(o),
	)
	root.InitDefaultCompletionCmd()
	root.SetHelpCommand(newHelp())
	for _, cmd := range root.Commands() {
		if cmd.HasSubCommands() { // cobra shows the help of one whose subcommand it does not know, as if nothing were wrong
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	return root
}

// newHelp is cobra's own, but that asking for the help of a command that does not exist is an error.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := cmd.Root().Find(args)
			switch {
			case err != nil:
				return err
			case len(rest) > 0:
				return fmt.Errorf("unknown command %q for %q", rest[0], of.CommandPath())
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}
