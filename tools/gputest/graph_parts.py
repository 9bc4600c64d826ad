"""Issue 6's table: CUDA graphs of many processes, eager processes at the launch rate's limit, frameworks as they are (crew.py)."""

import json
import os

import coalesce
import crew
from harness import *
from loads import median

PAIRS = int(os.environ.get("GT_PAIRS", "1"))
MODELS = ("resnet50", "bert")
EIGHT = [f"plain-{i}" for i in range(8)]
MODES = ("native", "mps", "heddle")

at_least = lambda ratio, least: bool(ratio and ratio >= least)
tails = lambda r: f"{r['p50']} / {r['p99']}" if r and r.get("p50") else None


def told(mode, r):
    """What stands for a mode in a row: its rate, or why there is none."""
    return (r or {}).get("wrong") or (r or {}).get("rate") or crew.broken.get(mode)


def crowd(part, what, spec, names, modes, seconds):
    """All clients of each mode in turn, as fast as they can; mode -> what crew.together gives, and what the executor did meanwhile."""
    got, used = {}, {}
    for mode in modes:
        if mode in crew.broken or left() < seconds + 10:
            continue
        before = coalesce.counters() if mode == "heddle" else {}
        got[mode] = crew.together(mode, spec, names, seconds)
        if mode == "heddle":
            after = coalesce.counters()
            used = coalesce.used(before, after)
            used["issue_busy"] = coalesce.grown(before.get("issue_busy_seconds"), after.get("issue_busy_seconds"))
            log(
                f"{part}: {what}: "
                + json.dumps({k: after.get(k) for k in ("prepared", "graphs", "coalescing", "issue_busy_seconds")})
            )
        print(f"# {part}: {what}, {mode}: {fmt(told(mode, got[mode]))}; p50 / p99 ms: {tails(got[mode])}", flush=True)
    return got, used


def against(part, what, got, over=(), ceiling=None, ceiling_name="", least=None):
    """Rows of one measurement: over is (mode, how many times its rate is promised)."""
    rate = {m: r.get("rate") for m, r in got.items()}
    for mode, times in over:
        ratio = div(rate.get("heddle"), rate.get(mode))
        row(
            part,
            f"{what}, requests/s against {'time-sliced' if mode == 'native' else 'MPS'}",
            sliced=told("native", got.get("native")),
            mps=told("mps", got.get("mps")),
            heddle=told("heddle", got.get("heddle")),
            ratio=ratio,
            target=f"≥ {times} ×" if times else "reported",
            ok=at_least(ratio, times) if times else None,
        )
    if ceiling_name:
        ratio = div(rate.get("heddle"), ceiling)
        row(
            part,
            f"{what}: share of the ceiling ({ceiling_name})",
            native=ceiling,
            heddle=rate.get("heddle"),
            ratio=ratio,
            target=f"≥ {least} × the ceiling",
            ok=at_least(ratio, least),
        )
    row(part, f"{what}: p50 / p99 ms", None, *[tails(got.get(m)) for m in MODES])


def digests(part, what, spec, names):
    """Rows that compare what the clients computed at the beginning: equal seeds, so equal outputs."""
    native = {crew.staff["native", n].built.get(spec) for n in names if ("native", n) in crew.staff}
    heddle = [crew.staff["heddle", n].built.get(spec) for n in names if ("heddle", n) in crew.staff]
    equal = sum(d in native for d in heddle)
    row(
        part,
        f"{what}: outputs",
        native="all equal" if len(native) == 1 else f"{len(native)} different",
        heddle=f"{equal} of {len(heddle)} equal",
        target="equal bit for bit",
        ok=len(native) == 1 and None not in native and equal == len(heddle) > 0,
    )


def costs(part, what, used, most=None):
    """What a kernel costs the executor. Issue 6 bounds it for joined graphs and for learned sequences: the shares say what these were."""
    v = used.get("kernel_us")
    names = (("in_graphs", "in graphs"), ("joined", "in joined graphs"), ("prepared", "prepared"), ("share", "coalesced"))
    shares = ", ".join(f"{fmt(used.get(k))} {name}" for k, name in names)
    if used.get("chains"):
        coalesce.together(what, part, used)
    row(
        part,
        f"{what}: executor's time for a kernel, poller and driver calls, µs (shares)",
        heddle=f"{fmt(v)} ({shares})",
        target=f"≤ {most} µs" if most else "reported",
        ok=bool(v and v <= most) if most else None,
    )


def apart(part, what, used):
    """Why graphs went by themselves, and how busy each issue thread was."""
    busy = ", ".join(f"{v:.2f}" for v in used.get("issue_busy") or [])
    row(
        part,
        f"{what}: why graphs went apart; busy seconds of each issue thread",
        heddle=f"{used.get('graphs_apart') or 'none'}; {busy or '-'}",
        target="reported",
    )


def reasons(part, what, used):
    """Why ops went in no prepared run, as shares of all ops, the largest first; and what the runs were like."""
    why = sorted((used.get("plain") or {}).items(), key=lambda x: -x[1])
    row(
        part,
        f"{what}: ops in no prepared run, by why",
        heddle=", ".join(f"{fmt(v)} {k}" for k, v in why if v) or None,
        target="reported",
    )
    runs = ", ".join(
        f"{fmt(used.get(k))} {name}"
        for k, name in (("run_length", "ops each"), ("changed", "changed"), ("awaited", "waited for"), ("in_vain", "in vain"))
    )
    row(part, f"{what}: prepared runs", heddle=runs, target="reported")


def plain(modes, names, specs, limit=120, extra=None):
    """Clients of the default class."""
    crew.policy(None)
    return crew.hire(modes, {n: specs for n in names}, limit, extra)


def graph1():
    """One process alone with graphs, native and Heddle in turn."""
    specs = {m: crew.spec(m, 1, "graph") for m in MODELS}
    plain(("native", "heddle"), ["plain-0"], list(specs.values()))
    for m, s in specs.items():
        rates = {"native": [], "heddle": []}
        last = {}
        for _ in range(max(PAIRS, 3)):  # in turn: machines drift
            for mode, seen in rates.items():
                if mode not in crew.broken and left() > SECS + 5:
                    last[mode] = crew.together(mode, s, ["plain-0"], min(SECS, 3.0))
                    seen.append(last[mode]["rate"])
        ratio = median([div(h, a) for h, a in zip(rates["heddle"], rates["native"])])
        row(
            "graph1",
            f"{m} as a CUDA graph, one process, requests/s",
            native=median(rates["native"]),
            heddle=median(rates["heddle"]) or told("heddle", last.get("heddle")),
            ratio=ratio,
            target="≥ 0.99 × native",
            ok=at_least(ratio, 0.99),
        )
        row("graph1", f"{m} as a CUDA graph: p50 / p99 ms", tails(last.get("native")), heddle=tails(last.get("heddle")))
        digests("graph1", f"{m} as a CUDA graph", s, ["plain-0"])


def graphs8():
    """8 processes with graphs of library kernels; the ceiling is one process with as many graphs on as many streams."""
    specs = {m: crew.spec(m, 1, "graph") for m in MODELS}
    streams = {m: crew.spec(m, 8, "streams") for m in MODELS}
    plain(MODES, EIGHT, list(specs.values()), extra={("native", "ceiling-0"): list(streams.values())})
    for m, sliced, mps in (("resnet50", 3, 1.10), ("bert", 2.4, 1.0)):
        what = f"{m} as CUDA graphs, 8 processes"
        top = crew.work("native", "ceiling-0", streams[m], min(SECS, 3.0))
        got, used = crowd("graphs8", what, specs[m], EIGHT, MODES, SECS)
        against("graphs8", what, got, (("mps", mps), ("native", sliced)), top, "one process, 8 graphs on 8 streams", 0.95)
        digests("graphs8", what, specs[m], EIGHT)
        costs("graphs8", what, used, 0.5)
        apart("graphs8", what, used)


def eager8():
    """8 eager processes; the ceiling is the same with launches dropped."""
    specs = {m: crew.spec(m) for m in MODELS}
    plain((*MODES, "drop"), EIGHT, list(specs.values()))
    for m in MODELS:
        what = f"{m} eager, 8 processes"
        got, used = crowd("eager8", what, specs[m], EIGHT, (*MODES, "drop"), SECS)
        top = got.pop("drop", {})
        # Nothing is computed there, so its results are whatever memory held.
        against("eager8", what, got, (("mps", 1.2), ("native", None)), top.get("all"), "launches dropped", 0.9)
        digests("eager8", what, specs[m], EIGHT)
        costs("eager8", what, used, 1)
        reasons("eager8", what, used)


def many():
    """32 processes: an MLP with graphs; BERT-base with graphs from 16 and from 32."""
    names = [f"plain-{i}" for i in range(32)]
    mlp, bert = crew.spec("mlp", 1, "graph"), crew.spec("bert", 1, "graph")
    plain(MODES, names, [mlp, bert], 180)
    for what, spec, who, over in (
        ("8-layer MLP as CUDA graphs, 32 processes", mlp, names, (("native", 8), ("mps", 1.5))),
        ("bert as CUDA graphs, 16 processes", bert, names[:16], (("mps", None),)),
        ("bert as CUDA graphs, 32 processes", bert, names, (("mps", None),)),
    ):
        got, used = crowd("many", what, spec, who, MODES, SECS)
        against("many", what, got, over)
        digests("many", what, spec, who)
        costs("many", what, used)
        apart("many", what, used)


def decode():
    """A language model of GPT-2's size decodes in 8 processes, one token a request: with CUDA graphs, as servers do, and eager."""
    graph, eager = crew.spec("gpt2", 1, "decodegraph"), crew.spec("gpt2", 1, "decode")
    plain(MODES, EIGHT, [graph, eager])
    for name, spec, over in (("CUDA graphs", graph, 1.3), ("eager", eager, None)):
        what = f"GPT-2's size, decoding, 8 processes, {name} (a request is a token)"
        got, used = crowd("decode", what, spec, EIGHT, MODES, SECS)
        against("decode", what, got, (("mps", over), ("native", None)))
        a, b = (got.get(m, {}).get("p99") for m in ("heddle", "mps"))
        ok = bool(a and b and a <= b) if over else None
        row(
            "decode", f"{what}: p99 of a token, ms", mps=b, heddle=a, ratio=div(a, b), target="≤ MPS" if over else "reported", ok=ok
        )
        digests("decode", what, spec, EIGHT)
        costs("decode", what, used)
        apart("decode", what, used)
