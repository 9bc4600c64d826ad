# load: a client that is told on standard input what to do, a line of JSON each, and answers with a line of JSON. usage: load.py
#   {"do": "build", "what": W}                builds W = MODEL:BATCH:KIND and runs it ten times; answer: seconds, digest of output
#   {"do": "requests", "what": W, "start": T, "seconds": S, "rate": R, "seed": N, "grace": G}
#                                             Poisson requests, latency from arrival (R 0: one after the other); answer: latencies
#   {"do": "steps", "what": W, "start": T}    runs W again and again until the next line comes; answer: steps a second since T
# KIND: eager, graph (input copied in, result copied out); streams (BATCH such graphs of one process on as many streams: for "steps");
# infer, train (data on the GPU); decode, decodegraph (a request is a token; eager, a CUDA graph). MODEL: resnet18, resnet50, bert, mlp,
# gpt2, or api: the driver alone, for machines without PyTorch; api:US:long is two kernels whose blocks take US microseconds each.
# Times are CLOCK_MONOTONIC, in seconds.
import ctypes
import gc
import hashlib
import json
import os
import select
import sys
import time
from pathlib import Path

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
from loads import arrivals

now = time.monotonic
CHECKED = 16  # every so many requests the result is compared with the first


def torch_program(model, batch, kind):
    """(f, same, digest): f() does the work and waits for it."""
    import torch

    torch.set_num_threads(1)
    if kind == "train":
        import torchvision

        torch.manual_seed(0)
        m = torchvision.models.resnet50().cuda()
        x = torch.randn(batch, 3, 224, 224, device="cuda")
        y = torch.randint(0, 1000, (batch,), device="cuda")
        optimizer = torch.optim.SGD(m.parameters(), 0.01)
        loss = torch.nn.CrossEntropyLoss()

        def train():
            with torch.autocast("cuda", dtype=torch.bfloat16):
                l = loss(m(x), y)
            optimizer.zero_grad()
            l.backward()
            optimizer.step()
            torch.cuda.synchronize()

        return train, lambda a, b: True, lambda y: ""
    if kind == "decode":
        return decoder(torch)
    if kind == "decodegraph":
        return graph_decoder(torch)
    from serve import build

    if kind == "streams":
        return side_by_side(torch, [build(model) for _ in range(batch)])
    out = lambda y: y if torch.is_tensor(y) else y.last_hidden_state[:, 0]
    with torch.inference_mode():
        m, x = build(model, batch)
        if kind == "infer":
            xs = x.cuda()

            @torch.inference_mode()
            def f():
                m(xs)
                torch.cuda.synchronize()

            return f, lambda a, b: True, lambda y: ""
        if kind == "graph":
            g, xs, ys = captured(torch, lambda v: out(m(v)), x)

            @torch.inference_mode()
            def f():
                xs.copy_(x, non_blocking=True)
                g.replay()
                return ys.cpu()

            f.keep = m  # a graph does not keep the weights that it reads
        else:

            @torch.inference_mode()
            def f():
                return out(m(x.cuda(non_blocking=True))).cpu()

    return f, torch.equal, lambda y: hashlib.sha256(y.numpy().tobytes()).hexdigest()[:16]


def side_by_side(torch, models):
    """A graph and a stream for each model; f() waits for the next stream that is done, reads its result and starts it again."""
    out = lambda y: y if torch.is_tensor(y) else y.last_hidden_state[:, 0]
    places = []
    with torch.inference_mode():
        for m, x in models:
            g, xs, ys = captured(torch, lambda v, m=m: out(m(v)), x)
            places.append(
                (g, xs, ys, x, torch.empty(ys.shape, dtype=ys.dtype, pin_memory=True), torch.cuda.Stream(), torch.cuda.Event())
            )
    torch.cuda.synchronize()

    @torch.inference_mode()
    def launch(place):
        g, xs, ys, x, host, stream, event = place
        with torch.cuda.stream(stream):
            xs.copy_(x, non_blocking=True)
            g.replay()
            host.copy_(ys, non_blocking=True)
            event.record()

    waiting = []

    def f():
        if not waiting:
            for p in places:
                launch(p)
            waiting.extend(places)
        while True:
            for i, p in enumerate(waiting):
                if p[6].query():
                    y = p[4].clone()
                    waiting.append(waiting.pop(i))
                    launch(p)
                    return y

    f.keep = models  # a graph does not keep the weights that it reads
    return f, torch.equal, lambda y: hashlib.sha256(y.numpy().tobytes()).hexdigest()[:16]


def decoder(torch, prompt=16, tokens=64):
    """A model of GPT-2's size that decodes greedily, one token a call, from the beginning again after so many."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    with torch.device("cuda"):
        m = GPT2LMHeadModel(GPT2Config()).eval().half()
    first = torch.randint(0, 50000, (1, prompt), device="cuda")
    state = {"n": 0, "past": None, "next": first}
    told, differ = {}, []  # step -> token: what a step gave it gives again

    @torch.inference_mode()
    def f():
        if state["n"] == tokens:
            state.update(n=0, past=None, next=first)
        r = m(state["next"], past_key_values=state["past"], use_cache=True)
        y = r.logits[:, -1].argmax(-1, keepdim=True)
        state.update(n=state["n"] + 1, past=r.past_key_values, next=y)
        token = int(y.item())
        if told.setdefault(state["n"], token) != token:
            differ.append(state["n"])
        return token

    return f, lambda a, b: not differ, lambda y: str([told[k] for k in sorted(told)])


def graph_decoder(torch, width=768, heads=12, layers=12, words=50257, context=256, tokens=128):
    """The same as servers do it: a model of GPT-2's size with a cache of fixed size, of which one CUDA graph replay makes one token."""
    F = torch.nn.functional

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
            self.qkv, self.joined = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
            self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
            for name in ("keys", "values"):
                self.register_buffer(name, torch.zeros(1, heads, context, width // heads))

        def forward(self, h, at, seen):
            q, k, v = self.qkv(self.norm1(h)).view(1, 1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            self.keys.index_copy_(2, at, k)
            self.values.index_copy_(2, at, v)
            a = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen)
            h = h + self.joined(a.transpose(1, 2).reshape(1, 1, width))
            return h + self.down(F.gelu(self.up(self.norm2(h)), approximate="tanh"))

    torch.manual_seed(0)
    with torch.inference_mode(), torch.device("cuda"):
        blocks = [Block().eval().half() for _ in range(layers)]
        embed, place = torch.randn(words, width).half() * 0.02, torch.randn(context, width).half() * 0.02
        norm = torch.nn.LayerNorm(width).half()
        every, at, token = torch.arange(context), torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)

        def step(_):
            h = F.embedding(token, embed) + F.embedding(at, place)
            seen = (every <= at).view(1, 1, 1, context)
            for b in blocks:
                h = b(h, at, seen)
            token.copy_(F.linear(norm(h), embed).argmax(-1))
            at.add_(1)

        g, _, _ = captured(torch, step, at)
    state, told, differ = {"n": tokens}, {}, []

    @torch.inference_mode()
    def f():
        if state["n"] == tokens:
            state["n"] = 0
            at.zero_()
            token.zero_()
        g.replay()
        y = int(token.item())
        if told.setdefault(state["n"], y) != y:
            differ.append(state["n"])
        state["n"] += 1
        return y

    f.keep = blocks, embed, place, norm, every  # a graph does not keep what it reads
    return f, lambda a, b: not differ, lambda y: str([told[k] for k in sorted(told)])


def captured(torch, f, x):
    """A CUDA graph of f, with its input and its output on the GPU."""
    xs = x.cuda()
    s = torch.cuda.Stream()
    s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        for _ in range(3):
            f(xs)
    torch.cuda.current_stream().wait_stream(s)
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g, stream=s):  # of its own: graphs that run side by side must not share the libraries' work spaces
        ys = f(xs)
    return g, xs, ys


class Driver:
    """The driver API by ctypes: enough for a copy in, kernels and a copy out."""

    ADDS, WIDTH = 4, 2048
    # Blocks of a long kernel for each SM, ten rounds of them, and threads; few in software.
    LONG = (1, 32) if os.environ.get("GT_STANDIN") else (20, 1024)

    def __init__(self):
        self.lib = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        device, self.context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self.call("cuCtxSetCurrent", self.context)
        module, self.add, self.stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        image = Path(os.environ["GT_KERNELS"]).read_bytes() + b"\0"
        self.call("cuModuleLoadData", ctypes.byref(module), image)
        self.call("cuModuleGetFunction", ctypes.byref(self.add), module, b"add")
        self.linger = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(self.linger), module, b"linger")
        self.call("cuStreamCreate", ctypes.byref(self.stream), 1)

    def call(self, name, *args):
        r = getattr(self.lib, name)(*args)
        if r:
            raise RuntimeError(f"{name}: CUresult {r}")

    def long(self, us):
        sms = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(sms), 16, 0)
        blocks, threads = sms.value * self.LONG[0], self.LONG[1]
        n = blocks * threads
        p, ns, last = ctypes.c_uint64(), ctypes.c_int(us * 1000), ctypes.c_float()
        self.call("cuMemAlloc_v2", ctypes.byref(p), ctypes.c_size_t(4 * n))
        args = (ctypes.c_void_p * 2)(*(ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in (p, ns)))

        def f():
            self.call("cuMemsetD32Async", p, 0, ctypes.c_size_t(n), self.stream)
            for _ in range(2):
                self.call("cuLaunchKernel", self.linger, blocks, 1, 1, threads, 1, 1, 0, self.stream, args, None)
            self.call(
                "cuMemcpyDtoHAsync_v2", ctypes.byref(last), ctypes.c_uint64(p.value + 4 * n - 4), ctypes.c_size_t(4), self.stream
            )
            self.call("cuStreamSynchronize", self.stream)
            if last.value != 2:
                raise RuntimeError(f"two kernels added {last.value}")
            return bytes(last)

        f.keep = (p, ns, args)
        return f, lambda a, b: a == b, lambda y: hashlib.sha256(y).hexdigest()[:16]

    def program(self, batch, kind):
        if kind == "long":
            return self.long(batch)
        n = batch * self.WIDTH
        host = (ctypes.c_float * n)()
        p = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(p), ctypes.c_size_t(4 * n))
        one, count = ctypes.c_float(1), ctypes.c_int(n)
        args = (ctypes.c_void_p * 3)(*(ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in (p, one, count)))
        blocks = (n + 127) // 128

        def launch():
            self.call("cuMemsetD32Async", p, 0, ctypes.c_size_t(n), self.stream)
            for _ in range(self.ADDS):
                self.call("cuLaunchKernel", self.add, blocks, 1, 1, 128, 1, 1, 0, self.stream, args, None)

        submit = launch
        if kind == "graph":
            graph, prepared = ctypes.c_void_p(), ctypes.c_void_p()
            self.call("cuStreamBeginCapture_v2", self.stream, 1)
            launch()
            self.call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
            self.call("cuGraphInstantiateWithFlags", ctypes.byref(prepared), graph, ctypes.c_ulonglong(0))
            submit = lambda: self.call("cuGraphLaunch", prepared, self.stream)

        def f():
            submit()
            self.call("cuMemcpyDtoHAsync_v2", host, p, ctypes.c_size_t(4 * n), self.stream)
            self.call("cuStreamSynchronize", self.stream)
            return bytes(host)

        f.keep = (p, one, count, args)
        return f, lambda a, b: a == b, lambda y: hashlib.sha256(y).hexdigest()[:16]


driver = None


def program(what):
    global driver
    model, batch, kind = what.split(":")
    if model == "api":
        driver = driver or Driver()
        return driver.program(int(batch), kind)
    return torch_program(model, int(batch), kind)


class Lines:
    """Lines of standard input; waiting() tells without blocking whether something came."""

    def __init__(self):
        self.rest = b""

    def waiting(self):
        return b"\n" in self.rest or bool(select.select([0], [], [], 0)[0])

    def next(self):
        while b"\n" not in self.rest:
            b = os.read(0, 65536)
            if not b:
                return None
            self.rest += b
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)


def until(t):
    """Spins: a sleep would end late."""
    while now() < t:
        pass


def requests(f, same, want, c):
    start, stop = c["start"], c["start"] + c["seconds"]
    limit = stop + c.get("grace", 1.0)
    due = [start + a for a in arrivals(c["rate"], c["seconds"], c.get("seed", 1))]
    took, wrong = [], 0
    until(start)
    for t in due if c["rate"] else forever(stop):
        if now() > limit:
            break
        until(t)
        y = f()
        took.append(now() - t)
        if len(took) % CHECKED == 1 and not same(y, want):
            wrong += 1
    if not same(y if took else want, want):
        wrong += 1
    end = now()
    # Who was not served has waited for so long already.
    unserved = [end - t for t in due[len(took) :]]
    return dict(
        latencies=[round(x, 6) for x in took + unserved],
        served=len(took),
        unserved=len(unserved),
        wrong=wrong,
        rate=len(took) / (end - start),
    )


def forever(stop):
    while (t := now()) < stop:
        yield t


def steps(f, c, lines):
    n, start = 0, c["start"]
    while not lines.waiting():
        f()
        n += now() > start
    return dict(rate=n / max(now() - start, 1e-3), steps=n)


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    lines, built = Lines(), {}
    print(json.dumps({"pid": os.getpid()}), file=answers, flush=True)
    while (c := lines.next()) is not None:
        try:
            if c["do"] == "build":
                t = now()
                f, same, digest = program(c["what"])
                want = f()
                for _ in range(9):
                    f()
                built[c["what"]] = f, same, want
                gc.collect()
                gc.freeze()  # or a collection among the requests would look at all that was imported
                r = dict(seconds=round(now() - t, 2), digest=digest(want))
            elif c["do"] == "requests":
                r = requests(*built[c["what"]], c)
            elif c["do"] == "steps":
                r = steps(built[c["what"]][0], c, lines)
            elif c["do"] == "stop":
                continue  # it ended steps
            else:
                r = dict(error=f"unknown: {c['do']}")
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the answer
            r = dict(error=f"{type(e).__name__}: {str(e)[:200]}")
        print(json.dumps(r), file=answers, flush=True)


main()
