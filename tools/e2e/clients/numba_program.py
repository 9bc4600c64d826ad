"""A numba-cuda program as a user would write it: it knows nothing of Heddle.

Elementwise work, a sum by a tree in shared memory, a histogram by atomics, and
the same on streams with events. Everything that it computes goes into a digest,
and numpy computes the same on the host: the two must agree.
"""

import hashlib
import os
import warnings

import numpy as np
from numba import config, cuda, float32, int32

config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
warnings.filterwarnings("ignore", message=".*nvjitlink.*")

BLOCK = 128


@cuda.jit
def saxpy(out, x, y, a):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = a * x[i] + y[i]


@cuda.jit
def clip_where(out, x, limit):
    i = cuda.grid(1)
    if i < out.size:
        if x[i] > limit:
            out[i] = limit
        elif x[i] < -limit:
            out[i] = -limit
        else:
            out[i] = x[i]


@cuda.jit
def block_sums(out, x):
    part = cuda.shared.array(BLOCK, dtype=float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    part[t] = x[i] if i < x.size else float32(0)
    cuda.syncthreads()
    half = BLOCK // 2
    while half > 0:
        if t < half:
            part[t] += part[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


@cuda.jit
def count(bins, values):
    local = cuda.shared.array(64, dtype=int32)
    t = cuda.threadIdx.x
    if t < 64:
        local[t] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(local, values[i], 1)
    cuda.syncthreads()
    if t < 64:
        cuda.atomic.add(bins, t, local[t])


@cuda.jit
def transpose(out, m):
    tile = cuda.shared.array((8, 9), dtype=float32)
    x, y = cuda.grid(2)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    if x < m.shape[1] and y < m.shape[0]:
        tile[ty, tx] = m[y, x]
    cuda.syncthreads()
    x = cuda.blockIdx.y * 8 + tx
    y = cuda.blockIdx.x * 8 + ty
    if x < m.shape[0] and y < m.shape[1]:
        out[y, x] = tile[tx, ty]


def agree(what, device, host):
    if not np.array_equal(device, host):
        raise SystemExit(f"{what}: the GPU and numpy differ at {np.flatnonzero(device != host)[:8]}")


def main():
    seed = int(os.environ.get("E2E_SEED", "1"))
    rounds = int(os.environ.get("E2E_ROUNDS", "1")) * 3
    rng = np.random.default_rng(seed)
    digest = hashlib.sha256()
    n = 5003
    # Whole numbers of moderate size: every sum is exact, in any order.
    x = rng.integers(-512, 512, n).astype(np.float32)
    y = rng.integers(-512, 512, n).astype(np.float32)
    values = rng.integers(0, 64, n).astype(np.int32)
    matrix = rng.random((45, 70), dtype=np.float32)

    streams = [cuda.stream(), cuda.stream()]
    joined = cuda.event(timing=False)
    dx, dy = cuda.to_device(x), cuda.to_device(y)
    dz, dc = cuda.device_array_like(x), cuda.device_array_like(x)
    blocks = (n + BLOCK - 1) // BLOCK
    sums = cuda.device_array(blocks, np.float32)
    dvalues = cuda.to_device(values)
    for i in range(rounds):
        a = np.float32(i + 2)
        saxpy[16, BLOCK, streams[0]](dz, dx, dy, a)
        clip_where[blocks, BLOCK, streams[0]](dc, dz, np.float32(700))
        joined.record(streams[0])
        joined.wait(streams[1])
        block_sums[blocks, BLOCK, streams[1]](sums, dc)
        bins = cuda.to_device(np.zeros(64, np.int32), stream=streams[1])
        count[8, BLOCK, streams[1]](bins, dvalues)
        host_sums = sums.copy_to_host(stream=streams[1])
        host_bins = bins.copy_to_host(stream=streams[1])
        streams[1].synchronize()

        z = np.clip(a * x + y, -700, 700).astype(np.float32)
        padded = np.zeros(blocks * BLOCK, np.float32)
        padded[:n] = z
        agree("clip", dc.copy_to_host(), z)
        agree("sums", host_sums, padded.reshape(blocks, BLOCK).sum(axis=1, dtype=np.float32))
        agree("histogram", host_bins, np.bincount(values, minlength=64).astype(np.int32))
        digest.update(host_sums.tobytes() + host_bins.tobytes())

    dm = cuda.to_device(matrix)
    dt = cuda.device_array((70, 45), np.float32)
    transpose[(9, 6), (8, 8)](dt, dm)
    agree("transpose", dt.copy_to_host(), matrix.T)
    digest.update(dt.copy_to_host().tobytes())
    print("numba", digest.hexdigest()[:16])


if __name__ == "__main__":
    main()
