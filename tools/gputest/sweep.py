"""The executor's settings, one after the other, on eight processes that launch small kernels without waiting, and waiting for each (`sweep`)."""

from coalesce import *
from loads import settings

# What the simulator leaves open (docs/results.md, "Joining"). Each is tried with an executor of its own.
DEFAULT = (
    "-; HEDDLE_GATHER=5us; HEDDLE_GATHER=20us; HEDDLE_AHEAD=30us; HEDDLE_AHEAD=60us; HEDDLE_AHEAD=200us;"
    " HEDDLE_ISSUE_THREADS=1; HEDDLE_ISSUE_THREADS=2; HEDDLE_SPILL=1; HEDDLE_SPILL=2; HEDDLE_SPILL=5; HEDDLE_PREPARED=0"
)
EACH = float(os.environ.get("GT_SWEEP_SECONDS", "0.8"))  # of each of the program's three loops


def sweep():
    n = int(os.environ.get("GT_SWEEP_CLIENTS", "8"))
    todo = settings(os.environ.get("GT_SWEEP", DEFAULT))
    ref = WORK + "/triton.reference"
    cmd = lambda *last: [WORK + "/triton", PTX, ARCH, *last]
    r = run("native", cmd("reference", ref, str(max(CROWDS + [n]))), 120)
    if r["rc"]:
        row("sweep", "reference, natively", native=r.get("error"), ok=False)
        return
    go = lambda mode, env=None, k=None: run(mode, cmd("run", ref, str(n), str(EACH)), 30 + 2 * n + 3 * EACH, env, k)
    mp = with_mps(lambda k: go("mps", k=k))
    stop_daemon()
    go("heddle")  # compiles the forms: all the others find them in the cache
    table = []
    for name, env in todo:
        if left() < 15 + 3 * EACH:
            row("sweep", f"{name}: not run, {LIMIT:.0f} s are spent", ok=False)
            continue
        stop_daemon()
        he = go("heddle", env)
        got = used({}, counters())  # all that this executor counted
        table.append((name, he, got))
        row(
            "sweep",
            f"{n} processes, {name}: launches/s without waiting, against MPS",
            mps=shown(mp, "stream"),
            heddle=shown(he, "stream"),
            ratio=div(rate(he, "stream"), rate(mp, "stream")),
            target="equal results",
            ok=not told(he),
        )
    stop_daemon()
    line = lambda *cells: print("| " + " | ".join(cells) + " |", flush=True)
    print()
    line(
        "setting",
        "stream, M/s",
        "wait, k/s",
        "p50 / p99 µs",
        "GEMM, k/s",
        "p50 / p99 µs",
        "width",
        "joined",
        "poller, driver µs an op",
    )
    line(*["---"] * 9)
    for name, r, got in [("MPS", mp, None)] + table:
        k = lambda loop, by, r=r: f"{r[loop]['rate'] / by:.3g}" if (r.get(loop) or {}).get("rate") else told(r) or "-"
        two = (fmt(got["width"]), fmt(got["share"]), f"{fmt(got['poller_us'])}, {fmt(got['driver_us'])}") if got else ("-",) * 3
        line(name, k("stream", 1e6), k("wait", 1e3), tails(r, "wait") or "-", k("gemm", 1e3), tails(r, "gemm") or "-", *two)
