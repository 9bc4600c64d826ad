"""torch.compile'd models in eight processes (`compiled`), with CUDA graphs (`compiledgraph`): a row a mode, as soon as it is there."""

import queue
import threading

from coalesce import *
from loads import judged, settings

MODELS = {"bert": 1.2, "resnet50": 1.2}  # how many times MPS is promised
WARM = 4.0  # seconds that clients work before they are measured, in every mode
PATIENCE = 15.0  # seconds that it may take under Heddle until no form is being made
QUIET = 1.0  # seconds without a new one: clients that go on working may ask for more


def compiledgraph():
    """With graphs; and a model of very many small kernels, whose joined graphs have alike nodes as one."""
    compiled("compiledgraph", ["graph"], {"bert": 1.3, "resnet50": 1.3, "deep": None})


def compiled(part="compiled", how=(), models=MODELS):
    """how: what the programs are told besides."""
    todo = settings(os.environ.get("GT_SETTINGS", "-"))
    for m, need in models.items():
        if m not in os.environ.get("GT_COMPILED", m).split(","):
            continue
        reference = f"{WORK}/{m}.{part}.npz"
        program = [PY, PROGRAMS + "/compiled.py", m]
        # Fills inductor's cache; its outputs are the reference. Alone on the machine; how many compile is no part of inductor's keys.
        a = run("native", [*program, "1", "1", reference, *how], 300, {"TORCHINDUCTOR_COMPILE_THREADS": str(os.cpu_count())})
        if a["rc"] or not a.get("same") or left() < 45:
            why = a.get("error") or (f"{a['unsteady']} of 8 outputs change from call to call" if a.get("unsteady") else "")
            row(part, f"{m}: compiled by one process", native=(why or "no time left")[:120], ok=False)
            continue
        row(
            part,
            f"{m}: one process: requests/s; Triton kernels of a request; kernels; first result, s",
            native=f"{a.get('rate'):.1f}; {a.get('triton')} of {a.get('launches')}; {a.get('kernels')}; {a.get('first'):.1f}",
        )
        cmd = [*program, "8", str(SECS), reference, *how]
        go = lambda mode, env=None, k=None, cmd=cmd: staged(mode, cmd, env, k) if mode in MODES and left() > 30 else {}
        ts = told_of(part, m, "native", go("native"))
        mp = told_of(part, m, "mps", with_mps(lambda k, go=go: go("mps", k=k)) if "mps" in MODES else {})
        he = {}
        for i, (name, env) in enumerate(todo):
            if "GT_SETTINGS" in os.environ:
                stop_daemon()  # which starts with the first client, in its environment
            r = told_of(part, m, "heddle", go("heddle", env), f" with {name}" if env else "")
            spent(part, m + (f" with {name}" if env else ""), r)
            he = r if i == 0 else he
            if i:
                row(
                    part,
                    f"{m}: with {name}, requests/s against MPS",
                    mps=right(mp),
                    heddle=right(r),
                    ratio=div(right(r), right(mp)),
                )
        if "GT_SETTINGS" in os.environ:
            stop_daemon()
        t, p, h = (right(r) for r in (ts, mp, he))
        row(
            part,
            f"{m} fp16 batch 1, Triton templates{' and graphs' if how else ''}, 8 processes, requests/s against MPS",
            None,
            *[shown_rate(r) for r in (ts, mp, he)],
            div(h, p),
            f"≥ {need} × MPS" if need else "reported",
            bool(div(h, p) and h / p >= need) if need and p else None,
        )
        row(part, f"{m}: the same against time-sliced", sliced=t, heddle=h, ratio=div(h, t))
        if he:
            same = sum(bool(c.get("kernels")) for c in he.get("clients") or [])
            equal = not fault(he) and same == 8 and not judged(he["clients"])[0]
            row(part, f"{m}: outputs equal the native process's bit for bit", heddle=verdict(he), target="equal, 8 of 8", ok=equal)
        if he.get("used"):
            share(m, part, he["used"])
            if how:
                together(m, part, he["used"])


fault = lambda r: r.get("error") or "; ".join(r.get("errors") or [])[:120]
verdict = lambda r: fault(r) or judged(r.get("clients") or [])[1]


def right(r):
    """Requests a second; None when a process failed, or launched the reference's kernels and got something else."""
    return r.get("rate") if r and not fault(r) and not judged(r.get("clients") or [])[0] else None


def shown_rate(r):
    v = right(r)
    return v if v or not r else fault(r) or f"outputs WRONG ({r.get('rate')}/s)"


def told_of(part, m, mode, r, how=""):
    """The row of one mode's run, and what is behind it in the log. Gives r."""
    if not r:
        if mode in MODES:
            row(part, f"{m}: 8 processes{how}: not run, {LIMIT:.0f} s are spent", ok=False)
        return r
    text = f"{r.get('rate')}; {r.get('p50')} / {r.get('p99')}; {r.get('first')}; {r.get('cpu', 0) / SECS:.2f}; {verdict(r)}"
    row(
        part,
        f"{m}: 8 processes{how}: requests/s; p50 / p99 ms; first result, s; CPUs that clients use; same kernels, outputs",
        **{{"native": "sliced"}.get(mode, mode): fault(r) or text},
    )
    for c in r.get("clients") or []:
        log(f"{part}: {m}: {mode}{how}: {json.dumps(c)}")
    return r


def spent(part, m, r):
    """How long a run under Heddle took to get ready, and on what the executor spent its time."""
    s, c = r.get("settled"), r.get("cpus")
    if not s or not c:
        return
    row(
        part,
        f"{m}: s until no form was being made; forms made, from the cache, refused, still on their way",
        heddle=f"{s['seconds']:.1f}; {s['compiled']}, {s['cache_hits']}, {s['failed']}, {s['making']}",
        target=f"≤ {PATIENCE:.0f} s",
        ok=s["making"] == 0,
    )
    row(
        part,
        f"{m}: CPUs used: clients; the executor's threads, busiest first; compilers; daemon",
        heddle=f"{c['clients']:.2f}; {' '.join(f'{v:.2f}' for v in c['threads'][:8])}; {c['compilers']:.2f}; {c['daemon']:.2f}",
    )
    log(f"{part}: {m}: settled {json.dumps(s)}")
    log(f"{part}: {m}: cpus {json.dumps(c)}")
    log(f"{part}: {m}: used {json.dumps(r['used'])}")
    log(f"{part}: {m}: counted {json.dumps(r['counted'])}")
    for line in r["held"]:
        log(f"{part}: {m}: {line}")


def staged(mode, cmd, env=None, mps=None):
    """A run of programs/compiled.py whose processes work until nothing is being compiled any more and are measured then."""
    e = {"TORCHINDUCTOR_COMPILE_THREADS": "1", **(env or {})}  # what they need is there: compilers beside them would only wait
    p = start(mode, cmd, e, mps=mps, stdin=subprocess.PIPE)
    lines, states = [], queue.Queue()

    def read():
        for l in p.stdout:
            lines.append(l)
            if reply(l).get("state"):
                states.put(reply(l)["state"])
        states.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def hears(state, seconds):
        try:
            return states.get(timeout=max(1, min(seconds, left()))) == state
        except queue.Empty:
            return False

    extra, patience = {}, 10
    if hears("ready", 150):
        patience = 60
        extra["settled"] = settle() if mode == "heddle" else time.sleep(WARM)
        before = moment() if mode == "heddle" else {}
        try:
            p.stdin.write("measure\n")
            p.stdin.flush()
        except OSError as err:
            log(f"{mode}: {err}")
        if hears("measured", SECS + 60) and mode == "heddle":
            extra.update(between(before, moment()))
    try:
        rc, late = p.wait(max(1, min(patience, left()))), False
    except subprocess.TimeoutExpired:
        stop(p)
        rc, late = p.wait(), True
    if p in live:
        live.remove(p)
    reader.join(5)
    p.stdin.close()
    out = "".join(lines) + ("\n[timed out]" if late else "")
    r = {**extra, "rc": rc, **{k: v for k, v in reply(out).items() if k != "state"}}
    log(f"--- {mode} rc {rc} {time.time() - p.t0:.1f} s {env or ''}: {' '.join(cmd)}\n{out[-4000:]}")
    if rc or late or "clients" not in r:
        told = [l.strip() for l in lines if l.strip() and not l.startswith("{")]
        r["error"] = (fault(r) or ("timed out" if late else told[-1] if told else f"exit code {rc}"))[:160]
    if extra.get("cpus"):
        extra["cpus"]["clients"] = r.get("cpu", 0) / SECS
    return r


def settle():
    """Waits, for WARM at least and PATIENCE at most, until the executor has made every form that was asked for; how that went."""
    begun = changed = time.monotonic()
    asked = None
    while True:
        f = counters().get("forms") or {}
        now = time.monotonic()
        if f.get("asked") != asked or f.get("making"):
            asked, changed = f.get("asked"), now
        if now - begun >= PATIENCE or (now - begun >= WARM and now - changed >= QUIET):
            break
        time.sleep(0.25)
    failed = f.get("failed") or {}
    return {
        "seconds": round(changed - begun, 2),
        **{k: f.get(k) or 0 for k in ("asked", "forms", "compiled", "cache_hits", "making")},
        "failed": sum(failed.values()),
        "why": failed,
    }


def moment():
    """What the executor has counted, and the CPU time of its threads, its compilers and the daemon."""
    c = counters()
    pid = c.get("pid")
    return {
        "at": time.monotonic(),
        "threads": threads(pid) if pid else {},
        "compilers": children(pid) if pid else 0.0,
        "daemon": sum(cpu_seconds(d) for d in ours("daemon")),
        "counters": c,
    }


def between(a, b):
    """From one moment to another: CPUs used, and what the counters say."""
    t = b["at"] - a["at"]
    grew = lambda k: round((b[k] - a[k]) / t, 3)
    return {
        "cpus": {
            "threads": sorted((round((v - a["threads"].get(k, 0.0)) / t, 3) for k, v in b["threads"].items()), reverse=True),
            "compilers": grew("compilers"),
            "daemon": grew("daemon"),
        },
        "used": used(a["counters"], b["counters"]),
        "counted": {k: v for k, v in grown(a["counters"], b["counters"]).items() if k not in ("sessions", "streams")},
        "held": held(a["counters"], b["counters"]),
    }


def seconds_of(path, fields):
    """CPU seconds of some fields of a stat file of /proc, counted behind the name; 0 when it is gone."""
    try:
        f = Path(path).read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(f[i]) for i in fields) / os.sysconf("SC_CLK_TCK")


def threads(pid):
    """CPU seconds of a process's threads by number."""
    try:
        return {t: seconds_of(f"/proc/{pid}/task/{t}/stat", (11, 12)) for t in os.listdir(f"/proc/{pid}/task")}
    except OSError:
        return {}


def children(pid):
    """CPU seconds of a process's children, those that have ended too."""
    t = seconds_of(f"/proc/{pid}/stat", (13, 14))
    for d in os.listdir("/proc"):
        try:
            if d.isdigit() and int(Path(f"/proc/{d}/stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                t += cpu_seconds(d)
        except OSError:
            pass
    return t
