"""What a load is, without any GPU: arrivals, percentiles, the search for the highest load that holds. For parts and clients."""

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
