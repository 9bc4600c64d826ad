# serve: R closed-loop batch-1 fp16 inference processes of one model. usage: serve.py MODEL R SECONDS [graph]. Prints one line of JSON.
import json
import os
import sys
import time

START = float(os.environ.get("GT_START", time.time()))


def build(model, batch=1):
    import torch

    torch.manual_seed(0)
    if model == "mlp":
        with torch.device("cuda"):
            m = torch.nn.Sequential(*[l for _ in range(8) for l in (torch.nn.Linear(1024, 1024), torch.nn.ReLU())]).eval().half()
        x = torch.randn(batch, 1024).half().pin_memory()
    elif model.startswith("resnet"):
        import torchvision

        with torch.device("cuda"):  # weights are made on the GPU: half the start-up
            m = getattr(torchvision.models, model)().eval().half()
        x = torch.randn(batch, 3, 224, 224).half().pin_memory()
    else:
        from transformers import BertConfig, BertModel

        with torch.device("cuda"):
            m = BertModel(BertConfig()).eval().half()
        x = torch.randint(0, 30000, (batch, 128)).pin_memory()
    return m, x


def worker(i, model, secs, bar, q, graph):
    import torch

    torch.set_num_threads(1)
    out = lambda y: y if torch.is_tensor(y) else y.last_hidden_state[:, 0]
    try:
        with torch.inference_mode():
            m, x = build(model)
            f = lambda: out(m(x.cuda(non_blocking=True))).cpu()
            want = f()
            first = time.time() - START
            for _ in range(9):
                f()
            if graph:
                xs = x.cuda()
                s = torch.cuda.Stream()
                s.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(s):
                    for _ in range(3):
                        out(m(xs))
                torch.cuda.current_stream().wait_stream(s)
                g = torch.cuda.CUDAGraph()
                with torch.cuda.graph(g):
                    ys = out(m(xs))

                def f():
                    xs.copy_(x, non_blocking=True)
                    g.replay()
                    return ys.cpu()

                want = f()
                [f() for _ in range(4)]
            torch.cuda.synchronize()
            if bar:
                bar.wait(120)
            L = []
            t0 = time.perf_counter()
            while time.perf_counter() - t0 < secs:
                a = time.perf_counter()
                y = f()
                L.append(time.perf_counter() - a)
            rate = len(L) / (time.perf_counter() - t0)
            q.put((rate, sorted(L), first, bool(torch.equal(y, want)), ""))
    except Exception as e:  # noqa: BLE001 - whatever it is, it is told to the parent
        if bar:
            bar.abort()
        q.put((0.0, [], 0.0, False, f"{type(e).__name__}: {e}"[:200]))


if __name__ == "__main__":
    model, R, secs, graph = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), "graph" in sys.argv[4:]
    if R == 1:
        import queue

        q = queue.Queue()
        worker(0, model, secs, None, q, graph)
        rs = [q.get()]
    else:
        import multiprocessing as mp  # spawn: every worker is a process that opens CUDA by itself

        mp.set_start_method("spawn")
        bar = mp.Barrier(R)
        q = mp.Queue()
        ps = [mp.Process(target=worker, args=(i, model, secs, bar, q, graph)) for i in range(R)]
        [p.start() for p in ps]
        rs = [q.get(timeout=150) for _ in ps]
        [p.join(20) for p in ps]
    al = sorted(l for r in rs for l in r[1])
    n = len(al)
    print(
        json.dumps(
            {
                "rate": round(sum(r[0] for r in rs), 1),
                "p50": round(al[n // 2] * 1e3, 3) if n else None,
                "p99": round(al[n * 99 // 100] * 1e3, 3) if n else None,
                "first": round(max(r[2] for r in rs), 2),
                "same": all(r[3] for r in rs),
                "errors": sorted({r[4] for r in rs if r[4]}),
            }
        ),
        flush=True,
    )
