"""What needs no GPU: arrivals, percentiles, the search for the highest load that holds, settings, verdicts. For parts and clients."""

import random


def arrivals(rate, seconds, seed):
    """Poisson arrivals, in seconds from the beginning; a seed gives the same ones to whoever asks."""
    draw = random.Random(seed)
    t = 0.0
    while rate > 0:
        t += draw.expovariate(rate)
        if t > seconds:
            return
        yield t


def quantile(values, q):
    """The q-quantile; None of nothing."""
    v = sorted(values)
    return v[min(int(len(v) * q), len(v) - 1)] if v else None


def median(values):
    return quantile([v for v in values if v is not None], 0.5)


def attained(latencies, objective):
    """The share of requests that took no longer than the objective; None of nothing."""
    return sum(x <= objective for x in latencies) / len(latencies) if latencies else None


def ladder(low, step, n):
    return [low * step**k for k in range(n)]


def highest(levels, holds):
    """The highest of rising levels that holds, by halving, and whether that is certain. holds gives None to stop the search early;
    what holds at one level is taken to hold at all below."""
    low, high = -1, len(levels)
    while high - low > 1:
        mid = (low + high) // 2
        v = holds(levels[mid])
        if v is None:
            return (levels[low] if low >= 0 else None), False
        low, high = (mid, high) if v else (low, mid)
    return (levels[low] if low >= 0 else None), low + 1 < len(levels)


def settings(text):
    """Names and environments of a sweep: settings apart by ";", variables by blanks, "-" for none. ValueError says what is wrong."""
    out = []
    for item in (x.strip() for x in text.split(";")):
        if not item:
            continue
        env = {}
        for word in [] if item == "-" else item.split():
            name, equals, value = word.partition("=")
            if not equals or not value or not name.startswith("HEDDLE_"):
                raise ValueError(f"{word!r}: expected HEDDLE_NAME=VALUE, apart by blanks; settings apart by ';', '-' for none")
            env[name] = value
        out.append(("as it is" if item == "-" else item, env))
    return out


def judged(clients):
    """Of what processes of programs/compiled.py found: how many outputs are wrong, and in words. Another order of adding up gives
    other last bits: outputs count against whoever ran a process only where it launched the kernels that gave the reference."""
    same = [c for c in clients if c.get("kernels")]
    differing = lambda cs: [c for c in cs if not (c.get("first") and c.get("warm") and c.get("differ") == 0)]
    wrong, other = differing(same), [c for c in clients if not c.get("kernels")]
    text = f"same kernels: {len(same)} of {len(clients)}; "
    text += (
        f"outputs WRONG in {len(wrong)}: " + ", ".join(difference(c) for c in wrong[:2])
        if wrong
        else "theirs equal"
        if same
        else ""
    )
    if other:
        text += f"; of the others {len(differing(other))} differ"
    return len(wrong), text.replace("; ;", ";")


def difference(c):
    """Where a process's outputs differ from the reference, in a few words."""
    parts = [f"{k} output" for k in ("first", "warm") if not c.get(k)]
    if c.get("differ"):
        parts.append(f"{c['differ']} of {c['checked']} looked at, from request {c['at']} on")
    return f"client {c['client']}: {' and '.join(parts)}, by {c.get('far') or 0:.3g}, {c.get('changes') or 0} unlike its own first"
