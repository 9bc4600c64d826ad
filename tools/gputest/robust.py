"""Executors and clients killed under load: no wrong result, no hang, nothing left behind."""

import collections
import contextlib
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

from harness import *

KILLS = int(os.environ.get("GT_KILLS", "20"))
WORKERS = os.environ.get("GT_KILL_WORKERS", "gemm,gemm,gemm,api,resnet50,resnet50,bert").split(
    ","
)  # the first four are killed in turn
QUICK = ("gemm", "api")  # kinds that start within a second or two
BOUND = 8.0  # seconds after which a client without a new result counts as hanging


class Worker:
    """A client that checks its own results and writes when each was done into a file."""

    serial = 0

    def __init__(self, kind):
        Worker.serial += 1
        self.kind = kind
        self.path = f"{WORK}/worker{Worker.serial}.log"
        gemm = [WORK + "/gemm", "1", "256", "128", "1152", "100000", "check"]
        cmd = {"gemm": gemm, "api": [WORK + "/loop", KERNELS]}.get(kind) or [PY, PROGRAMS + "/loop.py", kind]
        self.file = open(self.path, "w")  # noqa: SIM115 - as long as the process: close closes it
        self.p = start("heddle", cmd, {"HEDDLE_LOG": "stats"}, out=self.file)
        self.pos = 0
        self.last = 0.0
        self.end = ""
        self.ended = 0.0

    def poll(self):
        """Reads what it wrote; the time of its latest result."""
        with open(self.path, errors="replace") as f:
            f.seek(self.pos)
            text = f.read()
            cut = text.rfind("\n") + 1
            self.pos += len(text[:cut].encode(errors="replace"))
        for l in text[:cut].splitlines():
            m = re.match(r"done \d+ at ([\d.]+)", l)
            if m:
                self.last = float(m.group(1))
            elif l.startswith(("WRONG", "gone")):
                self.end = l
        if self.p.poll() is not None and not self.end:
            self.end = f"ended with {self.p.returncode}"
        if self.end and not self.ended:
            self.ended = time.monotonic()
        return self.last

    def tail(self):
        return Path(self.path).read_text(errors="replace")[-1500:]

    def close(self):
        stop(self.p)
        self.p.wait()
        if self.p in live:
            live.remove(self.p)
        self.file.close()
        log(
            f"--- worker {self.kind} {self.path}: {self.end or 'alive'}\n"
            + "\n".join(l for l in self.tail().splitlines() if not l.startswith("done"))[-600:]
        )


def renew(ws):
    """Replaces the workers that are gone."""
    for i, w in enumerate(ws):
        w.poll()
        if w.end:
            w.close()
            ws[i] = Worker(w.kind)


def wait_all(ws, seconds, since=None):
    """Waits until every worker has a result younger than `since`, or is gone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and left() > 15:
        if all(w.poll() > (since or 0) or w.end for w in ws):
            return True
        time.sleep(0.02)
    return False


def gpu_used():
    try:
        return int(
            subprocess.run(
                ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            ).stdout.split()[0]
        )
    except (*FAILED, ValueError, IndexError):
        return 0


def fds(pids):
    """Their open files, but for those of session files that are kept for clients to come: 16, for each of which the daemon has a pidfd."""
    n = 0
    for p in pids:
        kinds = []
        try:
            for name in os.listdir(f"/proc/{p}/fd"):
                with contextlib.suppress(OSError):  # closed meanwhile
                    kinds.append(os.readlink(f"/proc/{p}/fd/{name}"))
        except OSError:
            pass
        sessions, pidfds = (sum(what in k for k in kinds) for what in ("memfd:heddle-session", "pidfd"))
        n += len(kinds) - min(16, sessions) - min(16, pidfds)
    return n


def kills():
    stop_daemon()
    ws = [Worker(k) for k in WORKERS]
    if not wait_all(ws, 60):
        log("not every worker started: " + "; ".join(f"{w.kind}: {w.end or w.tail()[-200:]}" for w in ws))
    if not executors():
        row("kills", "executor killed under load", heddle="no executor is listed: nothing was forwarded", ok=False)
        [w.close() for w in ws]
        return
    c = collections.Counter()
    back, told, texts, done = [], [], collections.Counter(), 0
    for i in range(KILLS):
        if left() < 90:
            break
        renew(ws)
        now = time.monotonic()
        wait_all([w for w in ws if w.kind in QUICK], 15, now)
        ex = executors()
        ready = [w for w in ws if not w.end and w.poll() > now - 1.0]
        if not ex or not ready:
            c["no executor" if not ex else "no client was ready"] += 1
            time.sleep(0.5)
            continue
        time.sleep(random.Random(i).random() * 0.3)
        t = time.monotonic()
        for pid in ex:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        done += 1
        wait_all(ready, BOUND, t + 0.005)
        for w in ready:
            w.poll()
            if w.end.startswith("WRONG"):
                c["wrong"] += 1
            elif w.end:
                c["named error"] += 1
                texts[re.sub(r"0x[0-9a-f]+", "#", w.end)[:70]] += 1
                told.append(w.ended - t)
            elif w.last > t + 0.005:
                c["went on"] += 1
                back.append(first_after(w, t))
            else:
                c["hang"] += 1
                log(f"hang: {w.kind} {w.path}\n{w.tail()}")
                w.end = "hang"
        served = clients()  # who went on may have gone on natively
        c["still forwarded"] += sum(1 for w in ready if not w.end and w.p.pid in served)
    back.sort()
    worst = max(back + told, default=None)  # a client that gets the error knows it by then
    row(
        "kills",
        f"executor killed {done} times, {len(ws)} clients: wrong results / hangs",
        heddle=f"{c['wrong']} / {c['hang']}",
        target="0 / 0",
        ok=done >= KILLS and not c["wrong"] and not c["hang"],
    )
    row(
        "kills",
        "clients that went on (of these still forwarded) / got an error",
        heddle=f"{c['went on']} ({c['still forwarded']}) / {c['named error']}",
        target="reported",
    )
    log(str(dict(c)) + " " + str(texts))
    if texts:
        row("kills", "the error they got (most frequent)", heddle=f"{texts.most_common(1)[0][0]} ×{texts.most_common(1)[0][1]}")
    row("kills", "first new result after the kill, s, median", heddle=back[len(back) // 2] if back else None)
    row(
        "kills",
        "until a client went on or had its error, s, worst",
        heddle=worst,
        target="< 2 s",
        ok=worst is not None and worst < 2,
    )
    # Clients killed, the others looked at.
    renew(ws)
    wait_all(ws, 25, time.monotonic())
    time.sleep(1)
    watched = lambda: ours("daemon") + executors()
    f0, m0, n0 = fds(watched()), gpu_used(), len(clients())
    c.clear()
    stall, done = [], 0
    for i in range(KILLS):
        if left() < 30:
            break
        k = random.Random(100 + i).randrange(4)
        w = ws[k]
        others = [o for o in ws if o is not w and not o.end]
        t = time.monotonic()
        stop(w.p)
        w.close()
        done += 1
        if not wait_all(others, BOUND, t + 0.005):
            c["hang"] += 1
        for o in others:
            o.poll()
            c["wrong"] += o.end.startswith("WRONG")
            c["gone"] += bool(o.end) and not o.end.startswith("WRONG")
            v = first_after(o, t)
            if v is not None:
                stall.append(v)
        ws[k] = Worker(w.kind)
        wait_all([ws[k]], 10)
        renew(ws)
    wait_all(ws, 25, time.monotonic())
    time.sleep(2)
    f1, m1, n1 = fds(watched()), gpu_used(), len(clients())
    row(
        "kills",
        f"a client killed {done} times: others wrong / hanging / gone",
        heddle=f"{c['wrong']} / {c['hang']} / {c['gone']}",
        target="0 / 0 / 0",
        ok=done >= KILLS and not (c["wrong"] or c["hang"] or c["gone"]),
    )
    row(
        "kills",
        "longest pause of another client, s",
        heddle=max(stall, default=None),
        target="< 2 s",
        ok=bool(stall) and max(stall) < 2,
    )
    row(
        "kills",
        "fds of daemon and executor, GPU MiB, clients listed: before → after",
        heddle=f"{f0} → {f1}, {m0} → {m1}, {n0} → {n1}",
        target="no growth",
        ok=f1 <= f0 + 4 and m1 <= m0 + 64 and n1 == n0,
    )
    [w.close() for w in ws]


def first_after(w, t):
    """Seconds from t to the worker's first result after it."""
    ts = [float(x) for x in re.findall(r"done \d+ at ([\d.]+)", Path(w.path).read_text(errors="replace"))]
    return next((x - t for x in ts if x > t + 0.005), None)
