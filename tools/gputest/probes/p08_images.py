# p08: traits of the images and kernels that p08_count saved: asserts, printf, malloc, globals, constants, textures.
# usage: p08_images.py DIR SECONDS
import collections
import glob
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

d, budget = sys.argv[1], float(sys.argv[2])
t0 = time.time()


def tool():
    for p in (shutil.which("cuobjdump"), "/usr/local/cuda/bin/cuobjdump"):
        if p and os.path.exists(p):
            return p
    try:
        import triton

        g = glob.glob(os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump"))
        return g[0] if g else None
    except ImportError:
        return None


cod = tool()
if not cod:
    sys.exit("no cuobjdump: traits not looked at")
ks = collections.defaultdict(set)
for l in Path(d, "kernels.txt").read_text().splitlines():
    i, n = l.split(" ", 1)
    ks[int(i)].add(n.strip())


def elf_of(i):
    c = f"{d}/i{i}.cubin"
    if os.path.exists(c):
        return c
    f = f"{d}/i{i}.fatbin"
    if not os.path.exists(f):
        return None
    w = f"{d}/x{i}"
    os.makedirs(w, exist_ok=True)
    r = subprocess.run([cod, "-xelf", "all", f], cwd=w, capture_output=True, text=True, check=False)
    g = glob.glob(w + "/*.cubin")
    if not g:
        print("cuobjdump could not read", f, (r.stderr or r.stdout)[:120])
        return None
    return g[0]


def parse(path):
    b = Path(path).read_bytes()
    (sho,) = struct.unpack_from("<Q", b, 40)
    n, sx = struct.unpack_from("<HH", b, 60)
    S = []
    for k in range(n):
        nm, ty, _, _, off, sz, ln, inf, _, es = struct.unpack_from("<IIQQQQIIQQ", b, sho + 64 * k)
        S.append([nm, ty, off, sz, ln, inf, es])
    if n == 0:
        return b, [], []
    so = S[sx][2]
    name = lambda o: b[o : b.index(b"\0", o)].decode(errors="replace")
    for s in S:
        s[0] = name(so + s[0])
    Y = []
    for s in S:
        if s[1] == 2:
            st = S[s[4]][2]
            for k in range(s[3] // 24):
                nm, info, _, sh, val, size = struct.unpack_from("<IBBHQQ", b, s[2] + 24 * k)
                Y.append((name(st + nm), info & 15, sh, val, size))
    return b, S, Y


tot = collections.Counter()
ex = collections.Counter()
gl = collections.Counter()
imgs = tot_sz = 0
sass = 0
names = collections.defaultdict(list)
for i in sorted(ks):
    p = elf_of(i)
    if not p:
        tot["kernels in unreadable images"] += len(ks[i])
        continue
    b, S, Y = parse(p)
    imgs += 1
    tot_sz += len(b)
    sec = {s[0]: s for s in S}
    idx = {k: s[0] for k, s in enumerate(S)}
    tot["kernels present in these images"] += sum(1 for s in S if s[0].startswith(".text."))
    real = [
        (y[0], idx.get(y[2], "?"), y[4], y[3])
        for y in Y
        if y[1] == 1
        and idx.get(y[2], "").startswith((".nv.global", ".nv.constant3"))
        and not re.match(r"\$str|__unnamed|\.L|__func__|__PRETTY|.*__PRETTY_FUNCTION__|_ZZ.*__func__", y[0])
    ]
    for w in (".nv.global", ".nv.global.init", ".nv.constant3"):
        if w in sec:
            tot[f"images with {w}"] += 1
    kinds = {q[1] for q in real}
    for w in kinds:
        tot[f"images with named objects in {w}"] += 1
    for q in real:
        gl[q[1] + " " + q[0][:60]] += 1
    if any(y[1] in (10, 11, 12) for y in Y):
        tot["images with texture/sampler/surface symbols"] += 1
    c4 = {}  # offset in constant bank 4 -> symbol
    for s in S:
        if s[1] in (4, 9) and s[0].endswith(".nv.constant4"):
            st = 24 if s[1] == 4 else 16
            for k in range(s[3] // st):
                o, inf = struct.unpack_from("<QQ", b, s[2] + st * k)
                y = inf >> 32
                if y < len(Y):
                    c4[o] = Y[y][0]
    for n in ks[i]:
        inf = sec.get(".nv.info." + n)
        if ".text." + n not in sec:
            tot["kernels whose text was not found"] += 1
        if inf:
            o, end = inf[2], inf[2] + inf[3]
            while o + 4 <= end:
                f, a, v = b[o], b[o + 1], struct.unpack_from("<H", b, o + 2)[0]
                o += 4
                if f == 4:
                    if a == 0x0F:
                        for k in range(v // 4):
                            (y,) = struct.unpack_from("<I", b, o + 4 * k)
                            w = Y[y][0] if y < len(Y) else "?"
                            ex[w] += 1
                            if len(names[w]) < 2:
                                names[w].append(n[:50])
                    o += v
        if real and time.time() - t0 < budget:
            try:
                t = subprocess.run([cod, "-sass", "-fun", n, p], capture_output=True, text=True, timeout=12, check=False).stdout
            except subprocess.TimeoutExpired:
                tot["disassembly timed out"] += 1
                continue
            sass += 1
            used = {c4.get(int(x, 16), "?") for x in re.findall(r"c\[0x4\]\[(0x[0-9a-f]+)\]", t)}
            last = {}
            for l in t.splitlines():  # the index may be a register that was just set
                for r in re.findall(r"c\[0x4\]\[(U?R\d+)\]", l):
                    used.add(c4.get(last.get(r), "?"))
                mv = re.search(r"MOV(?:\.U32)? (U?R\d+),(?: U?RZ, U?RZ,)? (0x[0-9a-f]+)", l)
                if mv:
                    last[mv.group(1)] = int(mv.group(2), 16)
            if "?" in used:
                tot["kernels with a bank-4 address not resolved"] += 1
            nm = {q[0] for q in real}
            if used & nm:
                tot["kernels that use a named global"] += 1
                names["global"].append((n[:40], min(used & nm)[:40]))
            if "c[0x3]" in t:
                tot["kernels that use constant bank 3"] += 1
            if re.search(r"\b(TEX|TLD|TLD4|TXQ|SULD|SUST)\b", t):
                tot["kernels with texture or surface instructions"] += 1
print(
    f"images read {imgs}, {tot_sz / 1e6:.1f} MB of ELF; distinct launched kernels {sum(len(v) for v in ks.values())}; disassembled {sass} (only of images with named globals or constants)"
)
print("externs, launched kernels:", dict(ex), {k: v for k, v in names.items() if k != "global"})
print(dict(tot))
print("named objects:", gl.most_common(12))
print("kernels with named globals:", names["global"][:6])
