"""Claims: faster than other packages; cost O(1), O(log n), O(n); little memory besides features.

    python -m benchmarks.metrics --part=peers     KNN and LSH, other packages, the matrix rate
    python -m benchmarks.metrics --part=lsh_knn   LSH+KNN compared with exact KNN
    python -m benchmarks.metrics --part=growth    time to assess a sample, 1e3 to 1e6 references
    python -m benchmarks.metrics --part=memory    peak memory of each metric

`--old=PATH` also measures the package of another checkout, by the same functions. Each package runs
in its own processes, one after another, on the same data. A time is the best of `--rounds` calls,
or of as many as fit in a second. First calls, which compile, are shown separately. Other packages
that are not installed are skipped (benchmarks/requirements.txt). Each part writes its table to
`--out`, and joins all tables there to metrics.md.
"""

import datetime
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, metric_growth, metric_peers, options
from benchmarks.measuring import best, draw
from benchmarks.written import markdown
from lsh_gan import metrics

ROOT = Path(__file__).parent.parent
SLOW = ("prdc", "scikit-learn", "cdist")  # measured once
SIDES = (2048, 4096)  # sizes of the products that measure the matrix rate
Seconds = dict[str, tuple[float, float]]  # name -> seconds of the first and the best later call


class Setting(NamedTuple):
    """What is measured.

    Attributes:
        n: Rows of each set, or of the largest reference.
        d: Features.
        rounds: Calls of each.
        packages: Folder of each checkout, by the prefix of its names in tables.
        out: Folder of tables and plots.
    """

    n: int
    d: int
    rounds: int
    packages: dict[str, Path]
    out: Path

    def child(self, root: Path, part: str, name: str = "") -> Any:
        """Runs a function of `CHILDREN` in a new process, with the package `lsh_gan` of `root`."""
        start = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); import lsh_gan; del sys.path[0]; "
            "from benchmarks import metrics; metrics.child()"
        )
        words = [part, name, *map(str, self[:3])]
        command = [sys.executable, "-c", start, str(root), *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        return json.loads(done.stdout)


def child() -> None:
    """Runs the function of `CHILDREN` that the command line names; prints its result as JSON."""
    part, name, *numbers = sys.argv[1:]
    print(json.dumps(CHILDREN[part](name, *map(int, numbers))))


def timed(runs: dict[str, Callable], rounds: int) -> Seconds:
    """Measures calls, and prints their times to stderr."""
    seconds = {}
    for name, run in runs.items():
        seconds[name] = best(run, 1 if name.startswith(SLOW) else rounds)
        first, again = seconds[name]
        print(f"{name}: {again:.3f} s (first {first:.3f} s)", file=sys.stderr, flush=True)
    return seconds


def compare(seconds: Seconds, baselines: tuple[str, ...]) -> str:
    """Formats as Markdown: seconds of each call, and the speed-up over the baselines."""
    found = [name for b in baselines for name in seconds if name.startswith(b)]
    lines = [
        [name, f"{first:.3f}", f"{again:.3f}", *(f"{seconds[b][1] / again:.1f}" for b in found)]
        for name, (first, again) in seconds.items()
    ]
    return markdown(["", "first call, s", "s", *(f"× {b}" for b in found)], lines)


def measure_peers(setting: Setting) -> str:
    """Precision and recall by all packages, without ceilings, which no other package has."""
    n, d, rounds, packages, _ = setting
    rates, lines = [], []
    seconds = timed(metric_peers.installed(draw(n, d, 1), draw(n, d, 2)), rounds)
    for label, root in packages.items():
        found = setting.child(root, "peers")
        rates.append(found["rate"])
        seconds |= {label + name: pair for name, pair in found["seconds"].items()}
    text = compare(seconds, ("prdc", "torch-fidelity", "faiss", "KNN, device"))
    flops = 4 * n * n * d
    for label in packages:
        name = label + "KNN, device arrays"
        share = flops / seconds[name][1] / max(rates)
        lines.append(f"{name}: {share:.0%} of the rate")
    return text + (
        f"\nFloat32 matrix rate in the same run: {max(rates) / 1e9:.0f} GFLOP/s. KNN needs half "
        f"of R·R, half of G·G and R·G: {flops / 1e9:.4g} GFLOP. {'; '.join(lines)}.\n"
    )


def time_peers(_: str, n: int, d: int, rounds: int) -> dict[str, Any]:
    """Measures the seconds of KNN and LSH, and the float32 matrix rate."""
    arrays = draw(n, d, 1), draw(n, d, 2)
    kinds = {"device arrays": jax.block_until_ready(tuple(map(jnp.asarray, arrays)))}
    kinds["NumPy arrays"] = arrays
    knn, lsh = metrics.knn_precision_recall, metrics.lsh_precision_recall
    runs = {f"KNN, {kind}": lambda x=x: knn(*x, ceiling=False) for kind, x in kinds.items()}
    runs |= {
        f"LSH default, {kind}": lambda x=x: lsh(jax.random.key(0), *x, ceiling=False)
        for kind, x in kinds.items()
    }
    before, seconds = matrix_rate(d, rounds), timed(runs, rounds)
    return {"seconds": seconds, "rate": max(before, matrix_rate(d, rounds))}


def matrix_rate(d: int, rounds: int) -> float:
    """Measures the best rate of float32 products `[side, d]` · `[d, side]` on device, FLOP/s."""
    product = jax.jit(lambda x: jnp.matmul(x, x.T, precision="highest"))
    x = jnp.asarray(draw(max(SIDES), d, 1))
    parts = [jax.block_until_ready(x[:side]) for side in SIDES]
    return max(2 * d * len(x) ** 2 / best(lambda x=x: product(x).block_until_ready(), rounds)[1]
               for x in parts)  # fmt: skip


def measure_lsh_knn(setting: Setting) -> str:
    """LSH+KNN compared with exact KNN, on device arrays, fit and score."""
    seconds: Seconds = {}
    for label, root in setting.packages.items():
        found = setting.child(root, "lsh_knn")
        seconds |= {label + name: pair for name, pair in found.items()}
    return compare(seconds, tuple(label + "KNN" for label in setting.packages))


def time_lsh_knn(_: str, n: int, d: int, rounds: int) -> Seconds:
    """Measures the seconds of KNN and LSH+KNN."""
    r, g = (jnp.asarray(draw(n, d, seed)) for seed in (1, 2))
    runs = {
        "KNN": lambda: metrics.knn_precision_recall(r, g, ceiling=False),
        "LSH+KNN default": lambda: metrics.lsh_knn_precision_recall(
            jax.random.key(0), r, g, ceiling=False
        ),
    }
    return timed(runs, rounds)


def measure_growth(setting: Setting) -> str:
    """Time to assess a sample against up to n references, with fitted slopes and a plot."""
    sizes = [10**e for e in range(3, 1 + int(np.log10(setting.n)))]
    times = {}
    for label, root in setting.packages.items():
        for name in metric_growth.ASSESSORS:
            if name == "KNN" and root != ROOT:
                continue  # it uses internals, which differ in other versions
            found = [setting._replace(n=n).child(root, "growth", name) for n in sizes]
            times[label + name] = found
            print(f"{label}{name}: {', '.join(f'{1e6 * s:.2f}' for s in found)} µs", flush=True)
    metric_growth.plot(sizes, times, setting.out / "growth.png")
    what = metric_growth.__doc__.split("\n\n", 1)[1].rstrip()
    return f"{what}\n\n{metric_growth.table(sizes, times)}\n![Growth](growth.png)\n"


def time_growth(name: str, n: int, d: int, rounds: int) -> float:
    """Measures the seconds to assess one row."""
    assess = metric_growth.ASSESSORS[name](n, d)
    return best(assess.run, 1 if n >= 10**6 else rounds)[1] / assess.rows


def measure_memory(setting: Setting) -> str:
    """Peak memory beyond the features, of each metric in its own process, with NumPy arrays."""
    lines = []
    for label, root in setting.packages.items():
        for name in MEMORY:
            found = setting.child(root, "memory", name)
            lines.append([label + name, *(f"{mib:.0f}" for mib in found)])
            print(*lines[-1], flush=True)
    return markdown(["", "features, MiB", "peak beyond them, MiB"], lines)


def noise(n: int, d: int, seed: int) -> np.ndarray:
    """Draws independent normal features, float32 `[n, d]`: nearly equal distances, a hard case.

    Their mean is 3 standard deviations, so that they must be centred.
    """
    out = np.random.default_rng(seed).standard_normal((n, d), np.float32)
    out += 3
    return out


MEMORY = {
    "KNN": ("knn", draw),
    "KNN, float64": ("knn", partial(draw, dtype=np.float64)),
    "KNN, noise far from the origin": ("knn", noise),
    "LSH+KNN": ("lsh_knn", draw),
    "LSH+KNN, noise far from the origin": ("lsh_knn", noise),
    "LSH": ("lsh", draw),
}


def peak_memory(name: str, n: int, d: int, rounds: int) -> tuple[float, float]:
    """Measures MiB of the features, and of the peak beyond them while one metric runs."""
    metric, features = MEMORY[name]
    score = getattr(metrics, f"{metric}_precision_recall")
    if metric != "knn":
        score = partial(score, jax.random.key(0))
    r, g = features(n, d, 1), features(n, d, 2)
    score(r[:300], g[:300])  # so that imports and compilation do not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    score(r, g)
    beyond = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return (r.nbytes + g.nbytes) / 2**20, beyond / 2**10


PARTS = {
    "peers": (measure_peers, 10_000, 2048),
    "lsh_knn": (measure_lsh_knn, 20_000, 2048),
    "growth": (measure_growth, 1_000_000, 64),
    "memory": (measure_memory, 20_000, 2048),
}
CHILDREN = {
    "peers": time_peers,
    "lsh_knn": time_lsh_knn,
    "growth": time_growth,
    "memory": peak_memory,
}


def main() -> None:
    """Measures one part, prints its table and writes it."""
    results = ROOT / "benchmarks" / "results"
    args = options.parse(__doc__, part=tuple(PARTS), n=0, d=0, rounds=3, out=results, old="")
    packages = {"": ROOT}
    if args.old:
        packages["old: "] = Path(args.old).resolve()
        if not (packages["old: "] / "lsh_gan" / "metrics").is_dir():
            sys.exit(f"error: --old={args.old}: no lsh_gan/metrics there; expected a checkout")
    measure, n, d = PARTS[args.part]
    setting = Setting(args.n or n, args.d or d, args.rounds, packages, args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    text = (
        f"## {args.part}\n\n{measure.__doc__} n = {setting.n:,}, d = {setting.d}, best of "
        f"{setting.rounds} calls or of all in a second. {machine.describe('numpy')}; "
        f"{datetime.date.today()}.\n\n{measure(setting)}"
    )
    print(text)
    (args.out / f"metrics_{args.part}.md").write_text(text)
    written = [args.out / f"metrics_{part}.md" for part in PARTS]
    joined = "\n".join(path.read_text() for path in written if path.exists())
    (args.out / "metrics.md").write_text(f"# Speed and memory of the metrics\n\n{joined}")


if __name__ == "__main__":
    main()
