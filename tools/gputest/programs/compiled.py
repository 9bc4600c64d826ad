# compiled: R closed-loop batch-1 fp16 inference processes of a torch.compile'd model: GEMMs and convolutions by Triton's
# templates, which inductor tunes, without CUDA graphs or with them. usage: compiled.py bert|resnet50|deep R SECONDS
# REFERENCE.npz [graph]. With R = 1 it writes the reference: the outputs for the inputs of eight clients, and which kernels gave
# them. With more, the processes say that they are ready ({"state": "ready", "pids": […]}) and go on working until a line comes
# on standard input or its end; then they measure, say {"state": "measured"}, and the last line of JSON is the result: of each
# process whether it launches the reference's kernels, and where its outputs differ from it. A third model, deep, is 128 small
# layers: very many kernels of some µs. $GT_TEMPLATES: how many configurations of a template are tried for each GEMM and
# convolution, `all` for all.
import glob
import hashlib
import json
import math
import os
import sys
import threading
import time

START = float(os.environ.get("GT_START", time.time()))
CLIENTS = 8
TEMPLATES = os.environ.get("GT_TEMPLATES", "4")
CHECKED = 16  # every so many outputs one is compared
GONE = 150  # seconds after which a process that says nothing is given up


speaks = True  # one process does for all


def say(what):
    if speaks:
        print(f"compiled: {what}", flush=True)


def options(graphs):
    """What torch.compile is told. Every process must launch the same kernels, else sums are added up in another order: so only
    GEMMs and convolutions are tuned by time, whose choice the first process leaves in inductor's cache of graphs. The mode
    max-autotune also has each process tune reductions anew (coordinate descent from a kernel's one configuration is not found)."""
    want = {
        "max_autotune_gemm": True,
        "max_autotune": False,  # would tune reductions and pointwise kernels too
        "max_autotune_pointwise": False,
        "coordinate_descent_tuning": False,
        "triton.autotune_pointwise": False,
        "test_configs.force_filter_reduction_configs": True,  # one configuration for a reduction, by rule
        "dynamic_scale_rblock": False,  # adds another, to be tuned
        "max_autotune_gemm_backends": "TRITON",
        "max_autotune_conv_backends": "TRITON",
        "fx_graph_cache": True,
        "autotune_local_cache": True,
        "autotune_num_choices_displayed": 1,
        "triton.cudagraphs": graphs,
    }
    if TEMPLATES != "all":
        want["test_configs.max_mm_configs"] = max(1, int(TEMPLATES))
    import torch._inductor as inductor

    known = set(inductor.list_options())
    for k in sorted(set(want) - known):
        say(f"this inductor has no option {k}: left out")
    return {k: v for k, v in want.items() if k in known}


def prefer_likely_templates():
    """Of few configurations the first ones are tried: those near to what an H200 chose for BERT-base and ResNet-50 come first."""
    try:
        from torch._inductor.template_heuristics.triton import BaseConfigHeuristic as Heuristic

        finalize = Heuristic._finalize_mm_configs
    except (ImportError, AttributeError) as e:
        say(f"templates are tried in inductor's own order: {e}")
        return
    away = lambda c: sum(abs(math.log2(b / w)) for b, w in ((c.block_m, 64), (c.block_n, 64), (c.block_k, 128)))
    Heuristic._finalize_mm_configs = lambda self, configs: finalize(self, sorted(configs, key=away))


def build(model, graphs):
    import torch

    # Inductor's compiling processes take PyTorch's assembler, its main process Triton's: what they compiled was not found,
    # and compiled again.
    assembler = os.path.join(os.path.dirname(torch.__file__), "bin", "ptxas")
    if os.access(assembler, os.X_OK):
        os.environ.setdefault("TRITON_PTXAS_PATH", assembler)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if model == "resnet50":
        import torchvision

        with torch.device("cuda"):
            m = torchvision.models.resnet50().eval().half().to(memory_format=torch.channels_last)
        make = lambda g: torch.randn(1, 3, 224, 224, generator=g).half().contiguous(memory_format=torch.channels_last).pin_memory()
        out = lambda y: y
    elif model == "deep":

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.linear, self.norm = torch.nn.Linear(256, 256), torch.nn.LayerNorm(256)

            def forward(self, x):  # the norm keeps numbers finite, the sum keeps outputs of different inputs different
                return self.norm(x + torch.nn.functional.gelu(self.linear(x)))

        with torch.device("cuda"):
            m = torch.nn.Sequential(*[Layer() for _ in range(128)]).eval().half()
        make = lambda g: torch.randn(16, 256, generator=g).half().pin_memory()
        out = lambda y: y
    else:
        from transformers import BertConfig, BertModel

        with torch.device("cuda"):
            m = BertModel(BertConfig()).eval().half()
        make = lambda g: torch.randint(0, 30000, (1, 128), generator=g).pin_memory()
        out = lambda y: y.last_hidden_state
    if TEMPLATES != "all":
        prefer_likely_templates()
    c = torch.compile(m, options=options(graphs))
    inputs = [make(torch.Generator().manual_seed(i + 1)) for i in range(CLIENTS)]
    return lambda i: out(c(inputs[i].cuda(non_blocking=True))).cpu(), torch


def launched(f):
    """f(), and the Triton kernels that inductor launched meanwhile: name, configuration, digest of the PTX; sorted, each once.
    With CUDA graphs a call launches while it is recorded, which is a process's second call for an input's shape."""
    try:
        from torch._inductor.runtime.triton_heuristics import CachingAutotuner as Kernel

        run = Kernel.run
    except (ImportError, AttributeError) as e:
        say(f"kernels are not known: {e}")
        return f(), None
    used = []

    def seen(self, *args, **kwargs):
        used.append(self)
        return run(self, *args, **kwargs)

    Kernel.run = seen
    try:
        result = f()
    finally:
        Kernel.run = run
    try:
        return result, sorted({described(k) for k in used}) or None
    except (AttributeError, OSError, TypeError, ValueError) as e:
        say(f"kernels are not known: {e}")
        return result, None


def described(kernel):
    (launcher,) = kernel.launchers
    c = launcher.config
    name = kernel.inductor_meta.get("kernel_name") or kernel.fn.__name__
    parts = [f"{k}={v}" for k, v in sorted(c.kwargs.items())] + [f"warps={c.num_warps}", f"stages={c.num_stages}"]
    text = hashlib.sha256()
    for path in sorted(glob.glob(os.path.join(os.environ.get("TRITON_CACHE_DIR", ""), launcher.cache_hash, "*.ptx"))):
        with open(path, "rb") as f:
            for line in f:
                word = line.split(None, 1)[:1]
                if word == [b".section"]:
                    break  # what follows is for debuggers: it names the file, as do .loc and .file
                if word not in ([b".loc"], [b".file"], [b".version"]):
                    text.update(line)
    return " ".join([name, *parts, text.hexdigest()[:12]])


def launches(f, torch):
    """How many kernels one request launches, and how many of them are Triton's. Native only: a profiler sees its own process."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as p:
        f(0)
    names = [e.name for e in p.events() if e.device_type == torch.autograd.DeviceType.CUDA and not e.name.startswith("Mem")]
    return len(names), sum(n.startswith("triton_") for n in names)


def found(torch):
    """Whether inductor found what an earlier process compiled: its counters of cached graphs."""
    counters = getattr(getattr(getattr(torch, "_dynamo", None), "utils", None), "counters", {})
    return {
        k: n
        for part in ("inductor", "aot_autograd")
        for k, n in counters.get(part, {}).items()
        if "cache" in k and "async" not in k
    }


class Compared:
    """Outputs against the reference, and against the process's own first one."""

    def __init__(self, want, first):
        self.want, self.own, self.checked, self.differ, self.at, self.changes, self.far = want, first, 0, 0, None, 0, 0.0

    def equal(self, got):
        if got.tobytes() == self.want.tobytes():
            return True
        self.far = max(self.far, float(abs(got.astype(float) - self.want.astype(float)).max()))
        return False

    def look(self, got, number):
        self.checked += 1
        self.changes += got.tobytes() != self.own.tobytes()
        if not self.equal(got):
            self.differ += 1
            self.at = number if self.at is None else self.at


def worker(i, model, secs, reference, graphs, stage, q):
    global speaks
    bar, go = stage
    speaks = i == 0
    me = {"client": i, "error": "", "latencies": []}
    try:
        import numpy as np

        f, torch = build(model, graphs)
        with torch.inference_mode():
            first = f(i).numpy()
            me["first_s"] = round(time.time() - START, 2)
            got, kernels = launched(lambda: f(i))
            for _ in range(8):
                got = f(i)
            torch.cuda.synchronize()
            ref = np.load(reference)
            c = Compared(ref[f"client{i}"], first)
            me["first"], me["warm"] = c.equal(first), c.equal(got.numpy())
            mine, theirs = set(kernels or ()), set(json.loads(str(ref["kernels"])) or ())
            me["kernels"] = bool(mine) and mine == theirs  # not known: not known to be the same
            me["others"] = sorted(mine - theirs)[:4]
            me["digest"] = hashlib.sha256(json.dumps(kernels).encode()).hexdigest()[:12] if kernels else ""
            me["found"] = found(torch)
            bar.wait(GONE)
            while not go.is_set():
                f(i)
            bar.wait(GONE)
            L = me["latencies"]
            cpu, t0 = time.process_time(), time.perf_counter()
            while time.perf_counter() - t0 < secs:
                a = time.perf_counter()
                got = f(i)
                L.append(time.perf_counter() - a)
                if len(L) % CHECKED == 0:
                    c.look(got.numpy(), len(L))
            me["rate"] = len(L) / (time.perf_counter() - t0)
            me["cpu"] = round(time.process_time() - cpu, 2)
            bar.wait(GONE)
            c.look(got.numpy(), len(L))
            me.update(checked=c.checked, differ=c.differ, at=c.at, changes=c.changes, far=c.far)
    except Exception as e:  # noqa: BLE001 - whatever it is, it is told to the parent
        bar.abort()
        me["error"] = f"{type(e).__name__}: {e}"[:200]
    q.put(me)


def alone(model, secs, reference, graphs):
    """One process, which writes the reference."""
    import numpy as np

    f, torch = build(model, graphs)
    with torch.inference_mode():
        f(0)
        first = time.time() - START
        _, kernels = launched(lambda: f(0))
        for _ in range(8):
            f(0)
        torch.cuda.synchronize()
        L, t0 = [], time.perf_counter()
        while time.perf_counter() - t0 < secs:
            a = time.perf_counter()
            f(0)
            L.append(time.perf_counter() - a)
        rate = len(L) / (time.perf_counter() - t0)
        outs = {f"client{k}": f(k).numpy() for k in range(CLIENTS)}
        np.savez(reference, kernels=np.array(json.dumps(kernels)), **outs)
        unsteady = sum(f(k).numpy().tobytes() != outs[f"client{k}"].tobytes() for k in range(CLIENTS))
        finite = all(np.isfinite(v).all() for v in outs.values())
        all_, triton = launches(f, torch)
    return {
        **summary([{"rate": rate, "latencies": L, "first_s": first}]),
        "same": not unsteady and finite,
        "unsteady": unsteady,  # of the inputs, those whose output differed from call to call
        "kernels": len(kernels or ()),
        "found": found(torch),
        "launches": all_,
        "triton": triton,
    }


def summary(rs):
    al = sorted(l for r in rs for l in r.pop("latencies"))
    n = len(al)
    return {
        "rate": round(sum(r.get("rate", 0) for r in rs), 1),
        "p50": round(al[n // 2] * 1e3, 3) if n else None,
        "p99": round(al[n * 99 // 100] * 1e3, 3) if n else None,
        "first": round(max((r.get("first_s", 0) for r in rs), default=0), 2),
    }


def together(model, R, secs, reference, graphs):
    import multiprocessing as mp  # spawn: every worker is a process that opens CUDA by itself
    from multiprocessing.connection import wait

    mp.set_start_method("spawn")
    bar, go, q = mp.Barrier(R + 1), mp.Event(), mp.Queue()
    ps = [mp.Process(target=worker, args=(i, model, secs, reference, graphs, (bar, go), q), daemon=True) for i in range(R)]
    [p.start() for p in ps]

    def watch():  # one that is killed tells nobody
        while there := [p.sentinel for p in ps if p.is_alive()]:
            wait(there)
            if any(p.exitcode for p in ps):
                bar.abort()

    threading.Thread(target=watch, daemon=True).start()
    try:
        bar.wait(GONE)
        print(json.dumps({"state": "ready", "pids": [p.pid for p in ps]}), flush=True)
        sys.stdin.readline()
        go.set()
        bar.wait(GONE)
        bar.wait(GONE)
        print(json.dumps({"state": "measured"}), flush=True)
    except threading.BrokenBarrierError:
        pass  # the workers know why
    go.set()
    rs, end = [], time.time() + 20
    while len(rs) < R and time.time() < end:
        try:
            rs.append(q.get(timeout=0.2))
        except Exception:  # noqa: BLE001 - queue.Empty, or what a process that was killed left half
            if not any(p.is_alive() for p in ps) and q.empty():
                break
    [p.join(5) for p in ps]
    errors = {r["error"] for r in rs if r["error"]} | {f"a process ended with {p.exitcode}" for p in ps if p.exitcode}
    if len(rs) < R and not errors:
        errors = {f"{R - len(rs)} of {R} processes said nothing"}
    rs.sort(key=lambda r: r["client"])
    return {
        **summary(rs),
        "cpu": round(sum(r.get("cpu", 0) for r in rs), 2),
        "errors": sorted(errors, key=lambda e: "BrokenBarrier" in e),  # that one only says that another failed
        "clients": rs,
    }


if __name__ == "__main__":
    model, R, secs, reference = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    graphs = "graph" in sys.argv[5:]
    print(json.dumps((alone if R == 1 else lambda m, *a: together(m, R, *a))(model, secs, reference, graphs)), flush=True)
