package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/policy"
)

func newPolicy(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Latency classes and who belongs to them",
		Long: `Policies are TOML files: docs/policy.md has every key. The daemon notices
changed files by itself; what has mistakes leaves in force what was there.`,
	}
	cmd.AddCommand(newPolicyCheck(o), newPolicyShow(o), newPolicyDiff(o), newPolicyApply(o), newPolicyTest(o))
	return cmd
}

// policyFile is the argument, or where this user's daemon looks.
func policyFile(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return policy.Path()
}

// loadPolicy reads the policy that the arguments name. Where the daemon looks there may be none; a file that is named has to be there.
func (o *options) loadPolicy(args []string) (*policy.Policy, error) {
	p, err := o.load(policyFile(args))
	if err == nil && len(args) > 0 && len(p.Files) == 0 {
		return nil, noPolicy(args[0])
	}
	return p, err
}

func noPolicy(file string) error { return fail(ExitFailed, "policy %s does not exist", file) }

// load reads a policy; its mistakes are printed as they are, or as JSON.
func (o *options) load(path string) (*policy.Policy, error) {
	p, err := policy.Load(path)
	var problems policy.Problems
	if o.json && errors.As(err, &problems) {
		type problem struct {
			File   string `json:"file"`
			Line   int    `json:"line"`
			Column int    `json:"column"`
			Key    string `json:"key,omitempty"`
			What   string `json:"what"`
		}
		out := []problem{}
		for _, q := range problems {
			out = append(out, problem{q.File, q.Line, q.Column, q.Key, q.What})
		}
		if err := o.printJSON(map[string]any{"ok": false, "problems": out}); err != nil {
			return nil, err
		}
		return nil, exitError{ExitFailed, nil}
	}
	if err != nil {
		return nil, exitError{ExitFailed, err}
	}
	return p, nil
}

func newPolicyCheck(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Every mistake of a policy at once",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := o.loadPolicy(args)
			if err != nil {
				return err
			}
			if o.json {
				return o.printJSON(map[string]any{"ok": true, "files": p.Files, "problems": []string{}})
			}
			if len(p.Files) == 0 {
				fmt.Fprintf(o.stdout, "%s does not exist: every client is in class %q\n", policyFile(args), p.Daemon.DefaultClass)
				return nil
			}
			fmt.Fprintf(o.stdout, "ok: %d files, %d classes, %d rules\n", len(p.Files), len(p.Classes), len(p.Matches))
			return nil
		},
	}
}

func newPolicyShow(o *options) *cobra.Command {
	var origin bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "The policy in force in the daemon",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := admin.Dial().Policy(cmd.Context())
			if err != nil {
				return unreachable(err)
			}
			text := p.Text
			if origin {
				text = p.Origins
			}
			if o.json {
				if err := o.printJSON(p); err != nil {
					return err
				}
			} else {
				fmt.Fprint(o.stdout, text)
			}
			if p.Problem != "" {
				return fail(ExitDegraded, "the files in %s are not in force:\n%s", p.Path, p.Problem)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&origin, "origin", false, "add where each value was set")
	return cmd
}

func newPolicyDiff(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "diff [FILE]",
		Short: "What a policy would change in the daemon",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			next, err := o.loadPolicy(args)
			if err != nil {
				return err
			}
			p, err := admin.Dial().Policy(cmd.Context())
			if err != nil {
				return unreachable(err)
			}
			now, err := policy.Parse([]policy.File{{Name: "the daemon's policy", Text: p.Text}})
			if err != nil {
				return fail(ExitFailed, "%w; is the daemon of another version? heddle version", err)
			}
			changes := admin.Changes{Changes: []string{}}
			for _, c := range policy.Diff(now, next) {
				changes.Changes = append(changes.Changes, c.String())
			}
			return o.printChanges(changes)
		},
	}
}

func newPolicyApply(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "apply",
		Short: "Have the daemon read its policy files now",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes, err := admin.Dial().ApplyPolicy(cmd.Context())
			if err != nil {
				return unreachable(err)
			}
			return o.printChanges(changes)
		},
	}
}

func (o *options) printChanges(c admin.Changes) error {
	if o.json {
		return o.printJSON(c)
	}
	for _, line := range c.Changes {
		fmt.Fprintln(o.stdout, line)
	}
	if len(c.Changes) == 0 {
		fmt.Fprintln(o.stdout, "no change")
	}
	return nil
}

func newPolicyTest(o *options) *cobra.Command {
	var pid int
	cmd := &cobra.Command{
		Use:   "test --pid PID",
		Short: "The class of a process, and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := admin.Dial().TestPolicy(cmd.Context(), pid)
			if err != nil {
				return unreachable(err)
			}
			if o.json {
				return o.printJSON(s)
			}
			fmt.Fprintf(o.stdout, "class %q for uid %d, gid %d, exe %q, cgroup %q, label %q\n", s.Class, s.UID, s.GID, s.Exe, s.Cgroup, s.Label)
			for _, step := range s.Steps {
				fmt.Fprintln(o.stdout, " ", step)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&pid, "pid", 0, "process to look at")
	if err := cmd.MarkFlagRequired("pid"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}
