"""What every part shares: the four ways to run a program (native, time-sliced, MPS, Heddle), limits, rows of the table."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.join(HERE, "programs")
WORK = os.environ["GT_WORK"]
DIST = os.environ.get("HEDDLE_DIST", "")
OUT = os.environ.get("OUT", "")
HEDDLE = os.path.join(DIST, "bin", "heddle")
RUNTIME = os.path.join(WORK, "run")
POLICY = os.path.join(WORK, "policy", "policy.toml")  # there only while a part sets one (crew.policy)
SECS = float(os.environ.get("GT_SECONDS", "4"))
MODES = tuple(os.environ.get("GT_MODES", "native,mps,heddle").split(","))  # what `compiled` and `compiledgraph` measure
KERNELS = os.environ.get("GT_KERNELS", WORK + "/kernels.cubin")
PY = os.environ.get("GT_PYTHON", sys.executable)
T0 = time.time()
LIMIT = float(os.environ.get("GT_LIMIT", "465"))  # a part's bound, seconds
LOG = open(os.path.join(OUT or WORK, "gpu-test.log"), "a")  # noqa: SIM115 - for the whole run
rows = []
live = []
FAILED = (OSError, subprocess.SubprocessError)  # what running a program raises when it is not there or takes too long


def log(text):
    LOG.write(text.rstrip() + "\n")
    LOG.flush()


def left():
    return LIMIT - (time.time() - T0)


def base_env():
    e = dict(os.environ)
    e.pop("LD_PRELOAD", None)
    e.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_VERBOSITY="error",
        PYTHONUNBUFFERED="1",
        TOKENIZERS_PARALLELISM="false",
        CUBLAS_WORKSPACE_CONFIG=":4096:8",
        OMP_NUM_THREADS="1",
        TORCHINDUCTOR_CACHE_DIR=WORK + "/inductor",
        TRITON_CACHE_DIR=WORK + "/triton-cache",  # WORK/triton is a program
        CUPY_CACHE_DIR=WORK + "/cupy",
        TORCHINDUCTOR_COMPILE_THREADS="4",
        XLA_PYTHON_CLIENT_PREALLOCATE="false",
        XLA_FLAGS="--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0 --xla_gpu_enable_command_buffer=",
        HEDDLE_RUNTIME_DIR=RUNTIME,
        HEDDLE_POLICY=POLICY,
        HEDDLE_CACHE_DIR=WORK + "/cache",
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    return e


class Mps:
    """An MPS daemon of our own in a folder of our own, for the length of a `with`."""

    def __enter__(self):
        d = WORK + "/mps"
        shutil.rmtree(d, ignore_errors=True)
        os.makedirs(d + "/log")
        self.env = {"CUDA_MPS_PIPE_DIRECTORY": d, "CUDA_MPS_LOG_DIRECTORY": d + "/log"}
        r = subprocess.run(
            ["nvidia-cuda-mps-control", "-d"],
            env={**base_env(), **self.env},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if r.returncode:
            raise RuntimeError("MPS did not start: " + (r.stderr or r.stdout)[:200])
        return self

    def __exit__(self, *_):
        try:
            subprocess.run(
                ["nvidia-cuda-mps-control"],
                input="quit\n",
                env={**base_env(), **self.env},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        except FAILED as e:
            log(f"MPS quit: {e}")


def with_mps(f):
    """f(mps) under MPS; {"error": why} when that does not work."""
    try:
        with Mps() as k:
            return f(k)
    except (*FAILED, RuntimeError) as e:
        log(f"MPS: {e}")
        return {"error": str(e)[:120]}


def start(mode, cmd, env=None, out=subprocess.PIPE, err=None, mps=None, stdin=subprocess.DEVNULL):
    """Starts cmd in a process group of its own. mode: native, mps or heddle."""
    e = base_env()
    e.update(env or {})
    e["GT_START"] = repr(time.time())
    if mode == "mps":
        e.update(mps.env)
    if mode == "heddle":
        cmd = [HEDDLE, "run", "--require", "--"] + cmd  # never a native run by mistake
    p = subprocess.Popen(cmd, env=e, stdout=out, stderr=err or subprocess.STDOUT, text=True, start_new_session=True, stdin=stdin)
    p.t0 = time.time()
    live.append(p)
    return p


def stop(p):
    try:
        os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def finish(p, timeout):
    """Its output and exit status; -9 and a note when it ran past the limit."""
    try:
        out, _ = p.communicate(timeout=max(1, min(timeout, left())))
        rc = p.returncode
    except subprocess.TimeoutExpired:
        stop(p)
        out, _ = p.communicate()
        out = (out or "") + "\n[timed out]"
        rc = -9
    if p in live:
        live.remove(p)
    return rc, out or ""


def reply(out):
    """The last line of JSON in a program's output."""
    for l in reversed(out.splitlines()):
        if l.startswith("{"):
            try:
                return json.loads(l)
            except ValueError:
                pass
    return {}


def run(mode, cmd, timeout=120, env=None, mps=None):
    p = start(mode, cmd, env, mps=mps)
    rc, out = finish(p, timeout)
    r = reply(out)
    r["rc"] = rc
    r["wall"] = round(time.time() - p.t0, 1)
    r["out"] = out
    log(f"--- {mode} rc {rc} {r['wall']} s: {' '.join(map(str, cmd))}\n{out[-4000:]}")
    if rc or "Traceback" in out:
        r["error"] = next((l for l in reversed(out.splitlines()) if l.strip() and not l.startswith("{")), "?")[:160]
    return r


def stats(out):
    """Counters that libheddle.so prints at exit with HEDDLE_LOG=stats, summed over the processes of one command.

    The line: `heddle[PID]: forwarded=N native calls by reason: REASON=N…`; `native` in the result is the sum of the reasons."""
    t = {}
    for l in out.splitlines():
        if "heddle" in l and "native calls by reason" in l:
            head, why = l.split("native calls by reason", 1)
            t["native"] = t.get("native", 0)
            for k, v in re.findall(r"([a-z][a-z0-9_-]*)=(\d+)", head):
                t[k] = t.get(k, 0) + int(v)
            for k, v in re.findall(r"([a-z][a-z0-9_-]*)=(\d+)", why):
                t[k] = t.get(k, 0) + int(v)
                t["native"] += int(v)
    return t


def ps():
    """`heddle ps --json`, or {} when it fails."""
    try:
        cmd = [HEDDLE, "ps", "--json"]
        return json.loads(subprocess.run(cmd, env=base_env(), capture_output=True, text=True, timeout=10, check=False).stdout)
    except (*FAILED, ValueError) as e:
        log(f"heddle ps: {e}")
        return {}


def ours(verb):
    """Pids of `heddle VERB` processes of our runtime folder, or children of such a daemon (from /proc, so that nobody else's are touched)."""
    r = []
    parents = ours("daemon") if verb != "daemon" else []
    for d in os.listdir("/proc"):
        if not d.isdigit():
            continue
        try:
            if os.path.basename(os.readlink(f"/proc/{d}/exe")).split(" ")[0] != "heddle":
                continue
            a = Path(f"/proc/{d}/cmdline").read_bytes().split(b"\0")
            e = Path(f"/proc/{d}/environ").read_bytes()
            up = int(Path(f"/proc/{d}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if verb.encode() in a[1:3] and (("HEDDLE_RUNTIME_DIR=" + RUNTIME).encode() in e or up in parents):
            r.append(int(d))
    return r


def executors():
    return [e["pid"] for e in ps().get("executors") or [] if e.get("pid")] or ours("executor")


def clients():
    return [c["pid"] for c in ps().get("clients") or [] if c.get("pid")]


def stop_daemon():
    for pid in ours("daemon"):
        try:
            os.kill(pid, signal.SIGTERM)
        except OSError:
            pass
    end = time.time() + 8
    while time.time() < end and (ours("daemon") or ours("executor")):
        time.sleep(0.1)
    for pid in ours("daemon") + ours("executor"):
        log(f"daemon or executor {pid} did not stop in 8 s: killed")
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass


def cpu_seconds(pid):
    try:
        f = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def fmt(v):
    return "-" if v is None else v if isinstance(v, str) else f"{v:.0f}" if abs(v) >= 1000 else f"{v:.4g}"


def row(part, what, native=None, sliced=None, mps=None, heddle=None, ratio=None, target="", ok=None):
    """One row of the table; ok: True, False, or None where nothing is promised."""
    r = dict(part=part, what=what, native=native, time_sliced=sliced, mps=mps, heddle=heddle, ratio=ratio, target=target, ok=ok)
    rows.append(r)
    print(
        "| "
        + " | ".join(
            [what]
            + [fmt(x) for x in (native, sliced, mps, heddle, ratio)]
            + [target, "" if ok is None else "ok" if ok else "SHORT"]
        )
        + " |",
        flush=True,
    )


def header():
    print("| what | native | time-sliced | MPS | heddle | ratio | target | |\n|---|---|---|---|---|---|---|---|", flush=True)


def save():
    p = Path(OUT or WORK, "gpu-test.json")
    old = []
    if p.exists():
        try:
            old = json.loads(p.read_text())
        except ValueError:
            pass
    p.write_text(json.dumps(old + rows, indent=1))


def div(a, b):
    return a / b if a and b else None
