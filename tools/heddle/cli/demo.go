package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// demoProgram is one of the demo's clients (tools/e2e/clients).
type demoProgram struct {
	name   string
	rounds int // so that each takes about as long as the others
	copies int // so many run at once, each with data of its own: what they launch alike can be coalesced
}

// misbehave is the program that stores through a wild pointer.
const misbehave = "misbehave"

var demoPrograms = []demoProgram{{"vector", 6, 3}, {"reduction", 6, 2}, {"matmul", 6, 1}, {"stencil", 10, 1}, {"histogram", 9, 1}, {misbehave, 4, 1}}

// demoClients are all copies of all programs.
func demoClients(rounds int) []*demoClient {
	var all []*demoClient
	for _, p := range demoPrograms {
		for i := range p.copies {
			c := &demoClient{Name: p.name, Rounds: p.rounds * rounds, program: p.name, seed: i + 1}
			if i > 0 {
				c.Name = fmt.Sprintf("%s-%d", p.name, i+1)
			}
			all = append(all, c)
		}
	}
	return all
}

// How much the demo does unless told: seconds on either kind of GPU.
const (
	demoRoundsSoftware = 2
	demoRoundsGPU      = 100
)

func newDemo(o *options) *cobra.Command {
	var programs string
	var rounds int
	var software bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Nine unmodified clients at once, each result checked against its native run",
		Long: `Runs nine CUDA processes natively, one after the other and at once, and then at
once under Heddle, with a daemon of its own: vector work (three of them), a
reduction (two), a matrix product, a stencil, a histogram, and one that stores
through a wild pointer. What several launch alike becomes one launch. On a GPU if
there is one, else on the software GPU. Exit code 0 only if every result under
Heddle is the native one. make demo builds what it needs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if rounds < 0 || rounds > 100_000 {
				return fail(ExitUsage, "--rounds %d: expected 1 to 100000, or 0 for what suits the GPU", rounds)
			}
			ctx := cmd.Context()
			if ctx == nil {
				ctx = context.Background()
			}
			ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			// What we start dies with this thread (demoBed.command).
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			view := newDemoView(o)
			report, err := runDemo(ctx, view, programs, rounds, software)
			switch {
			case ctx.Err() != nil:
				return fail(ExitFailed, "the demo was interrupted; everything that it started has been ended")
			case err != nil:
				return exitError{ExitFailed, err}
			}
			if o.json {
				err = o.printJSON(report)
			} else {
				err = report.print(o.stdout)
			}
			if err != nil {
				return err
			}
			if !report.Right {
				return exitError{ExitFailed, nil}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&programs, "programs", "", "folder with bin/ and kernels/ (default: demo/ beside this binary's folder)")
	cmd.Flags().IntVar(&rounds, "rounds", 0, "how much work each program does (0: seconds of it)")
	cmd.Flags().BoolVar(&software, "software", false, "use the software GPU even if there is a real one")
	return cmd
}

// runDemo runs all phases. An error means that the demo could not be run; what a
// client did wrong is in the report.
func runDemo(ctx context.Context, view *demoView, programs string, rounds int, software bool) (*demoReport, error) {
	b, err := newDemoBed(ctx, programs, software)
	if err != nil {
		return nil, err
	}
	defer b.close()
	if rounds == 0 {
		rounds = demoRoundsGPU
		if b.simgpu != "" {
			rounds = demoRoundsSoftware
		}
	}
	r := &demoReport{GPU: b.gpu, Software: b.simgpu != "", Clients: demoClients(rounds)}
	view.say("on %s", b.gpu)

	view.say("natively, one after the other: the results that count")
	for _, c := range r.Clients {
		p := b.start(ctx, c, false)
		<-p.done
		c.Alone = p.run
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if p.run.Exit != 0 {
			return nil, fmt.Errorf("%s does not run natively here: exit code %d\n%s\nnext: heddle doctor", c.Name, p.run.Exit, strings.TrimSpace(p.run.stderr))
		}
		view.say("  %-11s %s  %s", c.Name, seconds(p.run.Seconds), lastLine(p.run.Output))
	}

	view.say("natively, all at once: they take turns on the GPU")
	r.Native, err = b.span(ctx, func() error {
		return crowd(ctx, r.Clients, func(c *demoClient) *demoProcess { return b.start(ctx, c, false) }, nil, func(c *demoClient, run demoRun) next {
			c.AtOnce = run
			return nextNothing
		})
	})
	if err != nil {
		return nil, err
	}

	view.say("under Heddle, all at once:")
	watch := newDemoWatch(b, view, r.Clients)
	r.Heddle, err = b.span(ctx, func() error {
		return crowd(ctx, r.Clients, func(c *demoClient) *demoProcess { return b.start(ctx, c, true) }, watch, func(c *demoClient, run demoRun) next {
			c.Heddle = append(c.Heddle, run)
			if !run.lost(c.Alone) || len(c.Heddle) > 1 {
				return nextNothing
			}
			// What a supervisor does with a client whose work was lost by somebody else's fault.
			if c.Name != misbehave {
				view.note("%s: CUDA error 719, its work was in doubt when the executor died; running it again", c.Name)
				return nextAgain
			}
			view.note("%s: CUDA error 719 like the others; running it again when they are done", c.Name)
			return nextAgainAlone
		})
	})
	if err == nil {
		err = watch.settle(ctx)
	}
	if err != nil {
		return nil, err
	}
	view.end()
	r.Executors, r.Kernels = watch.totals(), watch.coalesced()
	r.judge()
	if !r.Right {
		for _, c := range r.Clients {
			if n := len(c.Heddle); c.Result != resultSame && n > 0 {
				view.complain("%s under Heddle printed:\n%snatively:\n%sits log:\n%s", c.Name, c.Heddle[n-1].Output, c.Alone.Output, c.Heddle[n-1].stderr)
			}
		}
		view.complain("the daemon's log:\n%s", b.daemonLog())
	}
	return r, nil
}

// span measures one phase.
func (b *demoBed) span(ctx context.Context, phase func() error) (demoSpan, error) {
	before, err := b.software(ctx)
	if err != nil {
		return demoSpan{}, err
	}
	start := time.Now()
	if err := phase(); err != nil {
		return demoSpan{}, err
	}
	s := demoSpan{Seconds: time.Since(start).Seconds()}
	after, err := b.software(ctx)
	s.Software = after.since(before)
	return s, err
}

// next is what to do with a client that ended.
type next int

const (
	nextNothing    next = iota
	nextAgain           // start it again
	nextAgainAlone      // start it again when all others have ended
)

// ended says that a client's process is done.
type ended struct {
	client *demoClient
	run    demoRun
}

// crowd runs all clients at once until each has ended for good: then says of each
// end what comes next. With a watch, misbehave waits
// until all the others have work on the GPU, so that there is somebody to disturb.
// It starts processes from the calling goroutine only.
func crowd(ctx context.Context, clients []*demoClient, start func(*demoClient) *demoProcess, watch *demoWatch, then func(*demoClient, demoRun) next) error {
	ends := make(chan ended, len(clients))
	launch := func(c *demoClient) {
		p := start(c)
		go func() {
			<-p.done
			ends <- ended{c, p.run}
		}()
	}
	var last *demoClient
	var alone []*demoClient
	running := 0
	for _, c := range clients {
		running++
		if watch != nil && c.Name == misbehave {
			last = c
			continue
		}
		launch(c)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	begun := time.Now()
	for running > 0 {
		anyEnded := false
		select {
		case e := <-ends:
			anyEnded = true
			if ctx.Err() != nil {
				running--
				break
			}
			switch then(e.client, e.run) {
			case nextNothing:
				running--
			case nextAgain:
				launch(e.client)
			case nextAgainAlone:
				alone = append(alone, e.client)
			}
			if running == len(alone) && running > 0 {
				launch(alone[0])
				alone = alone[1:]
			}
		case <-tick.C:
			if watch != nil && ctx.Err() == nil {
				watch.look(ctx)
			}
		}
		if ctx.Err() != nil {
			running -= len(alone)
			alone = nil
			if last != nil {
				running--
				last = nil
			}
		}
		if last != nil && (anyEnded || watch.busy(len(clients)-1) || time.Since(begun) > 5*time.Second) {
			launch(last)
			last = nil
		}
	}
	return ctx.Err()
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// errNoSuccessor says that a dead executor was not replaced.
var errNoSuccessor = errors.New("the daemon started no executor in place of the one that died")
