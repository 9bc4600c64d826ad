"""The tables of issues 2, 4, 5 and 6, in named parts. usage: parts.py PART… (through gpu-test.sh, which builds the programs first)."""

import os
import sys
import time
import traceback
from pathlib import Path

import coalesce
import compiled_parts
import crew
import graph_parts
import latency_parts
import robust
import sweep
from harness import *

MODELS = os.environ.get("GT_WORKLOADS", "resnet50,bert,gpt2,vit,compile,train,jax,cupy").split(",")
# Command buffers named: `heddle run` turns them off where nothing is said of them.
JAX_GRAPHS = {
    "XLA_FLAGS": "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0 --xla_gpu_graph_min_graph_size=1"
    " --xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL"
}
saved = {}  # (workload, tag) -> reply


def workload(name, tag):
    times = ["6"] if name in FRAMEWORKS else []  # compilers record at the second call and replay from the third on
    return [PY, PROGRAMS + "/workload.py", name, f"{WORK}/{name}.{tag}.npz", *times]


def batch(mode, names, tag, env=None, timeout=200):
    """Runs workloads at once, timeout seconds at most; replies by (name, tag)."""
    end = time.time() + timeout
    ps_ = [(n, t, start(mode, workload(n, t), {**(env or {}), **FRAMEWORKS.get(n, {})})) for n, t in names]
    for n, t, p in ps_:
        rc, out = finish(p, end - time.time())
        r = reply(out)
        r["rc"] = rc
        r["stats"] = stats(out)
        saved[(n, t)] = r
        log(f"--- {mode} {n} {t} rc {rc}\n{out[-3000:]}")
        if rc:
            r["error"] = next((l for l in reversed(out.splitlines()) if l.strip()), "?")[:160]


def differs(name, a, b):
    """How two runs differ, in a few words; '' when equal bit for bit."""
    A, B = saved.get((name, a), {}), saved.get((name, b), {})
    for r, t in ((A, a), (B, b)):
        if not r.get("hash"):
            return f"{t}: rc {r.get('rc')} {r.get('error', 'no output')}"[:90]
    if A["hash"] == B["hash"]:
        return ""
    try:
        import numpy as np

        x, y = np.load(f"{WORK}/{name}.{a}.npz"), np.load(f"{WORK}/{name}.{b}.npz")
        n = [k for k in x.files if x[k].tobytes() != y[k].tobytes()]
        return f"{len(n)} of {len(x.files)} arrays, max diff {max(float(np.max(np.abs(x[k].astype(float) - y[k].astype(float)))) for k in n):.3g}"
    except Exception as e:  # noqa: BLE001 - whatever numpy finds wrong with what a program wrote
        return f"hash differs ({e})"[:90]


def native_twice(names):
    todo = [(n, t) for t in ("native1", "native2") for n in names if (n, t) not in saved]
    if todo:
        batch("native", todo, "native")


def heddle_alone(names):
    for n in names:
        if (n, "alone") not in saved and left() > 20:
            batch("heddle", [(n, "alone")], "alone", {"HEDDLE_LOG": "stats"}, 120)


def compare(what, name, tag, part="outputs"):
    base = differs(name, "native1", "native2")
    d = differs(name, "native1", tag)
    r = saved.get((name, tag), {})
    if base:
        row(part, what, native=f"differs from itself: {base}", heddle=d or "equal", target="listed", ok=None)
    else:  # equal outputs prove nothing when nothing was forwarded
        f = (r.get("stats") or {}).get("forwarded")
        note = "" if f else ", no counters" if f is None else ", NOTHING FORWARDED"
        row(
            part,
            what,
            native="equal twice" + ("" if saved[(name, "native1")].get("finite") else ", not finite"),
            heddle=(d or "equal") + note,
            target="bit for bit",
            ok=False if d or f == 0 else None if f is None else True,
        )


def outputs():
    native_twice(MODELS)
    heddle_alone(MODELS)
    for n in MODELS:
        compare(f"{n}: outputs, alone", n, "alone")
    if left() > 40:
        eight_ = (MODELS * 8)[:8]
        tags = [(n, f"eight{i}") for i, n in enumerate(eight_)]
        batch("heddle", tags, "eight", {"HEDDLE_LOG": "stats"})
        for n, t in tags:
            compare(f"{n}: outputs, 8 at once", n, t)


def forward():
    heddle_alone(MODELS)
    if "jax" in MODELS and left() > 30:
        p = start("heddle", workload("jax", "graphs"), {**JAX_GRAPHS, "HEDDLE_LOG": "stats"})
        rc, out = finish(p, 120)
        saved[("jax", "graphs")] = {**reply(out), "rc": rc, "stats": stats(out)}
        log(f"--- heddle jax, command buffers on, rc {rc}\n{out[-3000:]}")
    for n, t in [(n, "alone") for n in MODELS] + ([("jax", "graphs")] if "jax" in MODELS else []):
        r = saved.get((n, t), {})
        s = r.get("stats") or {}
        f = s.pop("forwarded", None)
        nat = s.pop("native", None)
        why = {k: v for k, v in s.items() if v and k not in ("pid", "ops", "total", "signals", "waits")}
        if nat is None:
            nat = sum(why.values()) if f is not None else None
        share = f / (f + nat) if f is not None and f + nat else None
        note = " ".join(f"{k} {v}" for k, v in sorted(why.items(), key=lambda x: -x[1])[:5])
        row(
            "forward",
            f"{n}{' with command buffers' if t == 'graphs' else ''}: share of SM ops forwarded",
            heddle=f"{share:.5f} ({f} + {nat}) {note}" if share is not None else f"no counters; rc {r.get('rc')}",
            target="reported" if t == "graphs" else "≥ 0.999",
            ok=None if t == "graphs" else bool(share and share >= 0.999),
        )


def serve(mode, model, n, mps=None, env=None, graph=False, secs=None):
    r = run(mode, [PY, PROGRAMS + "/serve.py", model, str(n), str(secs or SECS)] + (["graph"] if graph else []), 150, env, mps)
    if r.get("errors"):
        r["error"] = "; ".join(r["errors"])[:120]
        r.pop("rate", None)
    return r


def alone():
    for m in ("resnet50", "bert"):
        a, b = [], []
        for _ in range(int(os.environ.get("GT_PAIRS", "2"))):  # native and Heddle in turn: machines drift
            if left() > 40:
                a.append(serve("native", m, 1))
                b.append(serve("heddle", m, 1))
        best = lambda v, k, f: f([x[k] for x in v if x.get(k)], default=None)
        x, y = best(a, "rate", max), best(b, "rate", max)
        q = div(y, x)
        bad = next((v.get("error") for v in b if v.get("error")), None)
        row(
            "alone",
            f"{m} fp16 batch 1, one process, requests/s",
            native=x,
            heddle=y if y else bad,
            ratio=q,
            target="≥ 1.0 × native",
            ok=bool(q and q >= 1.0),
        )
        row("alone", f"{m}: p50 ms", native=best(a, "p50", min), heddle=best(b, "p50", min))
        x, y = best(a, "first", min), best(b, "first", min)
        q = div(y, x)
        row(
            "alone",
            f"{m}: start to first result, s",
            native=x,
            heddle=y,
            ratio=q,
            target="≤ native + 10 %",
            ok=bool(q and q <= 1.1),
        )


def eight():
    for m, need in (("resnet50", 1.5), ("bert", 1.2)):
        ts = serve("native", m, 8)
        mp = with_mps(lambda k, m=m: serve("mps", m, 8, k))
        he = serve("heddle", m, 8)
        top = serve("native", m, 8, env={"LD_PRELOAD": WORK + "/drop.so"}) if left() > 40 else {}
        t, p, h, c = ts.get("rate"), mp.get("rate"), he.get("rate"), top.get("rate")
        q, w = div(h, t), div(h, p)
        row(
            "eight",
            f"{m} fp16, 8 processes, requests/s (against time-sliced)",
            sliced=t,
            mps=p or mp.get("error"),
            heddle=h or he.get("error"),
            ratio=q,
            target=f"≥ {need} × time-sliced",
            ok=bool(q and q >= need),
        )
        row("eight", f"{m}: the same against MPS", mps=p, heddle=h, ratio=w, target="≥ 1.0 × MPS", ok=bool(w and w >= 1))
        row("eight", f"{m}: share of the ceiling (launches dropped)", native=c, heddle=h, ratio=div(h, c), target="reported")
        row("eight", f"{m}: p50 / p99 ms", *[f"{r.get('p50')} / {r.get('p99')}" for r in (top, ts, mp, he)])
        row(
            "eight",
            f"{m}: last result equals the first",
            sliced=str(ts.get("same")),
            mps=str(mp.get("same")),
            heddle=str(he.get("same")),
            target="True",
            ok=he.get("same") is True,
        )


def rate():
    def go(mode, n, mps=None):
        return run(mode, [WORK + "/micro", KERNELS, "rate", str(n), "2"], 60, mps=mps)

    mp = with_mps(lambda k: go("mps", 8, k))
    for n, need in ((1, 200e3), (4, 450e3), (8, 500e3)):
        a, h = go("native", n), go("heddle", n)
        v = h.get("rate") if not h.get("failed") else None
        row(
            "rate",
            f"empty kernels/s, {n} process{'es' if n > 1 else ''}",
            native=a.get("rate") if n == 1 else None,
            sliced=a.get("rate") if n > 1 else None,
            mps=mp.get("rate") if n == 8 else None,
            heddle=v or h.get("error"),
            ratio=div(v, a.get("rate")),
            target=f"≥ {need / 1e3:.0f} k",
            ok=bool(v and v >= need),
        )


def latency():
    def go(mode, what):
        return run(mode, [WORK + "/micro", KERNELS, what], 60)

    r = {(m, w): go(m, w) for w in ("cpu", "sync", "idle") for m in ("native", "heddle")}
    g = lambda m, w, k: r[(m, w)].get(k)
    err = lambda w: r[("heddle", w)].get("error")
    h = g("heddle", "cpu", "p50")
    row(
        "latency",
        "CPU time of one launch, p50 µs",
        native=g("native", "cpu", "p50"),
        heddle=h if h is not None else err("cpu"),
        ratio=div(h, g("native", "cpu", "p50")),
        target="≤ 0.3 µs",
        ok=bool(h is not None and h <= 0.3),
    )
    row("latency", "the same, p99 µs", native=g("native", "cpu", "p99"), heddle=g("heddle", "cpu", "p99"))
    for what, k, w, extra in (
        ("launch + synchronise, p50 µs", "p50", "sync", 1),
        ("the same, p99 µs", "p99", "sync", None),
        ("copy in, 4 launches, copy out, synchronise, p50 µs", "request_p50", "sync", None),
        ("the same, p99 µs", "request_p99", "sync", None),
        ("first launch + synchronise after 1 s idle, p50 µs", "p50", "idle", 60),
        ("the same, worst of 9", "worst", "idle", None),
    ):
        a, h = g("native", w, k), g("heddle", w, k)
        row(
            "latency",
            what,
            native=a,
            heddle=h if h is not None else err(w),
            ratio=div(h, a),
            target="" if extra is None else f"≤ native + {extra} µs",
            ok=None if extra is None else bool(h is not None and a is not None and h <= a + extra),
        )


def gemm():
    def go(mode, n, mps=None, shape=(256, 128, 1152)):
        return run(mode, [WORK + "/gemm", str(n), *map(str, shape), "3"], 60, mps=mps)

    one = go("native", 1)
    ts = go("native", 8)
    mp = with_mps(lambda k: go("mps", 8, k))
    h1, he = go("heddle", 1), go("heddle", 8)
    t, p, h = (r.get("tflops") if not r.get("error") else None for r in (ts, mp, he))
    q, w = div(h, t), div(h, p)
    row(
        "gemm",
        "256×128×1152 FP32, 8 processes, TFLOP/s (against time-sliced)",
        native=one.get("tflops"),
        sliced=t,
        mps=p or mp.get("error"),
        heddle=h or he.get("error"),
        ratio=q,
        target="≥ 16 × time-sliced",
        ok=bool(q and q >= 16),
    )
    row("gemm", "the same against MPS", mps=p, heddle=h, ratio=w, target="≥ 0.8 × MPS", ok=bool(w and w >= 0.8))
    row(
        "gemm",
        "one process, TFLOP/s",
        native=one.get("tflops"),
        heddle=h1.get("tflops") or h1.get("error"),
        ratio=div(h1.get("tflops"), one.get("tflops")),
    )
    row("gemm", "p50 / p99 µs", *[f"{r.get('p50')} / {r.get('p99')}" for r in (one, ts, mp, he)])
    row(
        "gemm",
        "results against native",
        native=one.get("hash"),
        heddle=he.get("hash"),
        target="equal",
        ok=bool(he.get("same") and he.get("hash") == one.get("hash")),
    )


def graphs():
    batch("native", [("graph", "native1")], "n")
    batch("native", [("graph", "native2")], "n")
    tags = [("graph", f"eight{i}") for i in range(8)]
    batch("heddle", tags, "e", {"HEDDLE_LOG": "stats"})
    bad = [d for n, t in tags if (d := differs(n, "native1", t))]
    base = differs("graph", "native1", "native2")
    row(
        "graphs",
        "ResNet-50 as CUDA graph, 8 processes: outputs",
        native=base or "equal twice",
        heddle=f"{8 - len(bad)} of 8 equal" + (f"; {bad[0]}" if bad else ""),
        target="right results",
        ok=not bad if not base else None,
    )
    ts, he = serve("native", "resnet50", 8, graph=True, secs=3), serve("heddle", "resnet50", 8, graph=True, secs=3)
    row(
        "graphs",
        "the same served, requests/s",
        sliced=ts.get("rate"),
        heddle=he.get("rate") or he.get("error"),
        ratio=div(he.get("rate"), ts.get("rate")),
        target="reported",
    )
    row(
        "graphs",
        "last result equals the first",
        sliced=str(ts.get("same")),
        heddle=str(he.get("same")),
        target="True",
        ok=he.get("same") is True,
    )


FRAMEWORKS = {  # workload -> what its environment has besides
    "graph": {},
    "graph-events": {},
    "reduce-overhead": {},
    "max-autotune": {},
    "jax-graphs": JAX_GRAPHS,
    "cupy-graph": {},
    "threads": {},
    "sharing": {},
    "loader": {},
    "expandable": {k: "expandable_segments:True" for k in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")},
    "cudaMallocAsync": {k: "backend:cudaMallocAsync" for k in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")},
}


def frameworks():
    """Frameworks as they are: outputs against native bit for bit. All at once, then those that were not right one by one."""
    names = [n for n in os.environ.get("GT_FRAMEWORKS", ",".join(FRAMEWORKS)).split(",") if n in FRAMEWORKS]
    stats_on = {"HEDDLE_LOG": "stats"}
    for t in ("native1", "native2"):  # the second finds what the first tuned
        batch("native", [(n, t) for n in names], t, timeout=60)
    if left() < 20:
        row("frameworks", f"not run under Heddle, {LIMIT:.0f} s are spent", ok=False)
        return
    batch("heddle", [(n, "alone") for n in names], "alone", stats_on, timeout=60)
    again = [n for n in names if differs(n, "native1", "alone") and not differs(n, "native1", "native2")]
    for n in again:
        if left() > 15:
            first = differs(n, "native1", "alone")
            batch("heddle", [(n, "alone")], "alone", stats_on, timeout=40)
            print(f"# {n} with the others: {first}; by itself: {differs(n, 'native1', 'alone') or 'equal'}", flush=True)
            saved[(n, "alone")]["first"] = first
    for n in names:
        compare(f"{n}: outputs", n, "alone", "frameworks")
        r = saved.get((n, "alone"), {})
        why = {k: v for k, v in (r.get("stats") or {}).items() if v and k not in ("pid", "ops", "total", "signals", "waits")}
        if n in again:
            row("frameworks", f"{n}: beside the others", heddle=str(r.get("first"))[:120], target="bit for bit", ok=False)
        print(f"# {n}: {' '.join(f'{k} {v}' for k, v in sorted(why.items(), key=lambda x: -x[1])[:6])}", flush=True)


def errors():
    a = run("native", [WORK + "/errors", KERNELS], 120)
    b = run("heddle", [WORK + "/errors", KERNELS], 150)
    t = lambda r: dict(l.split(": ", 1) for l in r["out"].splitlines() if ": " in l and not l.startswith(("heddle", "{", "[")))
    A, B = t(a), t(b)
    bad = [k for k in A if A[k] != B.get(k)]
    for k in bad[:14]:
        row("errors", k, native=A[k], heddle=B.get(k, f"missing ({b.get('error')})"), target="equal", ok=False)
    row(
        "errors",
        f"codes of {len(A)} bad calls",
        native=str(len(A)),
        heddle=f"{len(A) - len(bad)} equal",
        target="equal",
        ok=bool(A) and not bad,
    )


def idle():
    stop_daemon()
    p = start(
        "heddle",
        [
            PY,
            "-c",
            "import torch, time; x = torch.ones(8).cuda(); print(float((x+1).sum()), flush=True); time.sleep(13); print(float((x*2).sum()))",
        ],
        {"HEDDLE_LOG": "stats"},
    )
    time.sleep(5)
    t = time.time()
    while not executors() and time.time() - t < 20 and p.poll() is None:
        time.sleep(0.2)
    time.sleep(2)
    pids = set(ours("daemon") + executors())
    c0, t0 = {q: cpu_seconds(q) for q in pids}, time.time()
    time.sleep(4)
    used = {q: (cpu_seconds(q) - c0[q]) / (time.time() - t0) * 100 for q in pids}
    finish(p, 40)
    total = sum(used.values()) if pids else None
    row(
        "idle",
        "daemon + executor idle beside one idle client, % of a core",
        heddle=total,
        target="≤ 1 %",
        ok=bool(pids) and total <= 1,
    )
    p = start("heddle", [PY, PROGRAMS + "/serve.py", "resnet50", "8", "6"])
    t = time.time()
    seen = []
    while p.poll() is None and time.time() - t < 60:
        q = set(ours("daemon") + executors())
        c = {k: cpu_seconds(k) for k in q}
        a = time.time()
        time.sleep(1)
        seen.append(sum(cpu_seconds(k) - c[k] for k in q) / (time.time() - a) * 100)
    finish(p, 60)
    row(
        "idle",
        "daemon + executor while 8 ResNet-50 processes serve, % of a core (largest second)",
        heddle=max(seen, default=None),
        target="reported",
    )


def smoke():
    """From small to large, with the end of every log where something fails: for the first runs on a new machine."""
    import subprocess

    def show(r, n=14):
        print("\n".join("    " + l[:180] for l in r["out"].splitlines()[-n:]), flush=True)

    def daemon_log():
        for d in (RUNTIME,):
            try:
                print(
                    "    daemon.log:\n" + "\n".join("    " + l[:220] for l in Path(d, "daemon.log").read_text().splitlines()[-8:])
                )
            except OSError as e:
                print(f"    {e}")

    e = {"HEDDLE_LOG": "stats,stderr:info"}
    steps = [
        ("driver API steps", [WORK + "/smoke", KERNELS], 60),
        ("micro sync", [WORK + "/micro", KERNELS, "sync"], 30),
        ("gemm, 2 processes", [WORK + "/gemm", "2", "256", "128", "1152", "1"], 40),
        ("cupy", workload("cupy", "smoke"), 60),
        ("torch add", [PY, "-c", "import torch; x = torch.arange(8.).cuda(); print((x + x).sum().item())"], 60),
        (
            "torch matmul fp16",
            [PY, "-c", "import torch; x = torch.ones(64, 64).cuda().half(); print((x @ x).float().sum().item())"],
            60,
        ),
        (
            "torch conv fp16",
            [
                PY,
                "-c",
                "import torch; c = torch.nn.Conv2d(3, 8, 3).cuda().half(); print(c(torch.ones(1, 3, 32, 32).cuda().half()).float().sum().item())",
            ],
            60,
        ),
        ("resnet50", workload("resnet50", "smoke"), 60),
    ]
    for what, cmd, limit in steps:
        if left() < 20:
            break
        a = run("native", cmd, limit) if what == "driver API steps" else {}
        r = run("heddle", cmd, limit, e)
        s = stats(r["out"])
        ok = r["rc"] == 0
        row(
            "smoke",
            what,
            native=f"rc {a['rc']}, {a['wall']} s" if a else None,
            heddle=f"rc {r['rc']}, {r['wall']} s, {' '.join(f'{k} {v}' for k, v in s.items() if v)[:120]}",
            ok=ok,
        )
        if a.get("rc"):
            show(a, 4)
        if what == "driver API steps":
            print("\n".join("    " + l for l in r["out"].splitlines() if l.startswith(("BAD", "HANG", "    element"))))
        if not ok:
            show(r)
            daemon_log()
        if not ok and what in ("driver API steps", "torch add") and os.environ.get("GT_KEEP_GOING") != "1" and "HANG" in r["out"]:
            break
    d = subprocess.run([HEDDLE, "doctor"], env=base_env(), capture_output=True, text=True, timeout=30, check=False)
    print("    doctor: " + (d.stdout + d.stderr)[-700:].replace("\n", "\n    "))


def selfcheck():
    """Every program once, natively: whether the tests themselves work here. Needs no Heddle."""
    native_twice(MODELS + ["graph"])
    for n in MODELS + ["graph"]:
        r = saved.get((n, "native1"), {})
        row(
            "selfcheck",
            f"workload {n}",
            native=differs(n, "native1", "native2") or f"equal twice, finite {r.get('finite')}, first result {r.get('first')} s",
            ok=bool(r.get("hash")),
        )
    for what in (["cpu"], ["sync"], ["rate", "8", "1"]):
        r = run("native", [WORK + "/micro", KERNELS, *what], 40)
        row("selfcheck", f"micro {what[0]}", native=str({k: v for k, v in r.items() if k != "out"})[:110], ok=not r["rc"])
    r = run("native", [WORK + "/gemm", "8", "256", "128", "1152", "2"], 40)
    row("selfcheck", "gemm, 8 processes", native=r.get("tflops") or r.get("error"), ok=bool(r.get("same")))
    r = run("native", [WORK + "/gemm", "1", "256", "128", "1152", "1", "check"], 40)
    row("selfcheck", "gemm checked", native=r.get("tflops") or r.get("error"), ok=bool(r.get("same")))
    a, b = (run("native", [WORK + "/errors", KERNELS], 120) for _ in range(2))
    same = a["out"] == b["out"]
    row(
        "selfcheck",
        f"errors: {len(a['out'].splitlines())} lines, the same twice",
        native=str(same)
        if same
        else next((x + " / " + y for x, y in zip(a["out"].splitlines(), b["out"].splitlines()) if x != y), "length")[:110],
        ok=same and not a["rc"],
    )
    print("\n".join(l for l in a["out"].splitlines() if "group" in l and not l.endswith(" 0")))
    for label, env in (("", None), (" with launches dropped", {"LD_PRELOAD": WORK + "/drop.so"})):
        r = serve("native", "resnet50", 2, secs=2, env=env)
        row("selfcheck", "serve resnet50, 2 processes" + label, native=r.get("rate") or r.get("error"), ok=bool(r.get("rate")))
    try:
        with Mps() as k:
            r = run("mps", [WORK + "/gemm", "8", "256", "128", "1152", "1"], 40, mps=k)
            row("selfcheck", "gemm under MPS", mps=r.get("tflops") or r.get("error"), ok=bool(r.get("same")))
    except (*FAILED, RuntimeError) as e:
        row("selfcheck", "MPS", mps=str(e)[:110], ok=False)
    latency_parts.check()


PARTS = {
    "selfcheck": selfcheck,
    "smoke": smoke,
    "outputs": outputs,
    "forward": forward,
    "alone": alone,
    "eight": eight,
    "rate": rate,
    "latency": latency,
    "gemm": gemm,
    "errors": errors,
    "graphs": graphs,
    "idle": idle,
    "kills": robust.kills,
    "coalesce": coalesce.coalesce,
    "sweep": sweep.sweep,
    "compiled": compiled_parts.compiled,
    "compiledgraph": compiled_parts.compiledgraph,
    "corpus": coalesce.corpus,
    "mix": latency_parts.mix,
    "mixgraph": latency_parts.mixgraph,
    "mixwait": latency_parts.mixwait,
    "states": latency_parts.states,
    "partition": latency_parts.partition,
    "objectives": latency_parts.objectives,
    "straggler": latency_parts.straggler,
    "reload": latency_parts.reload,
    "churn": latency_parts.churn,
    "eyes": latency_parts.eyes,
    "graph1": graph_parts.graph1,
    "graphs8": graph_parts.graphs8,
    "eager8": graph_parts.eager8,
    "many": graph_parts.many,
    "decode": graph_parts.decode,
    "frameworks": frameworks,
}


def main():
    want = sys.argv[1:] or ["outputs", "forward"]
    for w in want:
        if w not in PARTS:
            sys.exit(f"no part {w}; parts: {' '.join(PARTS)}")
    if want != ["selfcheck"] and not os.access(HEDDLE, os.X_OK):
        sys.exit(f"HEDDLE_DIST={DIST or '(unset)'}: no bin/heddle there; run `make dist` and point HEDDLE_DIST at its folder")
    header()
    crew.policy(None)
    try:
        for w in want:
            t = time.time()
            if left() < 15:
                print(f"{w}: not run, {LIMIT:.0f} s are spent")
                continue
            try:
                PARTS[w]()
            except Exception:  # noqa: BLE001 - a part that fails is a row of the table; the others are run
                log(traceback.format_exc())
                row(w, f"{w}: the test itself failed", heddle=traceback.format_exc().splitlines()[-1][:120], ok=False)
            print(f"# {w}: {time.time() - t:.0f} s", flush=True)
    finally:
        crew.dismiss()
        for p in list(live):
            stop(p)
        stop_daemon()
        save()
        log("=== end")
    short = [r for r in rows if r["ok"] is False]
    print(f"{len(rows)} rows, {len(short)} short" + (": " + "; ".join(r["what"] for r in short)[:1500] if short else ""))
    return 1 if short else 0


sys.exit(main())
