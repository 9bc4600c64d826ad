"""Issue 4's table: small kernels of many processes as one launch (`coalesce`), the corpus; what the executor counted."""

import json
import re
import subprocess

from harness import *

PTX = os.environ.get("GT_PTX", os.path.join(HERE, "..", "..", "jit", "interp", "kernels", "triton"))
ARCH = os.environ.get("GT_PTX_ARCH", "sm_90a")
CORPUS = os.environ.get("GT_CORPUS", os.path.join(HERE, "..", "..", "build", "corpus"))
CROWDS = [int(n) for n in os.environ.get("GT_CROWDS", "8,32,128").split(",")]


def counters():
    """What the one executor has counted (docs/cli.md: executor.Stats); {} when none serves."""
    for e in ps().get("executors") or []:
        if e.get("counters"):
            return e["counters"]
    return {}


def used(before, after):
    """Between two counters(): launches and how they were issued, mean width, the executor's time an op and a kernel in µs."""
    if after.get("pid") != before.get("pid"):
        before = {}  # another executor: it counts from its start
    d = lambda *path: pick(after, path) - pick(before, path)
    n, c = d("launches"), d("coalescing", "ops_coalesced")
    widths = [a - b for a, b in zip(*(pick(x, ("coalescing", "widths")) or [0] * 8 for x in (after, before)))]
    early, late = (pick(x, ("coalescing", "apart")) for x in (before, after))
    apart = {k: v - early.get(k, 0) for k, v in late.items()}
    early, late = (pick(x, ("graphs", "joined", "apart")) for x in (before, after))
    alone = {k: v - early.get(k, 0) for k, v in late.items()}
    early, late = (pick(x, ("prepared", "plain")) for x in (before, after))
    plain = {k: div(v - early.get(k, 0), d("ops")) or 0 for k, v in late.items()}
    busy = lambda x: sum(pick(x, ("issue_busy_seconds",)))
    spent = d("poller_busy_seconds") + busy(after) - busy(before)
    return dict(
        launches=n,
        kernel_us=div(spent * 1e6, n),
        in_graphs=div(d("graphs", "kernels"), n),
        joined=div(d("graphs", "joined", "kernels"), n),
        chains=div(d("graphs", "joined", "launches"), d("graphs", "joined", "words")),
        alike=div(d("graphs", "joined", "coalesced", "kernels"), d("graphs", "joined", "kernels")),
        alike_width=div(d("graphs", "joined", "coalesced", "kernels"), d("graphs", "joined", "coalesced", "nodes")),
        alike_unpaid=d("graphs", "joined", "coalesced", "unpaid"),
        prepared=div(d("prepared", "ops"), n),
        sliced=d("coalescing", "ops_sliced"),
        share=div(c, n),
        width=div(c, sum(widths[1:])),
        poller_us=div(d("poller_busy_seconds") * 1e6, d("ops")),
        driver_us=div((busy(after) - busy(before)) * 1e6, d("ops")),
        plain=plain,
        awaited=d("prepared", "awaited"),
        in_vain=d("prepared", "in_vain"),
        run_length=div(d("prepared", "ops"), d("prepared", "words")),
        changed=div(d("prepared", "changed"), d("prepared", "ops")),
        apart=listed(apart),
        graphs_apart=listed(alone),
    )


def listed(counts):
    """Names and numbers, the largest first."""
    return " ".join(f"{k} {v}" for k, v in sorted(counts.items(), key=lambda x: -x[1]) if v)


def pick(x, path):
    """A number, list or object of the counters, by path; what stands for nothing when it is not there."""
    for k in path:
        x = (x or {}).get(k)
    return (
        x if x is not None else {} if path[-1] in ("apart", "plain") else [] if path[-1] in ("widths", "issue_busy_seconds") else 0
    )


def held(before, after):
    """Between two counters(), in a line each: what the executor's slow driver calls took (beside: while ops were in flight), what
    threads that launch were held up by for more than 2 ms, and how calls waited for a calm moment."""
    if after.get("pid") != before.get("pid"):
        before = {}
    early = lambda key, name: {x[name]: x for x in before.get(key) or []}

    def grew(key, name):
        old = early(key, name)
        for x in after.get(key) or []:
            d = {k: x[k] - old.get(x[name], {}).get(k, 0) for k in ("count", "seconds", "beside_seconds") if k in x}
            if d["count"]:
                yield x[name], d, x["longest_seconds"]

    t = []
    for name, d, longest in sorted(grew("driver", "call"), key=lambda x: -x[1]["seconds"]):
        t.append(
            f"{name} {d['count']} × {d['seconds'] * 1e3:.1f} ms (beside {d['beside_seconds'] * 1e3:.1f}, longest so far {longest * 1e3:.1f})"
        )
    for name, d, longest in grew("stalls", "where"):
        t.append(f"held up {name} {d['count']} × {d['seconds'] * 1e3:.1f} ms (longest so far {longest * 1e3:.1f})")
    c = {k: (after.get("calm") or {}).get(k, 0) - (before.get("calm") or {}).get(k, 0) for k in ("waits", "beside", "seconds")}
    return t + [f"waits for a calm moment {c['waits']}, {c['seconds'] * 1e3:.1f} ms; calls without one {c['beside']}"]


def grown(before, after):
    """after less before, number by number; of other values, and of what was not there before, what is there now."""
    if isinstance(after, dict):
        before = before if isinstance(before, dict) else {}
        return {k: grown(before.get(k), v) for k, v in after.items()}
    if isinstance(after, list) and isinstance(before, list) and len(after) == len(before):
        return [grown(b, a) for b, a in zip(before, after)]
    number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
    return after - before if number(after) and number(before) else after


def decided(part, what, before, after):
    """Logs what Heddle decided between two counters(): for each class how much each of its numbers grew, and who was a straggler."""
    if after.get("pid") != before.get("pid"):
        before = {}
    early = {c["class"]: c for c in before.get("classes") or []}
    for c in after.get("classes") or []:
        old = {k: v for k, v in early.get(c["class"], {}).items() if k != "objective_seconds"}  # no count
        log(f"{part}: {what}: class {json.dumps(grown(old, c))}")
    log(f"{part}: {what}: stragglers {json.dumps(grown(before.get('stragglers'), after.get('stragglers')))}")


def kernels():
    """`heddle kernels --json`: rows of all executors."""
    try:
        out = subprocess.run(
            [HEDDLE, "kernels", "--json"], env=base_env(), capture_output=True, text=True, timeout=20, check=False
        ).stdout
        return [k for e in json.loads(out) for k in e.get("kernels") or []]
    except (*FAILED, ValueError) as e:
        log(f"heddle kernels: {e}")
        return []


def told(r):
    """What is wrong with a run of triton, in a few words; '' when all is right."""
    if not r.get("stream"):
        return r.get("error") or f"rc {r.get('rc')}"
    t = []
    if r.get("failed"):
        t.append(f"{r['failed']} of {r['failed'] + r['clients']} processes failed")
    if r.get("wrong"):
        t.append(f"{r['wrong']} results WRONG")
    return ", ".join(t)


def crowd(mode, n, ref, mps=None, heat=None):
    return run(mode, [WORK + "/triton", PTX, ARCH, "run", ref, str(n), str(SECS)], 60 + 2 * n, heat, mps)


def rate(r, loop):
    """Launches a second of one loop; None when a process failed or a result is wrong."""
    return None if told(r) else r[loop]["rate"]


def shown(r, loop):
    v = (r.get(loop) or {}).get("rate")
    return told(r) + (f" ({v:.0f}/s)" if v else "") if told(r) else v


def tails(r, loop):
    x = r.get(loop) or {}
    return f"{x.get('p50')} / {x.get('p99')}" if x else None


def coalesce():
    ref = WORK + "/triton.reference"
    r = run("native", [WORK + "/triton", PTX, ARCH, "reference", ref, str(max(CROWDS + [8]))], 120)
    if r["rc"]:
        row("coalesce", "reference, natively", native=r.get("error"), ok=False)
        return
    one = run("native", [WORK + "/triton", PTX, ARCH, "streams", "32", str(SECS)], 60)
    row(
        "coalesce",
        "vector add, softmax, layernorm in turn, one process, 32 streams: launches/s",
        native=one.get("rate") or one.get("error"),
    )
    first_compile(ref)
    for n in CROWDS:
        if left() < 20 + 2 * n:
            row("coalesce", f"{n} processes: not run, {LIMIT:.0f} s are spent", ok=False)
            continue
        ts = crowd("native", n, ref)
        mp = with_mps(lambda k, n=n: crowd("mps", n, ref, k))
        before = counters()
        he = crowd("heddle", n, ref)
        after = counters()
        got = used(before, after)
        log(f"coalesce: {n} processes: apart {got['apart']}")
        decided("coalesce", f"{n} processes", before, after)
        t, p, h = (rate(x, "stream") for x in (ts, mp, he))
        row(
            "coalesce",
            f"{n} processes, the three in turn without waiting, launches/s (against time-sliced)",
            sliced=shown(ts, "stream"),
            mps=shown(mp, "stream"),
            heddle=shown(he, "stream"),
            ratio=div(h, t),
            target="≥ 10 × time-sliced",
            ok=bool(div(h, t) and h / t >= 10),
        )
        need = 2 if n < 32 else 5
        reach = mp.get("clients") == n and not told(mp)
        row(
            "coalesce",
            f"{n} processes: the same against MPS",
            mps=shown(mp, "stream"),
            heddle=h,
            ratio=div(h, p),
            target=f"≥ {need} × MPS" if n <= 32 else "reported",
            ok=bool(div(h, p) and h / p >= need) if n <= 32 else None,
        )
        if n == 32:
            v = one.get("rate")
            row(
                "coalesce",
                "32 processes against 32 streams of one process",
                native=v,
                heddle=h,
                ratio=div(h, v),
                target="≥ 8 ×",
                ok=bool(div(h, v) and h / v >= 8),
            )
        row(
            "coalesce",
            f"{n} processes, waiting for each: launches/s",
            None,
            shown(ts, "wait"),
            shown(mp, "wait"),
            shown(he, "wait"),
            div(rate(he, "wait"), rate(mp, "wait")),
        )
        row(
            "coalesce",
            f"{n} processes, waiting for each: p50 / p99 µs",
            None,
            tails(ts, "wait"),
            tails(mp, "wait"),
            tails(he, "wait"),
        )
        g = [rate(x, "gemm") for x in (ts, mp, he)]
        need = {8: 1.0, 32: 1.5}.get(n)
        row(
            "coalesce",
            f"{n} processes, GEMM 128×768×768 fp16, waiting for each: GEMMs/s against MPS",
            None,
            shown(ts, "gemm"),
            shown(mp, "gemm"),
            shown(he, "gemm"),
            div(g[2], g[1]),
            f"≥ {need} × MPS" if need else "reported",
            bool(div(g[2], g[1]) and g[2] / g[1] >= need) if need else None,
        )
        a, b = (x.get("gemm", {}).get("p99") for x in (he, mp))
        row(
            "coalesce",
            f"{n} processes, GEMM: p50 / p99 µs",
            None,
            tails(ts, "gemm"),
            tails(mp, "gemm"),
            tails(he, "gemm"),
            div(a, b),
            "p99 ≤ MPS" if need else "reported",
            bool(a and b and a <= b) if need else None,
        )
        row(
            "coalesce",
            f"{n} processes: every result against the native reference",
            None,
            told(ts) or "equal",
            told(mp) or "equal" if reach else told(mp),
            told(he) or "equal",
            None,
            "equal",
            not told(he),
        )
        share(f"{n} processes", "coalesce", got)


def share(what, part, got):
    c = got["share"]
    row(
        part,
        f"{what}: share of {got['launches']} launches coalesced, mean width",
        heddle=f"{c:.4f}, {got['width']:.1f}; apart: {got['apart'][:80]}" if c else f"none; {got['apart'][:80]}",
        target="reported",
    )
    t, d = got["poller_us"], got["driver_us"]
    row(part, f"{what}: scheduler and executor time per op, µs", heddle=t, target="≤ 0.2 µs", ok=bool(t is not None and t <= 0.2))
    row(part, f"{what}: time in driver calls per op, µs", heddle=d, target="reported")


CACHE = WORK + "/cache"  # harness.base_env


def first_compile(ref):
    """Forms are made with an empty cache, then found in it by the next executor."""
    worst = {}
    for label, empty in (("first", True), ("from the cache", False)):
        stop_daemon()
        if empty:
            shutil.rmtree(CACHE, ignore_errors=True)
        r = crowd("heddle", min(8, max(CROWDS)), ref)
        worst[label] = (r.get("wait") or {}).get("worst")
        f = counters().get("forms") or {}
        made = f.get("compiled") if empty else f.get("cache_hits")
        row(
            "coalesce",
            f"forms, {label}: how many of those asked for; s to compile the first, all; to load all",
            heddle=f"{made} of {f['asked']}; {f['first_compile_seconds']:.3f}, {f['compile_seconds']:.3f}; {f['load_seconds']:.3f}"
            if f
            else told(r) or "none",
            target="reported",
        )
        refused = {k["name"]: k["why"] for k in kernels() if k.get("why")}
        if refused:
            row("coalesce", f"kernels without a form, {label}", heddle="; ".join(f"{k}: {v}" for k, v in refused.items())[:200])
    row(
        "coalesce",
        "worst wait for one launch, µs: while forms were compiled / when all came from the cache (no op waits for a compilation)",
        heddle=f"{worst['first']} / {worst['from the cache']}",
        target="0 held up",
    )


def together(what, part, got):
    """How clients' graphs went together."""
    row(
        part,
        f"{what}: graphs in a joined word; share of the kernels in such words; why graphs went by themselves",
        heddle=f"{fmt(got['chains'])}; {fmt(got['joined'])}; {got['graphs_apart']}",
    )
    row(
        part,
        f"{what}: of those kernels, share that was one node with others'; how many in a node; words in which that did not pay",
        heddle=f"{fmt(got['alike'])}; {fmt(got['alike_width'])}; {fmt(got['alike_unpaid'])}",
    )


# ---- the corpus ----


def corpus():
    """Every corpus kernel, coalesced N = 2, 8, 32, against N native launches: programs/coalesced.c judges, one line a kernel."""
    if not os.path.exists(CORPUS + "/manifest.json"):
        row("corpus", f"{CORPUS} holds no corpus: run `make gpu-carry` where Go is, and carry build/corpus", ok=False)
        return
    r = run("native", [WORK + "/coalesced", CORPUS] + os.environ.get("GT_CORPUS_ARGS", "").split(), 420)
    lines = [l for l in r["out"].splitlines() if re.match(r"(ok|BAD|refused) ", l)]
    bad = [l for l in lines if l.startswith("BAD ")]
    for l in bad[:20]:
        row("corpus", l[4:90], heddle=l[90:200], target="equal", ok=False)
    n = sum(l.startswith("ok ") for l in lines)
    row(
        "corpus",
        "corpus kernels coalesced N = 2, 8, 32, against N native launches",
        native=str(len(lines)),
        heddle=f"{n} equal, {len(bad)} not, {len(lines) - n - len(bad)} refused",
        target="equal",
        ok=n > 0 and not bad and r["rc"] == 0,
    )
