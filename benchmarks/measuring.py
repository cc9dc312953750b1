"""Shared code of benchmarks: draws typical features, and measures the best times of calls."""

import time
from collections.abc import Callable

import numpy as np

LEAST_SECONDS = 1.0  # total of all counted calls of `best`, so that short calls are repeated


def draw(n: int, d: int, seed: int, dtype: type = np.float32) -> np.ndarray:
    """Draws typical features, `[n, d]`: rectified, with 64 strong directions and noise."""
    mixing = np.random.default_rng(0).standard_normal((64, d)).astype(np.float32) / 8
    out = np.empty((n, d), dtype)
    for start in range(0, n, 1024):  # in parts, so that peak memory is that of the result
        rng = np.random.default_rng([seed, start])
        part = rng.standard_normal((min(1024, n - start), 64), np.float32) @ mixing
        part += 0.5 * rng.standard_normal(part.shape, np.float32)
        out[start : start + 1024] = np.maximum(part, 0)
    return out


def best(run: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Returns seconds of the first and the best later call, of `rounds` or more calls."""

    def took() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    first, least, total, calls = took(), float("inf"), 0.0, 0
    while calls < rounds or total < LEAST_SECONDS:
        seconds = took()
        least, total, calls = min(least, seconds), total + seconds, calls + 1
    return first, least


def best_in_turn(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns seconds of the best call of each; rounds alternate, so a busy machine slows all."""
    found = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            found[name] = min(found[name], time.perf_counter() - start)
    return found
