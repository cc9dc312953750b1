"""Speed of the metrics on a GPU, beside its measured roofs. Not yet run on a GPU.

    python -m benchmarks.gpu                     50,000 × 50,000 × 4096, bounded memory
    python -m benchmarks.gpu --n=1000 --d=256    a smoke check, on any device

Claims for a GPU: hashing at 60 % or more of the copy bandwidth, exact KNN at 60 % or more of the
float32 matrix rate, LSH 50 or more times as fast as exact KNN, and no more than 1e-4 of the
memberships moved by the matrix precision. Bytes are those that must move (input read once, output
written once), FLOPs those of the products that the result needs: KNN counts n²/2 + m²/2 + nm
distances. Writes benchmarks/results/gpu.md, on a GPU alone.
"""

import argparse
import datetime
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import metric_peers
from benchmarks.measuring import best
from lsh_gan import metrics
from lsh_gan.metrics import HashSpec, distances, encoding, hashing, knn_hits, lsh, nearest, streams

KEY = jax.random.key(0)
MEMORY_MB = 1024
HIGHEST = jax.lax.Precision.HIGHEST


class Kernel(NamedTuple):
    """What a kernel must do, and the seconds that it took."""

    name: str
    bytes: float
    flops: float
    seconds: float


class Roofs(NamedTuple):
    """Measured: bytes read and written a second, and float32 operations a second."""

    copy: float
    matrix: float


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Best time of a call with its work on the device, after one that compiles."""
    return best(lambda: jax.block_until_ready(run()), rounds)[1]


def draw(n: int, d: int, seed: int) -> jax.Array:
    """Features like those of `measuring.draw`, float32 `[n, d]`, drawn on the device.

    A host takes many seconds for the default size.
    """
    inner, noise = jax.random.split(jax.random.key(seed))
    mixing = jax.random.normal(jax.random.key(99), (64, d)) / 8
    x = jax.random.normal(inner, (n, 64)) @ mixing + 0.5 * jax.random.normal(noise, (n, d))
    return jax.block_until_ready(jnp.maximum(x, 0))


def measure_roofs(size: int, rounds: int) -> Roofs:
    """Copy bandwidth of an array of 4 · size² bytes, and the rate of a square product of it."""
    x = jnp.ones((size, size), jnp.float32)
    add, product = jax.jit(lambda x: x + 1), jax.jit(lambda x: jnp.matmul(x, x, precision=HIGHEST))
    copy = 2 * x.nbytes / seconds(lambda: add(x), rounds)
    return Roofs(copy, 2 * size**3 / seconds(lambda: product(x), rounds))


def measure_kernels(r: jax.Array, g: jax.Array, rounds: int) -> list[Kernel]:
    """The kernels one by one, each on a batch or tile of the size that the metrics use."""
    d = r.shape[1]
    rows = min(len(r), streams.block_rows())
    batch = jax.block_until_ready(r[:rows])
    fitted = metrics.lsh_fit(KEY, r, ceiling=False)
    hasher = fitted.sketch.hasher
    pool = hasher.directions.shape[0]
    codes = encoding.encode(hasher, batch)
    cells = hashing.cell_index(hasher, codes, fitted.sketch.directory)
    frame = distances.fit_frame(r)
    size = distances.block_size(len(r), MEMORY_MB)
    x, y = (distances.to_blocks(part[:size], frame, size, "features") for part in (r, g))
    x, x_sq, y, y_sq = x.features[0], x.sq_norms[0], y.features[0], y.sq_norms[0]
    dot = jax.block_until_ready(distances.dots(x, y))
    radius = np.float32(np.median(x_sq))
    ball = np.full((2, size), radius), np.full((2, size), radius * np.float32(1.00001))
    of_x, of_y = (knn_hits._Side(sq, *ball) for sq in (x_sq, y_sq))
    share = np.float32(distances.slack(d))
    zero = np.int32(0)
    tile = 4 * size**2
    return [
        Kernel(
            f"hash {rows:,} rows with {pool} directions", 4 * rows * d + codes.digits.nbytes,
            2 * rows * d * pool, seconds(lambda: encoding.encode(hasher, batch), rounds),
        ),
        Kernel(
            f"look up {rows:,} rows in {len(cells)} tables", 3 * cells.nbytes, 0,
            seconds(lambda: lsh._tally(fitted.sketch.counts, cells, np.int32(1), zero), rounds),
        ),
        Kernel(
            f"products of a tile {size} × {size}", 2 * size * d * 4 + tile, 2 * size**2 * d,
            seconds(lambda: distances.dots(x, y), rounds),
        ),
        Kernel(
            f"neighbours in a tile {size} × {size}", tile, 0,
            seconds(lambda: nearest._select(
                dot, x_sq, y_sq, zero, zero, k=5, diagonal=False), rounds),
        ),
        Kernel(
            f"comparisons in a tile {size} × {size}", tile, 0,
            seconds(lambda: knn_hits._compare_tile(dot, of_x, of_y, share)[0], rounds),
        ),
    ]  # fmt: skip


def measure_metrics(r: jax.Array, g: jax.Array, rounds: int) -> list[Kernel]:
    """Whole metrics, fit and score, from device arrays."""
    (n, d), m = r.shape, len(g)
    pairs = n * n / 2 + m * m / 2 + n * m
    default = HashSpec()

    def exact():
        return metrics.knn_precision_recall(r, g, ceiling=False, memory_mb=MEMORY_MB)

    def hashed():
        return metrics.lsh_precision_recall(KEY, r, g, spec=default, ceiling=False)

    features, directions = 4 * (n + m) * d, default.num_directions
    return [
        Kernel("KNN", features, 2 * d * pairs, seconds(exact, min(rounds, 2))),
        Kernel("LSH", features, 2 * (n + m) * d * directions, seconds(hashed, rounds)),
    ]


def measure_torch(r: jax.Array, g: jax.Array) -> Kernel | None:
    """Torch cdist + kthvalue on the same GPU, in blocks; None without torch on CUDA."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    arrays = np.array(r), np.array(g)
    name, run = metric_peers.cdist(*arrays, rows=5000)  # JAX holds most of the memory
    (n, d), m = r.shape, len(g)
    flops = 2 * d * (n * n + m * m + 2 * n * m)
    return Kernel(name, 4 * (n + m) * d, flops, seconds(run, 1))


def moved(r: jax.Array, g: jax.Array) -> float:
    """Share of the memberships that differ from float64 on the host, k = 3."""
    scores = metrics.knn_precision_recall(r, g, membership=True, ceiling=False)
    x, y = (np.asarray(v, np.float64) - np.asarray(r, np.float64).mean(0) for v in (r, g))

    def sq(a, b):
        return np.sum(a * a, 1)[:, None] + np.sum(b * b, 1) - 2 * a @ b.T

    def radii(a):
        own = sq(a, a)
        np.fill_diagonal(own, np.inf)
        return np.partition(own, 2, axis=1)[:, 2]

    across = sq(y, x)
    precise = (across <= radii(x)).any(1)
    recalled = (across <= radii(y)[:, None]).any(0)
    different = (precise != scores.precision_membership).sum()
    different += (recalled != scores.recall_membership).sum()
    return float(different / (len(x) + len(y)))


def table(kernels: list[Kernel], roofs: Roofs) -> str:
    """Markdown: bytes, FLOPs, rates, and shares of the roofs."""
    lines = ["| | s | GB | GFLOP | GB/s | of copy | GFLOP/s | of matrix |", "|---" * 8 + "|"]
    for name, moves, flops, took in kernels:
        lines.append(
            f"| {name} | {took:.5f} | {moves / 1e9:.3f} | {flops / 1e9:.2f} | "
            f"{moves / took / 1e9:.1f} | {moves / took / roofs.copy:.0%} | "
            f"{flops / took / 1e9:.0f} | {flops / took / roofs.matrix:.0%} |"
        )
    return "\n".join(lines)


def driver() -> str:
    """The GPU as nvidia-smi names it, or nothing."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> None:
    """Measures everything and prints one report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--d", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device, on_gpu = jax.devices()[0], jax.default_backend() == "gpu"
    r, g = draw(options.n, options.d, 1), draw(options.n, options.d, 2)
    roofs = measure_roofs(min(8192, 4 * options.n), options.rounds)
    kernels = measure_kernels(r, g, options.rounds)
    whole = measure_metrics(r, g, options.rounds)
    other = measure_torch(r, g)
    some = min(4096, options.n)
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    text = "\n".join(
        [
            f"{device.device_kind} {driver()}; Python {platform.python_version()}, JAX "
            f"{jax.__version__}; {datetime.date.today()}; n = m = {options.n:,}, d = {options.d}.",
            f"Roofs: copy {roofs.copy / 1e9:.0f} GB/s, float32 matrix product "
            f"{roofs.matrix / 1e9:.0f} GFLOP/s. Features {2 * r.nbytes / 1e9:.2f} GB, peak memory "
            f"of the device {peak / 1e9:.2f} GB (0: not known).",
            "",
            table([*kernels, *whole, *([other] if other else [])], roofs),
            "",
            f"LSH is {whole[0].seconds / whole[1].seconds:.0f} times as fast as KNN.",
            "Products run at Precision.HIGHEST (float32, no TF32); comparisons within its error "
            f"bound are decided in float64. Memberships moved at n = m = {some:,}: "
            f"{moved(r[:some], g[:some]):.1e} (at most 1e-4).",
            "" if other else "No torch with CUDA: cdist + kthvalue was not measured.",
        ]
    )
    print(text)
    if not on_gpu:
        print("No GPU here: this was a smoke check, and there is no GPU table.")
        return
    path = Path(__file__).parent / "results" / "gpu.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# Speed on a GPU\n\n{text}\n")


if __name__ == "__main__":
    main()
