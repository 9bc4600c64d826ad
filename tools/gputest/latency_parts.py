"""Issue 5's table: what interactive clients get beside others, native alone / time-sliced / MPS / Heddle in one run (crew.py)."""

import json
import os
import subprocess
import threading
import time

import coalesce
import crew
from crew import wrong
from harness import *
from loads import attained, highest, ladder, median, quantile

PAIRS = int(os.environ.get("GT_PAIRS", "1"))  # runs of every mode in turn
STRAGGLER = os.environ.get("GT_STRAGGLER", "evict")  # the policy's key
WAITS = os.environ.get("GT_WAITS", "40us,80us,160us,320us").split(",")  # of mixwait
BLOCK_US = int(os.environ.get("GT_BLOCK_US", "200"))  # of partition
SMALL_RATE = 40.0 if crew.STANDIN else 400.0
MODES = ("native", "mps", "heddle")
MODEL = os.environ.get("GT_MODEL", "resnet18:8").split(":")  # of the eight clients: one request is a batch
EIGHT = [f"{c}-{i}" for c in ("tight", "quick", "easy", "loose") for i in range(2)]
OBJECTIVES = {"tight": 5, "quick": 10, "easy": 20, "loose": 50}  # ms

ms = lambda v: None if v is None else v * 1e3
both = lambda a, b: None if a is None or b is None else f"{a:.2f} / {b:.2f}"
class_of = lambda c: c.split("-")[0]


def within(ratio, most):
    return bool(ratio is not None and ratio <= most)


def figures(r):
    """p50 and p99 of an answer in ms; Nones of a failed one."""
    v = (r or {}).get("latencies") or []
    return ms(quantile(v, 0.5)), ms(quantile(v, 0.99))


def check():
    """Of `selfcheck`: every sort of client once, natively and under MPS."""
    specs = [crew.spec(m, 1, k) for m in ("resnet50", "bert") for k in ("eager", "graph")] + [crew.spec(MODEL[0], int(MODEL[1]))]
    specs += [crew.spec("mlp", 1, "graph"), crew.spec("gpt2", 1, "decode")]
    others = [crew.spec("resnet50", 64, k) for k in ("infer", "train")] + [crew.spec(m, 8, "streams") for m in ("resnet50", "bert")]
    ready = crew.hire(("native", "mps"), {"interactive-0": specs, "batch-0": others})
    for mode in ("native", "mps"):
        if mode not in ready:
            row("selfcheck", "clients of the parts mix …", **{mode: crew.broken[mode]}, ok=False)
            continue
        for s in specs:
            r = crew.serve(mode, {"interactive-0": dict(what=s, rate=0)}, 0.5, 0)["interactive-0"]
            row("selfcheck", f"{s}, requests/s", **{mode: wrong([r]) or r.get("rate")}, ok=bool(r.get("rate")) and not wrong([r]))
        for s in others:
            v = crew.work(mode, "batch-0", s, 1.0)
            row("selfcheck", f"{s}, steps/s", **{mode: v or crew.staff[mode, "batch-0"].error}, ok=bool(v))


# ---- one interactive client beside one that works as fast as it can ----


def mix():
    beside(("resnet50", "bert"), "eager", None)


def mixgraph():
    beside(("resnet50", "bert"), "graph", 400.0, max_wait="160us")


def beside(models, kind, rate, **keys):
    """rate: requests/s; None: half of what one process can do alone. keys: more of the interactive class's."""
    crew.policy(
        {
            "interactive": {"latency_p99": "20ms", "priority": 100, **keys},
            "batch": {"priority": -10, "min_share": 0.5},
        }
    )
    specs = {m: crew.spec(m, 1, kind) for m in models}
    others = {
        "batch-64 inference": crew.spec("resnet50", 64, "infer"),
        "training": crew.spec("resnet50", 64, "train"),
    }
    ready = crew.hire(MODES, {"interactive-0": list(specs.values()), "batch-0": list(others.values())})
    if "native" not in ready:
        row("mix", f"{kind}: the programs themselves", native=crew.broken["native"], ok=False)
        return
    alone = {}
    for what, s in others.items():
        alone[what] = crew.work("native", "batch-0", s, min(2.0, SECS))
    for m in models:
        if rate is None:
            r = crew.serve("native", {"interactive-0": dict(what=specs[m], rate=0)}, min(2.0, SECS), 0)["interactive-0"]
            if not r.get("rate"):
                row("mix", f"{m} {kind}: one process alone", native=r.get("error"), ok=False)
                continue
            print(f"# {m} {kind}: one process alone does {r['rate']:.0f} requests/s; p50 / p99 ms: {both(*figures(r))}", flush=True)
        for what, s in others.items():
            if left() < 6 * SECS + 10:
                row("mix", f"{m} {kind} beside {what}: not run, {LIMIT:.0f} s are spent", ok=False)
                continue
            pairs(m, kind, specs[m], rate or r["rate"] / 2, what, s, alone[what])
    for m in models:
        if "heddle" in crew.broken or left() < 4 * min(2.0, SECS) + 10:
            continue
        lone = lambda mode, rate, m=m: crew.serve(mode, {"interactive-0": dict(what=specs[m], rate=rate, seed=1)}, min(2.0, SECS))
        a, h = (lone(mode, 0)["interactive-0"] for mode in ("native", "heddle"))
        ratio = div(h.get("rate"), a.get("rate"))
        label = f"{m} {kind}, nothing beside it"
        row("mix", f"{label}: requests/s, one after the other", a.get("rate"), heddle=h.get("rate") or h.get("error"), ratio=ratio)
        if rate:
            a, h = (figures(lone(mode, rate)["interactive-0"]) for mode in ("native", "heddle"))
            row("mix", f"{label}: p50 / p99 ms at {rate:.0f}/s", both(*a), heddle=both(*h), ratio=div(h[0], a[0]))


def mixwait():
    """What do an interactive class's max_wait and the one below give each other? Heddle alone, with the same arrivals for each."""
    keys = lambda n, wait: {
        "interactive": {"latency_p99": f"{20 + n}ms", "priority": 100, "max_wait": wait},
        "batch": {"priority": -10, "min_share": 0.5},
    }
    crew.policy(keys(0, WAITS[0]))
    specs, other = {m: crew.spec(m, 1, "graph") for m in ("resnet50", "bert")}, crew.spec("resnet50", 64, "infer")
    if len(crew.hire(("native", "heddle"), {"interactive-0": list(specs.values()), "batch-0": [other]})) < 2:
        row("mixwait", "the programs themselves", native=str(crew.broken)[:120], ok=False)
        return
    other_alone = crew.work("native", "batch-0", other, min(2.0, SECS))
    lone = crew.work("heddle", "batch-0", other, min(2.0, SECS))
    row("mixwait", f"{other}: steps/s, nothing beside it", native=other_alone, heddle=lone, ratio=div(lone, other_alone))
    for m, spec in specs.items():
        job = {"interactive-0": dict(what=spec, rate=400.0, seed=1)}
        a = figures(crew.serve("native", job, SECS)["interactive-0"])
        for n, wait in enumerate(WAITS):
            if left() < SECS + 5:
                continue
            crew.policy(keys(n, wait))
            crew.in_force("interactive", f"{20 + n}ms")
            before = coalesce.counters()
            rs = crew.serve("heddle", job, SECS, beside=("batch-0", other))
            coalesce.decided("mixwait", f"{m}, {wait}", before, coalesce.counters())
            seen = [s["cadence"] for s in coalesce.counters().get("sessions") or [] if s.get("cadence")]
            b, keeps = figures(rs["interactive-0"]), div(rs["batch-0"].get("rate"), other_alone)
            ratios = both(div(b[0], a[0]), div(b[1], a[1]))
            told = f"keeps {fmt(keeps)}; {wrong(rs.values()) or 'none wrong'}; {json.dumps(seen)}"
            row(
                "mixwait",
                f"{m} graph at 400/s, max_wait {wait}: p50 / p99 ms; best effort",
                both(*a),
                heddle=f"{both(*b)}; {told}",
                ratio=ratios,
            )


def states():
    """One cell of mixgraph again and again: are there two states (docs/results.md, "Two states"), and which op takes longer in the slow one?
    Recorded with every op's own end; with clients beside that only have contexts, without them, and without prepared runs."""
    keys = {
        "interactive": {"latency_p99": "20ms", "priority": 100, "max_wait": "160us"},
        "batch": {"priority": -10, "min_share": 0.5},
    }
    spec, infer = crew.spec("resnet50", 1, "graph"), crew.spec("resnet50", 64, "infer")
    work, job = {"interactive-0": [spec], "batch-0": [infer]}, {"interactive-0": dict(what=spec, rate=400.0, seed=1)}

    def cell(what, beside=True):
        if left() < 8:
            return
        ops, clocks = [], []

        def during(start):
            time.sleep(max(0.0, start + 0.4 - time.monotonic()))  # both are at it
            cmd = [HEDDLE, "record", "-o", f"{WORK}/states.pftrace", "--seconds", "0.3", "--ends", "--json"]
            try:
                r = subprocess.run(cmd, env=base_env(), capture_output=True, text=True, timeout=20, check=False)
                ops.extend(x for x in json.loads(r.stdout)["rows"] if "interactive" in x["name"])
            except (*FAILED, ValueError, KeyError) as e:
                log(f"states: heddle record: {e}")
            try:  # the video clock goes with those of caches and crossbar, which have no name here
                cmd = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,clocks.video,power.draw", "--format=csv,noheader,nounits"]
                clocks.append(subprocess.run(cmd, capture_output=True, text=True, timeout=10, check=False).stdout.strip())
            except FAILED as e:
                log(f"states: nvidia-smi: {e}")

        before = coalesce.counters()
        rs = crew.serve("heddle", job, 1.2, beside=("batch-0", infer) if beside else None, during=during)
        after = coalesce.counters()
        b, rate = figures(rs["interactive-0"]), (rs.get("batch-0") or {}).get("rate")
        took = ", ".join(
            f"{x['kind']}{' beside others' if x['beside'] else ''} {x['took_seconds']['p50'] * 1e6:.0f} us ({x['ops']})"
            for x in ops
        )
        row(
            "states",
            f"{what}: p50 / p99 ms",
            both(*a),
            heddle=f"{both(*b)}; {fmt(rate)}/s; {took}; SM, memory, video MHz, W: {' '.join(clocks)}",
            ratio=both(div(b[0], a[0]), div(b[1], a[1])),
        )
        log(f"states: {what}: {json.dumps(coalesce.grown(before, after))}")
        for line in coalesce.held(before, after):
            log(f"states: {what}: {line}")

    crew.policy(keys)
    if len(crew.hire(("native", "heddle"), work)) < 2:
        row("states", "the programs themselves", native=str(crew.broken)[:120], ok=False)
        return
    a = figures(crew.serve("native", job, 1.0)["interactive-0"])
    cell("nothing beside it", False)
    for i in range(5):
        cell(f"native clients idle, {i}")
    crew.hire(("heddle",), work)
    for i in range(5):
        cell(f"nobody else, {i}")
    crew.dismiss()
    stop_daemon()  # the next one has another environment
    os.environ["HEDDLE_PREPARED"] = "0"
    try:
        crew.policy(keys)
        crew.hire(("heddle",), work)
        for i in range(4):
            cell(f"without prepared runs, {i}")
    finally:
        del os.environ["HEDDLE_PREPARED"]
        crew.dismiss()
        stop_daemon()


def partition():
    """Small kernels beside kernels whose blocks take long and which cannot be sliced (machine code, and no part in any form): what does a
    part of the SMs for these give both?"""
    small, long = "api:16:eager", f"api:{BLOCK_US}:long"
    batch = {"priority": -10, "coalesce": False}

    def keys(n, share):
        return {
            "interactive": {"latency_p99": f"{20 + n}ms", "priority": 100, "max_wait": "200us"},
            "batch": {**batch, "partition": share} if share else batch,
        }

    crew.policy(keys(0, None))
    ready = crew.hire(MODES, {"interactive-0": [small], "batch-0": [long]})
    if "native" not in ready:
        row("partition", "the programs themselves", native=crew.broken["native"], ok=False)
        return
    other_alone = crew.work("native", "batch-0", long, min(2.0, SECS))
    got, kept, said = {}, {}, {}
    for n, (mode, share) in enumerate([("alone", None), ("native", None), ("mps", None), ("heddle", None), ("heddle", 0.5)]):
        run_in, name = ("native" if mode == "alone" else mode), f"{mode} {share}" if share else mode
        if run_in not in ready or run_in in crew.broken or left() < SECS + 8:
            continue
        if mode == "heddle":
            crew.policy(keys(n, share))
            crew.in_force("interactive", f"{20 + n}ms", 2.0)
        sms = set()

        def look(start, name=name, sms=sms):
            while name.startswith("heddle") and time.monotonic() < start + SECS:
                sms.update(c.get("partition_sms", 0) for c in ps().get("clients") or [])
                time.sleep(0.1)

        job = {"interactive-0": dict(what=small, rate=SMALL_RATE, seed=1)}
        rs = crew.serve(run_in, job, SECS, beside=None if mode == "alone" else ("batch-0", long), during=look)
        got[name], said[name] = figures(rs["interactive-0"]), wrong(rs.values())
        if mode != "alone":
            kept[name] = div(rs["batch-0"].get("rate"), other_alone)
        if mode == "heddle":
            said[name] = f"{said[name] or 'none wrong'}; on {'/'.join(str(v) for v in sorted(sms - {0})) or 'all'} SMs"
    at = f"small kernels at {SMALL_RATE:.0f}/s beside blocks of {BLOCK_US} us"
    for name in ("heddle", "heddle 0.5"):
        ratio = div((got.get(name) or (None, None))[1], (got.get("alone") or (None, None))[1])
        row(
            "partition",
            f"{at}: p50 / p99 ms, {'partition = 0.5' if name != 'heddle' else 'no partition'}; what the other keeps of {fmt(other_alone)} steps/s",
            native=both(*got["alone"]) if "alone" in got else None,
            sliced=f"{both(*got['native'])}; {fmt(kept['native'])}" if "native" in got else crew.broken.get("native"),
            mps=f"{both(*got['mps'])}; {fmt(kept['mps'])}" if "mps" in got else crew.broken.get("mps"),
            heddle=f"{both(*got[name])}; {fmt(kept[name])}; {said[name]}" if name in got else crew.broken.get("heddle"),
            ratio=ratio,
            target="reported",
            ok=None if name in got and "none wrong" in said[name] else False,
        )


def pairs(m, kind, spec, rate, what, other, other_alone):
    """One interactive program beside one other: every mode in turn with the same arrivals, PAIRS times."""
    p50, p99, kept, told = ({k: [] for k in ("alone",) + MODES} for _ in range(4))
    for seed in range(1, PAIRS + 1):
        for mode in ("alone",) + MODES:
            run_in = "native" if mode == "alone" else mode
            if run_in in crew.broken or left() < SECS + 5:
                continue
            job = {"interactive-0": dict(what=spec, rate=rate, seed=seed)}
            before = coalesce.counters() if mode == "heddle" else {}
            rs = crew.serve(run_in, job, SECS, beside=None if mode == "alone" else ("batch-0", other))
            if mode == "heddle":
                coalesce.decided("mix", f"{m} {kind} at {rate:.0f}/s beside {what}", before, coalesce.counters())
            a, b = figures(rs["interactive-0"])
            p50[mode].append(a)
            p99[mode].append(b)
            told[mode].append(wrong(rs.values()))
            if mode != "alone":
                kept[mode].append(div(rs["batch-0"].get("rate"), other_alone))
    label = f"{m} {kind} at {rate:.0f}/s beside {what}"
    bad = next((t for t in told["heddle"] if t), "") or crew.broken.get("heddle", "")
    for q, t in (("p50", p50), ("p99", p99)):
        ratio = median([div(h, a) for h, a in zip(t["heddle"], t["alone"])])
        row(
            "mix",
            f"{label}: {q} ms",
            native=median(t["alone"]),
            sliced=median(t["native"]),
            mps=median(t["mps"]) or crew.broken.get("mps"),
            heddle=bad or median(t["heddle"]),
            ratio=ratio,
            target="≤ 1.10 × alone",
            ok=within(ratio, 1.10) and not bad,
        )
    k = {mode: median(v) for mode, v in kept.items()}
    row(
        "mix",
        f"{label}: what the other keeps of its {other_alone or 0:.1f} steps/s",
        sliced=k["native"],
        mps=k["mps"],
        heddle=k["heddle"],
        ratio=k["heddle"],
        target="≥ 0.5",
        ok=bool(k["heddle"] and k["heddle"] >= 0.5),
    )


# ---- eight interactive clients ----


def eight(modes, extra=()):
    """Hires the eight clients; the modes that are ready, and requests/s of one of them alone."""
    crew.policy({c: {"latency_p99": f"{n}ms", "priority": 50} for c, n in OBJECTIVES.items()})
    if ours("daemon"):
        crew.in_force("tight", "5ms", 2.0)
    one = crew.spec(MODEL[0], int(MODEL[1]))
    ready = crew.hire(modes, {n: [one] + [s for who, s in extra if who == n] for n in EIGHT})
    mode = ready[0] if ready else None
    if not mode:
        return [], one, 0
    r = crew.serve(mode, {EIGHT[0]: dict(what=one, rate=0)}, 1.0, 0)[EIGHT[0]]
    print(f"# {one}: one process alone, {mode}: {r.get('rate', 0):.0f} requests/s; p50 / p99 ms: {both(*figures(r))}", flush=True)
    return ready, one, r.get("rate") or 0


def loaded(mode, spec, total, seconds, grace=0.25, names=EIGHT, seed=1, **more):
    """All clients serve, each with its part of a load in requests/s; name -> answer."""
    jobs = {n: dict(what=spec, rate=total / len(EIGHT), seed=seed * 100 + EIGHT.index(n)) for n in names}
    return crew.serve(mode, jobs, seconds, grace, **more)


def attainment(rs):
    return {n: attained(r.get("latencies") or [], OBJECTIVES[class_of(n)] / 1e3) for n, r in rs.items()}


def objectives():
    ready, one, base = eight(MODES)
    if not base:
        row("objectives", "the programs themselves", native=str(crew.broken)[:120], ok=False)
        return
    levels = ladder(base * 0.15, 1.12, 31)
    best, sure, bad = {}, {}, {}
    for mode in ("mps", "heddle", "native"):
        if mode not in ready:
            continue

        def holds(level, mode=mode):
            if left() < SECS + 12 or mode in crew.broken:
                return None
            before = coalesce.counters() if mode == "heddle" else {}
            rs = loaded(mode, one, level, SECS)
            if mode == "heddle":
                coalesce.decided("objectives", f"at {level:.0f}/s", before, coalesce.counters())
            t = wrong(rs.values())
            if t:
                bad[mode] = t
                return None if mode in crew.broken else False
            got = attainment(rs)
            worst = min(got, key=lambda n: got[n] if got[n] is not None else 0)
            share = got[worst] or 0
            n = len(rs[worst]["latencies"])
            print(f"# {mode} at {level:.0f}/s: the worst, {worst}, meets its objective in {share:.4f} of {n}", flush=True)
            return share >= 0.99

        best[mode], sure[mode] = highest(levels, holds)
        print(f"# {mode}: {fmt(best[mode])} requests/s{'' if sure[mode] else ', search not finished'}", flush=True)
    say = lambda m: bad.get(m) or crew.broken.get(m) or (best.get(m) if sure.get(m) or not best.get(m) else f"≥ {best[m]:.0f}")
    ratio = div(best.get("heddle"), best.get("mps"))
    row(
        "objectives",
        f"8 × {one}, objectives 5, 10, 20, 50 ms: highest load (requests/s in all) at which each client meets its own in 99 %",
        sliced=say("native"),
        mps=say("mps"),
        heddle=say("heddle"),
        ratio=ratio,
        target="≥ 1.3 × MPS",
        ok=bool(ratio and ratio >= 1.3 and not bad.get("heddle")),
    )


def straggler():
    """The eighth client's requests come as often as the others'; with ten times the data their kernels take ten times as long."""
    last = EIGHT[-1]
    long = crew.spec(MODEL[0], 10 * int(MODEL[1]))
    ready, one, base = eight(MODES, [(last, long)])
    if not base:
        row("straggler", "the programs themselves", native=str(crew.broken)[:120], ok=False)
        return
    crew.policy({c: {"latency_p99": "20ms", "priority": 50, "straggler": STRAGGLER} for c in OBJECTIVES})
    crew.in_force("tight", "20ms")
    total = base * 0.035 * 8  # so that with the straggler some 0.6 of one client's best rate is asked for
    ratios, shown = {}, {}
    for mode in ready:
        t = {"without": [], "with": []}
        p50 = {"without": [], "with": []}
        for seed in range(1, PAIRS + 1):
            for which in ("without", "with"):
                if left() < SECS + 8 or mode in crew.broken:
                    continue
                jobs = {
                    n: dict(what=long if n == last and which == "with" else one, rate=total / 8, seed=seed * 100 + i)
                    for i, n in enumerate(EIGHT)
                }
                before = coalesce.counters() if mode == "heddle" else {}
                rs = crew.serve(mode, jobs, SECS)
                if mode == "heddle":
                    coalesce.decided("straggler", which, before, coalesce.counters())
                if wrong(rs.values()):
                    crew.broken.setdefault(mode, wrong(rs.values()))
                rest = [x for n, r in rs.items() if n != last for x in r.get("latencies") or []]
                t[which].append(ms(quantile(rest, 0.99)))
                p50[which].append(ms(quantile(rest, 0.5)))
        ratios[mode] = median([div(b, a) for a, b in zip(t["without"], t["with"])])
        a, b = median(t["without"]), median(t["with"])
        shown[mode] = crew.broken.get(mode) or (f"{a:.2f} → {b:.2f} (× {ratios[mode]:.2f})" if a and b else None)
        print(f"# {mode}: p50 of the others {fmt(median(p50['without']))} → {fmt(median(p50['with']))} ms", flush=True)
        if mode == "heddle" and mode not in crew.broken:
            company(f'straggler = "{STRAGGLER}"')
    row(
        "straggler",
        f"8 clients, {total:.0f} requests/s in all, one with 10 × longer kernels: p99 of the others, ms, without → with",
        sliced=shown.get("native"),
        mps=shown.get("mps") or crew.broken.get("mps"),
        heddle=shown.get("heddle") or crew.broken.get("heddle"),
        ratio=ratios.get("heddle"),
        target="≤ 1.2 × without",
        ok=within(ratios.get("heddle"), 1.2) and "heddle" not in crew.broken,
    )


def company(what):
    """What the executor knows of who slows whom, and how it serves stragglers, at the end of a mode."""
    m = crew.metrics()
    say = lambda name, **labels: fmt(crew.metric(m, name, **labels))
    print(
        f"# {what}: {say('heddle_interference_pairs')} pairs known, {say('heddle_interference_hurting_pairs')} hurting,"
        f" {say('heddle_interference_measurements_total')} measurements, {say('heddle_interference_avoided_total')} times avoided;"
        f" ops that waited for that reason: {say('heddle_op_waits_total', reason='company')};"
        f" stragglers apart {say('heddle_stragglers', step='apart')}, limited {say('heddle_stragglers', step='limited')},"
        f" in their own contexts {say('heddle_stragglers', step='own-context')}",
        flush=True,
    )


def reload():
    """Objectives changed by rewriting the policy's file while the eight serve."""
    _, one, base = eight(("heddle",))
    if not base:
        row("reload", "objectives changed under load", heddle=str(crew.broken)[:120], ok=False)
        return
    before = crew.metrics()
    took, seen, secs = [], [], max(SECS, 3.0)

    def rewrite(start):
        while time.monotonic() < start + 0.5:
            time.sleep(0.01)
        for i in range(8):
            if time.monotonic() > start + secs - 1.2:
                break
            n = 6 + i
            t = crew.policy({c: {"latency_p99": f"{n}ms", "priority": 50} for c in OBJECTIVES})
            at = crew.in_force("loose", f"{n}ms", 2.0)
            took.append(ms(at - t) if at else None)
            if time.monotonic() < start + secs - 1.2:  # the executor's own word for it; scrapes see at most four states a second
                time.sleep(0.26)
                seen.append(crew.metric(crew.metrics(), "heddle_class_objective_seconds", **{"class": "loose"}) == n / 1e3)

    rs = loaded("heddle", one, base * 0.5, secs, 2.0, during=rewrite)
    after = crew.metrics()
    grew = lambda name: (crew.metric(after, name) or 0) - (crew.metric(before, name) or 0)
    reloads, failures = grew("heddle_policy_reloads_total"), grew("heddle_policy_reload_failures_total")
    done = [x for x in took if x is not None]
    worst = max(done, default=None)
    row(
        "reload",
        f"objectives changed under load {len(took)} times: until in force in the executor, ms, median / worst",
        heddle=both(median(done), worst),
        ratio=worst,
        target="≤ 100 ms",
        ok=bool(took) and len(done) == len(took) and within(worst, 100) and all(seen),
    )
    asked, lost, t = (
        sum(len(r.get("latencies") or []) for r in rs.values()),
        sum(r.get("unserved", 0) for r in rs.values()),
        wrong(rs.values()),
    )
    row(
        "reload",
        "requests asked for / lost; wrong or failed; reloads that the daemon counts / failed",
        heddle=f"{asked} / {lost}; {t or 'none'}; {reloads:.0f} / {failures:.0f}",
        target="0 lost",
        ok=bool(asked) and not lost and not t and not failures,
    )


# ---- clients that come and go ----


STEPS = ("start", "load", "allocate", "work")  # of programs/loop.c


class Comers:
    """Eight places at each of which a small client starts, goes so far, and exits, again and again."""

    def __init__(self, mode, step="work"):
        self.mode, self.step, self.ended, self.bad, self.going = mode, step, 0, [], True
        self.threads = [threading.Thread(target=self.place, args=(i,), daemon=True) for i in range(8)]
        [t.start() for t in self.threads]

    def place(self, i):
        time.sleep(i * 0.05)  # in turn
        while self.going and left() > 5:
            r = run(self.mode, [WORK + "/loop", KERNELS, "10", self.step], 20, mps=crew.mps)
            if r["rc"]:
                self.bad.append(r.get("error") or f"rc {r['rc']}")
                break
            self.ended += 1

    def stop(self):
        self.going = False
        [t.join(25) for t in self.threads]


def beside_comers(mode, job, comers, seconds):
    """One client's answer while others come and go, how many do in a second, and what is wrong with those."""
    time.sleep(1)  # they are at it
    before = coalesce.counters() if mode == "heddle" else {}
    n, t = comers.ended, time.monotonic()
    r = crew.serve(mode, job, seconds)[EIGHT[0]]
    rate = (comers.ended - n) / (time.monotonic() - t)
    after = coalesce.counters() if mode == "heddle" else {}
    comers.stop()
    for line in coalesce.held(before, after) if after else []:
        print(f"#   {line}", flush=True)
    return r, rate, "; ".join(sorted(set(comers.bad)))[:90]


def churn():
    ready, one, base = eight(MODES)
    if not base:
        row("churn", "the programs themselves", native=str(crew.broken)[:120], ok=False)
        return
    who = EIGHT[0]
    job = {who: dict(what=one, rate=base / 2)}
    shown, ratios, bad, alone = {}, {}, {}, {}
    for mode in ready:
        if left() < 2 * SECS + 15:
            continue
        quiet = crew.serve(mode, job, SECS)[who]
        print(f"# {mode}:", flush=True)
        before = coalesce.counters() if mode == "heddle" else {}
        busy, rate, wrongs = beside_comers(mode, job, Comers(mode), SECS)
        if mode == "heddle":
            coalesce.decided("churn", "with newcomers", before, coalesce.counters())
        a, b = figures(quiet)[1], figures(busy)[1]
        alone[mode], ratios[mode] = a, div(b, a)
        bad[mode] = wrong([quiet, busy]) or wrongs
        shown[mode] = bad[mode] or (f"{a:.2f} → {b:.2f} ({rate:.0f} clients/s)" if a and b else None)
        print(f"# {mode}: p50 {fmt(figures(quiet)[0])} → {fmt(figures(busy)[0])} ms, p99 {shown[mode]}", flush=True)
    row(
        "churn",
        f"8 clients that start, load code, allocate and exit in turn beside {one} at {base / 2:.0f}/s: its p99, ms, without → with",
        sliced=shown.get("native"),
        mps=shown.get("mps") or crew.broken.get("mps"),
        heddle=shown.get("heddle") or crew.broken.get("heddle"),
        ratio=ratios.get("heddle"),
        target="≤ 1.2 × without",
        ok=within(ratios.get("heddle"), 1.2) and not bad.get("heddle"),
    )
    if "heddle" in ready:
        churn_steps(job, one, min(SECS, 3.0), alone.get("heddle"))


def churn_steps(job, one, seconds, alone):
    """Which step of a newcomer costs: those that go only so far, beside one client under Heddle; natively, which costs what their own
    contexts do to the GPU, and under Heddle, which adds what the executor does for them."""
    for step in STEPS:
        got = {}
        for comers in ("native", "heddle"):
            if left() < seconds + 10 or "heddle" in crew.broken:
                continue
            print(f"# newcomers go as far as {step}, {comers}:", flush=True)
            r, rate, wrongs = beside_comers("heddle", job, Comers(comers, step), seconds)
            p50, p99 = figures(r)
            got[comers] = wrong([r]) or wrongs or f"{both(p50, p99)} ({rate:.0f} clients/s)"
        row(
            "churn",
            f"newcomers go as far as {step}: p50 / p99 of {one} under Heddle (p99 without {fmt(alone)}), ms; newcomers natively, under Heddle",
            native=got.get("native"),
            heddle=got.get("heddle"),
        )


# ---- what an admin sees ----


def eyes():
    """Scrapes and a recording while the eight serve, and what the executor costs meanwhile."""
    _, one, base = eight(("heddle",))
    if not base:
        row("eyes", "metrics under load", heddle=str(crew.broken)[:120], ok=False)
        return
    got = {"scrapes": [], "answers": 0}
    trace = os.path.join(OUT or WORK, "gpu-test.pftrace")

    def look(start):
        time.sleep(max(0, start + 0.2 - time.monotonic()))
        pids = ours("daemon") + executors()
        c0, t0, counters0 = {p: cpu_seconds(p) for p in pids}, time.monotonic(), coalesce.counters()
        first = crew.metrics()
        for _ in range(10):
            t = time.monotonic()
            m = crew.metrics()
            got["scrapes"].append(ms(time.monotonic() - t))
            got["answers"] += bool(crew.metric(m, "heddle_executor_answers"))
            time.sleep(0.05)
        got["cpu"] = {p: (cpu_seconds(p) - c0[p]) / (time.monotonic() - t0) * 100 for p in pids}
        got["used"] = coalesce.used(counters0, coalesce.counters())
        time.sleep(0.3)
        last = crew.metrics()
        got["series"] = len(last)
        got["requests"] = (crew.metric(last, "heddle_requests_total") or 0) - (crew.metric(first, "heddle_requests_total") or 0)
        t = time.monotonic()
        ask = lambda *cmd: subprocess.run([HEDDLE, *cmd], env=base_env(), capture_output=True, text=True, timeout=30, check=False)
        r = ask("record", "-o", trace, "--seconds", "1", "--json")
        got["record"] = dict(
            reply(r.stdout.replace("\n", " ").strip()), rc=r.returncode, took=time.monotonic() - t, told=r.stderr[-150:]
        )
        for what, cmd in (("top", ["top", "--once", "--json"]), ("explain", ["explain", "--seconds", "0", "--json", EXPLAINED])):
            r = ask(*cmd)
            got[what] = f"rc {r.returncode}, {len(r.stdout)} bytes" + (f": {r.stderr.strip()[-60:]}" if r.returncode else "")

    EXPLAINED = str(next((c.get("id") for c in ps().get("clients") or []), 1))
    rs = loaded("heddle", one, base * 0.5, max(SECS, 6.0), 2.0, during=look)
    t = wrong(rs.values())
    row(
        "eyes",
        f"a scrape under load, ms, median / worst of 10; {got.get('series')} series; requests counted meanwhile",
        heddle=f"{both(median(got['scrapes']), max(got['scrapes'], default=None))}; {got.get('requests', 0):.0f}{'; ' + t if t else ''}",
        target="it answers",
        ok=got["answers"] == 10 and got.get("requests", 0) > 0 and not t,
    )
    r = got.get("record") or {}
    size = os.path.getsize(trace) if os.path.exists(trace) else 0
    row(
        "eyes",
        "heddle record of 1 s: events, dropped, ops, words; bytes; took s",
        heddle=", ".join(str(r.get(k)) for k in ("events", "dropped", "ops", "words"))
        + f"; {size}; {r.get('took', 0):.1f} {'' if r.get('rc') == 0 else r.get('told')}",
        target="not empty",
        ok=r.get("rc") in (0, 4) and bool(r.get("ops")) and size > 0,
    )
    row(
        "eyes",
        "heddle top, heddle explain",
        heddle=f"{got.get('top')}; {got.get('explain')}",
        ok="rc 0" in str(got.get("top")) and "rc 0" in str(got.get("explain")),
    )
    u = got.get("used") or {}
    row(
        "eyes",
        f"8 × {one} at {base * 0.5:.0f}/s: scheduler and executor time per op, µs; driver calls; CPU of daemon + executor, % of a core",
        heddle=f"{fmt(u.get('poller_us'))}; {fmt(u.get('driver_us'))}; {sum((got.get('cpu') or {}).values()):.0f}",
        target="≤ 1 µs",
        ok=within(u.get("poller_us"), 1.0),
    )
