"""Claims: faster than the peers, growing as O(1), O(log n) and O(n), holding little but features.

    python -m benchmarks.metrics --part=peers     KNN and LSH beside the peers
    python -m benchmarks.metrics --part=lsh_knn   LSH+KNN beside exact KNN
    python -m benchmarks.metrics --part=growth    time to assess a sample, 1e3 to 1e6 references
    python -m benchmarks.metrics --part=memory    peak memory of each metric

All of a part is measured in one run on the same data, in turn, the best of `--rounds` or of as many
calls as fit in a second; first calls compile and are shown apart. Peers that are not installed are
skipped (benchmarks/requirements.txt). Each part writes its table to benchmarks/results and joins
those there to metrics.md.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import metric_growth, metric_peers
from benchmarks.machine import processor
from benchmarks.measuring import best, draw
from lsh_gan import metrics
from lsh_gan.metrics import HashSpec

KEY = jax.random.key(0)
EIGHT = HashSpec(family="affine", num_tables=8, num_bits=16, radius_bins=0, num_directions=64)
EIGHT_LOCAL = HashSpec(num_tables=8, radius_bins=16)
SLOW = ("prdc", "scikit-learn", "cdist")  # measured once


def compare(runs: dict[str, Callable], baselines: tuple[str, ...], rounds: int) -> str:
    """Markdown: seconds of each, and how many times as fast as the baselines."""
    seconds = {}
    for name, run in runs.items():
        seconds[name] = best(run, 1 if name.startswith(SLOW) else rounds)
        print(f"{name}: {seconds[name][1]:.3f} s (first {seconds[name][0]:.3f} s)", flush=True)
    found = [name for b in baselines for name in seconds if name.startswith(b)]
    lines = ["| | first call, s | s | " + " | ".join(f"× {b}" for b in found) + " |"]
    lines.append("|---" * (3 + len(found)) + "|")
    for name, (first, again) in seconds.items():
        ratios = " | ".join(f"{seconds[b][1] / again:.1f}" for b in found)
        lines.append(f"| {name} | {first:.3f} | {again:.3f} | {ratios} |")
    return "\n".join(lines)


def measure_peers(n: int, d: int, rounds: int) -> str:
    """Precision and recall of everyone; ceilings left out, since no peer has them."""
    r, g = draw(n, d, 1), draw(n, d, 2)
    device = jax.block_until_ready((jnp.asarray(r), jnp.asarray(g)))
    shares = {"spec": EIGHT, "votes": None}
    apart = {"spec": dataclasses.replace(EIGHT, num_directions=128), "votes": None}

    def lsh(arrays, **options):
        return lambda: metrics.lsh_precision_recall(KEY, *arrays, ceiling=False, **options)

    ours = {
        "KNN, device arrays": lambda: metrics.knn_precision_recall(*device, ceiling=False),
        "KNN, NumPy arrays": lambda: metrics.knn_precision_recall(r, g, ceiling=False),
        "LSH 8 × 16, device arrays": lsh(device, **shares),
        "LSH 8 × 16, NumPy arrays": lsh((r, g), **shares),
        "LSH 8 × 16, 128 directions, device arrays": lsh(device, **apart),
        "LSH default, device arrays": lsh(device),
        "LSH default, NumPy arrays": lsh((r, g)),
    }
    baselines = ("prdc", "torch-fidelity", "faiss", "KNN, device")
    return compare({**metric_peers.installed(r, g), **ours}, baselines, rounds)


def measure_lsh_knn(n: int, d: int, rounds: int) -> str:
    """LSH+KNN beside exact KNN, device arrays, fit and score; KNN is measured once."""
    r, g = (jnp.asarray(draw(n, d, seed)) for seed in (1, 2))

    def local(spec):
        return lambda: metrics.lsh_knn_precision_recall(KEY, r, g, spec=spec, ceiling=False)

    runs = {
        "KNN": lambda: metrics.knn_precision_recall(r, g, ceiling=False),
        "LSH+KNN, 8 tables, 16 radius bins": local(EIGHT_LOCAL),
        "LSH+KNN default": local(None),
    }
    return compare(runs, ("KNN",), rounds)


def measure_growth(n: int, d: int, rounds: int) -> str:
    """Time to assess a sample against up to n references, with fitted slopes and a plot."""
    sizes = [10**e for e in range(3, 1 + int(np.log10(n)))]
    times: dict[str, list[float]] = {}
    g = jnp.asarray(draw(1024, d, 2))
    for size in sizes:
        for name, assess in metric_growth.assessors(jnp.asarray(draw(size, d, 1)), g):
            slow = name == "KNN" and size >= 10**6
            _, seconds = best(assess, 1 if slow else rounds)
            times.setdefault(name, []).append(seconds / len(g))
            print(f"n = {size:,}, {name}: {1e6 * seconds / len(g):.2f} µs a sample", flush=True)
    metric_growth.plot(sizes, times, _results() / "growth.png")
    return metric_growth.table(sizes, times) + "\n\n![Growth](growth.png)"


def measure_memory(n: int, d: int, rounds: int) -> str:
    """Peak memory beyond the features, of each metric in a process of its own, NumPy arrays."""
    lines = ["| | features, MiB | peak beyond them, MiB |", "|---|---|---|"]
    for name in MEMORY:
        command = [sys.executable, "-m", "benchmarks.metrics", f"--child={name}", f"--n={n}"]
        done = subprocess.run([*command, f"--d={d}"], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        print(f"{name}: {found}", flush=True)
        lines.append(f"| {name} | {found['features']:.0f} | {found['beyond']:.0f} |")
    return "\n".join(lines)


def noise(n: int, d: int, seed: int) -> np.ndarray:
    """Independent normal features, float32 `[n, d]`: nearly equal distances, many to look at twice.

    Their mean is 3 standard deviations, so that they have to be moved.
    """
    out = np.random.default_rng(seed).standard_normal((n, d), np.float32)
    out += 3
    return out


def wide(n: int, d: int, seed: int) -> np.ndarray:
    """The features of `draw` as float64."""
    return draw(n, d, seed, np.float64)


def lsh_knn(r: np.ndarray, g: np.ndarray) -> metrics.PrecisionRecall:
    """LSH+KNN with the default spec."""
    return metrics.lsh_knn_precision_recall(KEY, r, g)


def lsh(r: np.ndarray, g: np.ndarray) -> metrics.PrecisionRecall:
    """LSH with the default spec."""
    return metrics.lsh_precision_recall(KEY, r, g)


MEMORY = {
    "KNN": (metrics.knn_precision_recall, draw),
    "KNN, float64": (metrics.knn_precision_recall, wide),
    "KNN, noise far from the origin": (metrics.knn_precision_recall, noise),
    "LSH+KNN": (lsh_knn, draw),
    "LSH+KNN, noise far from the origin": (lsh_knn, noise),
    "LSH": (lsh, draw),
}


def measure_child(name: str, n: int, d: int) -> None:
    """Prints, as JSON, the peak memory of one metric in this process."""
    score, features = MEMORY[name]
    r, g = features(n, d, 1), features(n, d, 2)
    score(r[:300], g[:300])  # imports and compilers are no part of it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    score(r, g)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"features": (r.nbytes + g.nbytes) / 2**20, "beyond": peak - before}))


def _results() -> Path:
    path = Path(__file__).parent / "results"
    path.mkdir(exist_ok=True)
    return path


PARTS = {
    "peers": (measure_peers, 10_000, 2048),
    "lsh_knn": (measure_lsh_knn, 20_000, 2048),
    "growth": (measure_growth, 1_000_000, 64),
    "memory": (measure_memory, 20_000, 2048),
}


def main() -> None:
    """Measures one part, prints its table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, default="peers")
    parser.add_argument("--n", type=int, help="rows of each set (growth: of the largest reference)")
    parser.add_argument("--d", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    measure, n, d = PARTS[options.part]
    n, d = options.n or n, options.d or d
    if options.child:
        measure_child(options.child, n, d)
        return
    table = measure(n, d, options.rounds)
    title = measure.__doc__.split("\n")[0]
    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores, {jax.devices()[0].device_kind}"
    versions = f"Python {platform.python_version()}, JAX {jax.__version__}, NumPy {np.__version__}"
    text = (
        f"## {options.part}\n\n{title} n = {n:,}, d = {d}, best of {options.rounds} "
        f"calls or of all in a second. {machine}; "
        f"{versions}; {datetime.date.today()}.\n\n{table}\n"
    )
    print(text)
    (_results() / f"metrics_{options.part}.md").write_text(text)
    written = [_results() / f"metrics_{part}.md" for part in PARTS]
    joined = "\n".join(path.read_text() for path in written if path.exists())
    (_results() / "metrics.md").write_text(f"# Speed and memory of the metrics\n\n{joined}")


if __name__ == "__main__":
    main()
