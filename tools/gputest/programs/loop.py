# loop: serves a model for ever, compares every result with the first, prints "done N at SECONDS" (monotonic clock).
# usage: loop.py resnet50|bert. Ends with "WRONG" (exit 4) when a result differs, with "gone: TEXT" (exit 3) when CUDA gives an error.
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torch
from serve import build


def main():
    torch.set_num_threads(1)
    n, last = 0, 0.0
    try:
        with torch.inference_mode():
            m, x = build(sys.argv[1])
            answer = lambda y: y if torch.is_tensor(y) else y.last_hidden_state[:, 0]
            f = lambda: answer(m(x.cuda(non_blocking=True))).cpu()
            f()
            want = f()
            while True:
                y = f()
                n += 1
                t = time.monotonic()
                if not torch.equal(y, want):
                    print("WRONG", flush=True)
                    os._exit(4)
                if t - last > 0.01:
                    print(f"done {n} at {t:.3f}", flush=True)
                    last = t
    except Exception as e:  # noqa: BLE001 - whatever it is, the log is to say it
        print(f"gone: {type(e).__name__}: {str(e).splitlines()[0][:160] if str(e) else ''}", flush=True)
        os._exit(3)


main()
