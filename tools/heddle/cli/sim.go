package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/policy"
	"github.com/heddle-gpu/heddle/controlplane/simulate"
)

func newSim(o *options) *cobra.Command {
	var file, scenario string
	var seed uint64
	var list bool
	var gather, ahead time.Duration
	cmd := &cobra.Command{
		Use:   "sim [--policy FILE] --scenario FILE|NAME",
		Short: "Judge a policy before it meets a GPU",
		Long: `Drives the scheduler that executors run with synthetic arrivals on a modelled
GPU, and first come first served, round robin, earliest deadline first without
coalescing, and an oracle beside it on the same arrivals. No GPU, no daemon.
docs/sim.md says what is modelled and how to write scenarios. heddle replay does
the same with recorded arrivals.

The same files and seed give the same output. How long it took goes to stderr.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if list {
				return o.printScenarios()
			}
			if scenario == "" {
				return fail(ExitUsage, "give --scenario FILE|NAME (heddle sim --list has the builtin ones), or use heddle replay TRACE")
			}
			sc, err := simulate.Load(scenario)
			if err != nil {
				return exitError{ExitFailed, err}
			}
			for _, d := range []struct {
				flag string
				v    time.Duration
				to   *simulate.Duration
			}{{"gather", gather, &sc.Gather}, {"ahead", ahead, &sc.Ahead}} {
				if d.v < 0 || d.v > time.Second {
					return fail(ExitUsage, "--%s %v: expected up to 1s", d.flag, d.v)
				}
				if d.v > 0 {
					*d.to = simulate.Duration(d.v)
				}
			}
			return o.simulate(sc, file, seed)
		},
	}
	policyFlag(cmd, &file)
	cmd.Flags().DurationVar(&gather, "gather", 0, "HEDDLE_GATHER of the executor; 0: not set")
	cmd.Flags().DurationVar(&ahead, "ahead", 0, "HEDDLE_AHEAD of the executor; 0: not set")
	cmd.Flags().StringVar(&scenario, "scenario", "", "a file, or a builtin scenario's name")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "of everything random")
	cmd.Flags().BoolVar(&list, "list", false, "the builtin scenarios")
	return cmd
}

func newReplay(o *options) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "replay [--policy FILE] TRACE",
		Short: "What a policy would have made of recorded requests",
		Long: `Drives the scheduler that executors run with the requests that heddle record
--requests TRACE wrote, on a modelled GPU, and the other schedulers of heddle sim
beside it. No GPU, no daemon. docs/tracing.md says what a trace keeps, docs/sim.md
what is modelled.

The same files give the same output. How long it took goes to stderr.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			sc, err := simulate.LoadTrace(args[0])
			if err != nil {
				return exitError{ExitFailed, err}
			}
			return o.simulate(sc, file, 1)
		},
	}
	policyFlag(cmd, &file)
	return cmd
}

func policyFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "policy", "", "policy in TOML (docs/policy.md); without it the builtin one")
}

// simulate runs a scenario under the policy in a file, "" for the builtin one, and prints what came of it.
func (o *options) simulate(sc *simulate.Scenario, file string, seed uint64) error {
	var p *policy.Policy
	if file != "" {
		var err error
		if p, err = o.load(file); err != nil {
			return err
		}
		if len(p.Files) == 0 {
			return noPolicy(file)
		}
	}
	began := time.Now()
	rep, err := simulate.Run(sc, simulate.Options{Policy: p, Seed: seed})
	if err != nil {
		return exitError{ExitFailed, err}
	}
	ops := uint64(0)
	for _, r := range rep.Results {
		ops += r.Ops
	}
	took := time.Since(began)
	fmt.Fprintf(o.stderr, "%d ops in %v: %.0f a second\n", ops, took.Round(time.Millisecond), float64(ops)/took.Seconds())
	if o.json {
		return o.printJSON(rep)
	}
	return written(rep.Print(o.stdout))
}

// printScenarios lists what --scenario takes by name.
func (o *options) printScenarios() error {
	type row struct {
		Name  string `json:"name"`
		About string `json:"about"`
	}
	var rows []row
	for _, name := range simulate.Builtin() {
		sc, err := simulate.Load(name)
		if err != nil {
			return exitError{ExitFailed, err}
		}
		rows = append(rows, row{name, sc.About})
	}
	if o.json {
		return o.printJSON(rows)
	}
	for _, r := range rows {
		fmt.Fprintf(o.stdout, "%-28s %s\n", r.Name, r.About)
	}
	return nil
}
