"""Clients that stay: processes of programs/load.py, started together once for each way to run them and then told what to do.
Ways are native (time-sliced), mps, heddle, and drop: natively with programs/drop.c, whose launches do nothing.

Clients of all ways are there at the same time and idle while others are measured: runs of a pair follow each other at once."""

import http.client
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from harness import *
from loads import quantile

# Another model for all of them: `api` needs neither PyTorch nor a real GPU.
STANDIN = os.environ.get("GT_STANDIN", "")
LEAD = 0.3  # seconds from telling to beginning

staff = {}  # (mode, name) -> Client
broken = {}  # mode -> why it has no clients
mps = None


class Client:
    """One process. Its name is CLASS-NUMBER: the policy puts it in that class by its label."""

    def __init__(self, mode, name):
        self.mode, self.name, self.error, self.built = mode, name, "", {}
        self.path = f"{WORK}/load.{mode}.{name}.log"
        env = {"HEDDLE_LABEL": "gt-" + name, "GT_KERNELS": KERNELS, "HEDDLE_LOG": "stats,stderr:warning"}
        if mode == "drop":
            env["LD_PRELOAD"] = WORK + "/drop.so"
        if mode == "mps" and name.startswith("batch"):
            env["CUDA_MPS_CLIENT_PRIORITY"] = "1"  # below normal
        self.log = open(self.path, "w")  # noqa: SIM115 - as long as the process: leave closes it
        self.p = start(
            "native" if mode == "drop" else mode, [PY, PROGRAMS + "/load.py"], env, err=self.log, mps=mps, stdin=subprocess.PIPE
        )
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for l in self.p.stdout:
            self.lines.put(l)
        self.lines.put(None)

    def tell(self, **command):
        try:
            self.p.stdin.write(json.dumps(command) + "\n")
            self.p.stdin.flush()
        except (OSError, ValueError) as e:
            self.error = self.error or f"{self.mode} {self.name}: {e}"

    def hear(self, timeout):
        """The next answer; one with "error" when there is none in time. A client that failed is not asked again."""
        if self.error:
            return {"error": self.error}
        try:
            line = self.lines.get(timeout=max(0.5, min(timeout, left())))
            r = json.loads(line) if line else {"error": f"ended: {self.tail()}"}
        except queue.Empty:
            r = {"error": f"no answer in {timeout:.0f} s"}
        except ValueError:
            r = {"error": f"answered {line[:80]!r}"}
        if r.get("error"):
            self.error = f"{self.mode} {self.name}: {r['error']}"[:160]
            log(f"--- {self.error}\n{self.tail(1500)}")
        return r

    def tail(self, n=120):
        self.log.flush()
        return Path(self.path).read_text(errors="replace")[-n:].strip().replace("\n", " ")


def leave(clients, seconds=5.0):
    """Clients end by themselves at the end of their input, all at the same time; who does not, or has failed, is stopped."""
    for c in clients:
        try:
            c.p.stdin.close()
        except OSError:
            pass
    end = time.monotonic() + seconds
    for c in clients:
        try:
            c.p.wait(0.1 if c.error else max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            stop(c.p)
            c.p.wait()
        if c.p in live:
            live.remove(c.p)
        c.log.close()
    told = stats("\n".join(Path(c.path).read_text(errors="replace") for c in clients if c.mode == "heddle"))
    if told:
        print("# under Heddle: " + " ".join(f"{k} {v}" for k, v in sorted(told.items(), key=lambda x: -x[1]) if v), flush=True)


def spec(model, batch=1, kind="eager"):
    return f"{STANDIN or model}:{batch}:{kind}"


def hire(modes, what, limit=120, extra=None):
    """Has clients in every mode: what is name -> list of specs they are to have built. Those of other names leave.

    extra is (mode, name) -> specs for clients of one mode only. The modes that are ready; why the others are not is in broken."""
    global mps
    wanted = {(mode, name): specs for mode in modes for name, specs in what.items()} | (extra or {})
    leave([staff.pop(k) for k in list(staff) if k not in wanted or staff[k].error])
    broken.clear()
    if "mps" in modes and not mps:
        try:
            mps = Mps().__enter__()
        except (*FAILED, RuntimeError) as e:
            mps, broken["mps"] = None, str(e)[:90]
            log(f"MPS: {e}")
    t = time.monotonic()
    fresh, jobs = [], []
    for key in wanted:
        if key[0] not in broken and key not in staff:
            staff[key] = Client(*key)
            fresh.append(staff[key])
    for c in fresh:
        c.hear(max(5, limit - (time.monotonic() - t)))
    for key, specs in wanted.items():
        for s in specs if key[0] not in broken else ():
            if s not in staff[key].built:
                staff[key].tell(do="build", what=s)
                jobs.append((staff[key], s))
    for c, s in jobs:
        r = c.hear(max(5, limit - (time.monotonic() - t)))
        if not r.get("error"):
            c.built[s] = r.get("digest")
    if "heddle" in modes and os.path.exists(POLICY):
        classes = {c.get("label"): c.get("class") for c in ps().get("clients") or []}
        for (m, n), c in staff.items():
            if m == "heddle" and not c.error and classes.get("gt-" + n) != n.split("-")[0]:
                c.error = f"{n} is in class {classes.get('gt-' + n)}: is another policy in force?"
    for mode in modes:
        bad = next((c.error for (m, n), c in staff.items() if m == mode and c.error), "")
        if bad and mode not in broken:
            broken[mode] = bad
            log(f"{mode} is left out: {bad}")
    print(
        f"# {len(staff)} clients are ready after {time.monotonic() - t:.0f} s" + "".join(f"; {m}: {w}" for m, w in broken.items()),
        flush=True,
    )
    return [m for m in modes if m not in broken]


def dismiss():
    """All clients leave, MPS too, and there is no policy any more."""
    global mps
    leave([staff.pop(k) for k in list(staff)])
    if mps:
        mps.__exit__()
        mps = None
    policy(None)


def serve(mode, jobs, seconds, grace=1.0, beside=None, during=None):
    """Has clients serve at once: jobs is name -> dict(what=, rate=, seed=). beside: (name, spec) works meanwhile, without a pause.

    during(start) runs once they are at it. name -> answer; beside's under its name."""
    start = time.monotonic() + LEAD
    if beside:
        staff[mode, beside[0]].tell(do="steps", what=beside[1], start=start)
    for name, job in jobs.items():
        staff[mode, name].tell(do="requests", start=start, seconds=seconds, grace=grace, **job)
    if during:
        during(start)
    last = start + seconds + grace + 15
    rs = {name: staff[mode, name].hear(last - time.monotonic()) for name in jobs}
    if beside:
        staff[mode, beside[0]].tell(do="stop")
        rs[beside[0]] = staff[mode, beside[0]].hear(20)
    for r in rs.values():
        if r.get("error"):
            broken.setdefault(mode, r["error"])
    return rs


def together(mode, what, names, seconds, seed=1):
    """Several clients serve requests one after the other: requests/s in all, p50 and p99 in ms, what is wrong, '' when nothing is."""
    rs = serve(mode, {n: dict(what=what, rate=0, seed=seed) for n in names}, seconds, 0)
    took = [x for r in rs.values() for x in r.get("latencies") or []]
    bad = wrong(rs.values())
    p50, p99 = (None if v is None else round(v * 1e3, 3) for v in (quantile(took, 0.5), quantile(took, 0.99)))
    total = sum(r.get("rate", 0) for r in rs.values())
    return dict(rate=None if bad else total, all=total, p50=p50, p99=p99, wrong=bad)


def wrong(rs):
    """What is not right in some answers, in a few words; '' when all is."""
    t = sorted({r["error"] for r in rs if r.get("error")})
    n = sum(r.get("wrong", 0) for r in rs)
    return "; ".join(t + ([f"{n} results differ"] if n else []))[:120]


def work(mode, name, what, seconds):
    """Steps a second of one client that has the GPU to itself."""
    c = staff[mode, name]
    c.tell(do="steps", what=what, start=time.monotonic() + LEAD)
    time.sleep(LEAD + seconds)
    c.tell(do="stop")
    return c.hear(20).get("rate")


# ---- policies ----


def policy(classes):
    """Writes the policy: class -> its keys; clients are put in classes by user and label. None: no policy. Returns when the file
    was replaced (CLOCK_MONOTONIC)."""
    os.makedirs(os.path.dirname(POLICY), exist_ok=True)
    if classes is None:
        shutil.rmtree(os.path.dirname(POLICY), ignore_errors=True)
        return time.monotonic()
    text = "schema_version = 1\n"
    for name, keys in classes.items():
        text += f"\n[class.{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())
        text += f'\n[[match]]\nclass = "{name}"\nuid = {os.getuid()}\nlabel = "gt-{name}-*"\n'
    with open(POLICY + ".new", "w") as f:
        f.write(text)
    t = time.monotonic()
    os.rename(POLICY + ".new", POLICY)
    return t


class Control(http.client.HTTPConnection):
    """HTTP on the daemon's control socket."""

    def __init__(self):
        super().__init__("heddle", timeout=10)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(RUNTIME + "/control.sock")


def control(path):
    """What the daemon answers; '' without a daemon."""
    c = Control()
    try:
        c.request("GET", path)
        return c.getresponse().read().decode()
    except OSError:  # no daemon
        return ""
    finally:
        c.close()


def objective(name):
    """A class's objective in the daemon's policy, as it writes it: its executors have it by then (reloadPolicy holds the lock)."""
    try:
        text = json.loads(control("/v1/policy"))["text"]
    except (ValueError, KeyError):
        return None
    m = re.search(rf"\[class\.{re.escape(name)}\][^\[]*?\blatency_p99 = \"([^\"]*)\"", text)
    return m and m.group(1)


def in_force(name, value, limit=5.0):
    """Waits until a class has an objective; when it had (CLOCK_MONOTONIC), or None."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if objective(name) == value:
            return time.monotonic()
    return None


def metrics():
    """What a scrape gives: (name, labels as text) -> value."""
    t = {}
    for l in control("/metrics").splitlines():
        m = re.match(r"([a-z_]+)(\{.*\})? (\S+)$", l)
        if m:
            t[m.group(1), m.group(2) or ""] = float(m.group(3))
    return t


def metric(m, name, **labels):
    """The sum of a metric over all label sets that have these; None when there is none."""
    v = [x for (n, l), x in m.items() if n == name and all(f'{k}="{w}"' in l for k, w in labels.items())]
    return sum(v) if v else None
