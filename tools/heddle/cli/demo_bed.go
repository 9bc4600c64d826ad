package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/heddle-gpu/heddle/controlplane/admin"
	"github.com/heddle-gpu/heddle/controlplane/inventory"
	"github.com/heddle-gpu/heddle/controlplane/runtimedir"
)

// demoClientTimeout bounds one run of one program.
const demoClientTimeout = 120 * time.Second

// demoBed is what the demo runs on: a GPU, and a daemon of its own. Everything
// that it starts is ended by close.
type demoBed struct {
	self     string // this binary
	library  string
	programs string // folder with bin/ and kernels/
	dir      string // sockets, log; removed at the end
	gpu      string
	env      []string // of every process: the GPU, nothing of the caller's Heddle
	simgpu   string   // the software GPU's binary, "" on a real GPU
	log      string   // the daemon's
	ended    []func() // how to end what runs, in the order of starting
}

// newDemoBed finds the programs and a GPU. Processes are started from the calling
// goroutine, which must be locked to its thread: they get SIGTERM when that ends.
func newDemoBed(ctx context.Context, programs string, software bool) (_ *demoBed, err error) {
	b := &demoBed{}
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if b.library, err = findLibrary(); err != nil {
		return nil, err
	}
	if real, err := filepath.EvalSymlinks(b.self); err == nil {
		b.self = real
	}
	root := filepath.Dir(filepath.Dir(b.self))
	if programs == "" {
		programs = filepath.Join(root, "demo")
	}
	if b.programs, err = filepath.Abs(programs); err != nil {
		return nil, err
	}
	for _, p := range demoPrograms {
		if _, err := os.Stat(filepath.Join(b.programs, "bin", p.name)); err != nil {
			return nil, fmt.Errorf("%w: the demo's programs are built by: make demo", err)
		}
	}
	if _, err := os.Stat(filepath.Join(b.programs, "kernels", "kernels.ptx")); err != nil {
		return nil, fmt.Errorf("%w: the demo's kernels are copied by: make demo", err)
	}
	if b.dir, err = os.MkdirTemp("", "heddle-demo"); err != nil { // short: socket paths are bounded
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	b.env = b.cleanEnv()
	device, why := demoDevice(inventory.Read())
	if device != nil && !software {
		b.gpu = device.Name
		b.env = append(b.env, "CUDA_VISIBLE_DEVICES="+device.UUID)
	} else {
		b.gpu = "the software GPU"
		if software {
			why = "asked for by --software"
		}
		b.gpu += " (" + why + ")"
		if err := b.startSoftwareGPU(ctx, root); err != nil {
			return nil, err
		}
	}
	return b, b.startDaemon(ctx)
}

// demoDevice gives the first GPU that Heddle serves, or why there is none.
func demoDevice(inv inventory.Inventory) (*inventory.Device, string) {
	if inv.Unavailable != "" {
		return nil, inv.Unavailable
	}
	why := "no GPU here"
	for i := range inv.Devices {
		d := &inv.Devices[i]
		if d.UUID == "" {
			continue // it fell off the bus
		}
		if err := inv.Serves(d.UUID); err != nil {
			why = err.Error()
			continue
		}
		return d, ""
	}
	return nil, why
}

// cleanEnv is this environment without what would reach the caller's daemon or change its clients.
func (b *demoBed) cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "HEDDLE_") || strings.HasPrefix(name, "SIMGPU_") || strings.HasPrefix(name, "E2E_") || name == "LD_PRELOAD" || name == "CUDA_VISIBLE_DEVICES" {
			continue
		}
		env = append(env, kv)
	}
	return append(env, "E2E_KERNELS="+filepath.Join(b.programs, "kernels"))
}

// command prepares a process in a group of its own, so that ^C reaches only us and we end the rest in order.
func (b *demoBed) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = b.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// keep ends a started process when the demo ends: SIGTERM, then SIGKILL to its group.
func (b *demoBed) keep(cmd *exec.Cmd) (gone <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	b.ended = append(b.ended, func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whoever is left of its group
		<-done
	})
	return done
}

// firstLine waits for a process's first word on a pipe.
func firstLine(ctx context.Context, r *os.File) (string, error) {
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	defer stop()
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if line = strings.TrimSpace(line); line != "" {
		return line, nil
	}
	if errors.Is(err, io.EOF) {
		return "", errors.New("it ended at once")
	}
	return "", err
}

func (b *demoBed) startSoftwareGPU(ctx context.Context, root string) error {
	b.simgpu = filepath.Join(root, "simgpu", "bin", "simgpu")
	lib := filepath.Join(root, "simgpu", "lib")
	for _, p := range []string{b.simgpu, filepath.Join(lib, "libcuda.so.1")} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("%w: the software GPU is built by: make simgpu", err)
		}
	}
	socket := filepath.Join(b.dir, "gpu.sock")
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := b.command(b.simgpu, "serve", "--socket", socket)
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &errs
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("the software GPU: %w", err)
	}
	gone := b.keep(cmd)
	if _, err := firstLine(ctx, r); err != nil {
		if ctx.Err() == nil {
			select {
			case <-gone:
				err = fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
			case <-time.After(time.Second):
			}
		}
		return fmt.Errorf("the software GPU does not listen: %w", err)
	}
	path := lib
	if old := os.Getenv("LD_LIBRARY_PATH"); old != "" {
		path += ":" + old
	}
	// Kernels take far longer here than the software GPU's clock says; so they may wait for company longer, too.
	b.env = mergeEnv(b.env, map[string]string{"SIMGPU_SOCKET": socket, "LD_LIBRARY_PATH": path, "HEDDLE_GATHER": "10ms"})
	return nil
}

func (b *demoBed) startDaemon(ctx context.Context) error {
	b.log = filepath.Join(b.dir, runtimedir.LogFile)
	log, err := os.OpenFile(b.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := b.command(b.self, "daemon", "--runtime-dir", b.dir, "--ready-fd", "3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("the daemon: %w", err)
	}
	b.keep(cmd)
	line, err := firstLine(ctx, r)
	if err == nil && line != "ready" {
		err = errors.New(line)
	}
	if err != nil {
		return fmt.Errorf("the daemon does not serve: %w", err)
	}
	return nil
}

// daemonLog is the daemon's log so far, at most its last 4 KiB.
func (b *demoBed) daemonLog() string {
	text, err := os.ReadFile(b.log)
	if err != nil {
		return ""
	}
	return string(text[max(0, len(text)-4096):])
}

// close ends everything that was started and removes the folder.
func (b *demoBed) close() {
	for i := len(b.ended) - 1; i >= 0; i-- {
		b.ended[i]()
	}
	b.ended = nil
	os.RemoveAll(b.dir)
}

// demoProcess is a program that runs.
type demoProcess struct {
	cmd   *exec.Cmd
	out   bytes.Buffer
	errs  bytes.Buffer
	start time.Time
	done  chan struct{}
	run   demoRun // valid once done is closed
}

// forwardedLine is the preload library's last line with HEDDLE_LOG=stats.
var forwardedLine = regexp.MustCompile(`(?m)^heddle\[\d+\]: forwarded=(\d+) `)

// start runs one client, natively or under Heddle; it is ended when ctx is.
func (b *demoBed) start(ctx context.Context, c *demoClient, heddle bool) *demoProcess {
	p := &demoProcess{start: time.Now(), done: make(chan struct{})}
	path := filepath.Join(b.programs, "bin", c.program)
	set := map[string]string{"E2E_ROUNDS": strconv.Itoa(c.Rounds), "E2E_SEED": strconv.Itoa(c.seed)}
	if heddle {
		p.cmd = b.command(b.self, "run", "--require", "--label", c.Name, "--", path)
		set["HEDDLE_RUNTIME_DIR"], set["HEDDLE_LIBRARY"], set["HEDDLE_LOG"] = b.dir, b.library, "stats,stderr:warning"
	} else {
		p.cmd = b.command(path)
	}
	p.cmd.Env = mergeEnv(b.env, set)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	if err := p.cmd.Start(); err != nil {
		p.run = demoRun{Exit: -1, stderr: err.Error()}
		close(p.done)
		return p
	}
	ctx, cancel := context.WithTimeout(ctx, demoClientTimeout)
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) })
	go func() {
		defer close(p.done)
		defer cancel()
		p.cmd.Wait()
		p.run = demoRun{Output: p.out.String(), Exit: p.cmd.ProcessState.ExitCode(), Seconds: time.Since(p.start).Seconds(), stderr: p.errs.String()}
		if !stop() {
			p.run.stderr += fmt.Sprintf("\nended by the demo: %v", ctx.Err())
		}
		if m := forwardedLine.FindStringSubmatch(p.run.stderr); m != nil {
			p.run.Forwarded, _ = strconv.ParseUint(m[1], 10, 64)
		}
	}()
	return p
}

// software asks the software GPU what it did since it started; nil on a real GPU.
func (b *demoBed) software(ctx context.Context) (*demoSoftware, error) {
	if b.simgpu == "" {
		return nil, nil
	}
	cmd := exec.CommandContext(ctx, b.simgpu, "stats", "--json")
	cmd.Env = b.env
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("simgpu stats: %w", err)
	}
	var st struct {
		Devices []struct {
			VirtualNs int64 `json:"virtual_ns"`
		} `json:"devices"`
		Processes []struct {
			SwitchNs int64 `json:"switch_ns"`
		} `json:"processes"`
		Launches        uint64 `json:"launches"`
		ContextSwitches uint64 `json:"context_switches"`
	}
	if err := json.Unmarshal(text, &st); err != nil || len(st.Devices) == 0 {
		return nil, fmt.Errorf("simgpu stats: an answer that this heddle does not understand (%v); rebuild with: make build", err)
	}
	s := &demoSoftware{Launches: st.Launches, ContextSwitches: st.ContextSwitches, VirtualNs: st.Devices[0].VirtualNs}
	for _, p := range st.Processes {
		s.SwitchNs += p.SwitchNs
	}
	return s, nil
}

// since gives what was done after an earlier look.
func (s *demoSoftware) since(before *demoSoftware) *demoSoftware {
	if s == nil || before == nil {
		return nil
	}
	return &demoSoftware{s.Launches - before.Launches, s.ContextSwitches - before.ContextSwitches, s.SwitchNs - before.SwitchNs, s.VirtualNs - before.VirtualNs}
}

// status asks the demo's own daemon.
func (b *demoBed) status(ctx context.Context) (admin.Status, error) {
	return admin.DialDir(b.dir).Status(ctx)
}
