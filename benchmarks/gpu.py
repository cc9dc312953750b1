"""Measures the speed of the metrics on a GPU, and compares it with its measured peak rates.

    python -m benchmarks.gpu                     50,000 × 50,000 × 4096, bounded memory
    python -m benchmarks.gpu --n=1000 --d=256    a smoke check, on any device

Claims for a GPU: exact KNN reaches 60 % or more of the float32 matrix rate, LSH is 50 or more times
as fast as KNN, and the matrix precision changes at most 1e-4 of the memberships. Bytes are those
that must move (input read once, output written once). FLOPs are those of the products that the
result needs. KNN computes n²/2 + m²/2 + nm distances. LSH+KNN computes in every table the distances
of each candidate to 2c rows of its set, and of each slot (half as many as rows) to 3c of the other.
Writes benchmarks/results/gpu.md, only on a GPU.
"""

import datetime
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import metric_peers, options
from benchmarks.measuring import best
from benchmarks.written import markdown
from lsh_gan import metrics
from lsh_gan.metrics import distances, hashing, knn
from lsh_gan.metrics.sketch import look_up

MEMORY_MB = 1024
NEAREST = 9  # neighbours that are found per row


class Kernel(NamedTuple):
    """The work that a kernel must do, and the seconds that it took."""

    name: str
    bytes: float
    flops: float
    seconds: float


class Roofs(NamedTuple):
    """Measured peak rates: bytes read and written per second, and float32 FLOP per second."""

    copy: float
    matrix: float


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Measures the best time of a call with its work on the device, after one that compiles."""
    return best(lambda: jax.block_until_ready(run()), rounds)[1]


def draw(n: int, d: int, seed: int) -> jax.Array:
    """Draws features like those of `measuring.draw`, float32 `[n, d]`, on the device.

    The host would take many seconds for the default size.
    """
    inner, noise = jax.random.split(jax.random.key(seed))
    mixing = jax.random.normal(jax.random.key(99), (64, d)) / 8
    x = jax.random.normal(inner, (n, 64)) @ mixing + 0.5 * jax.random.normal(noise, (n, d))
    return jax.block_until_ready(jnp.maximum(x, 0))


def measure_roofs(size: int, rounds: int) -> Roofs:
    """Measures the bandwidth of copying 4 · size² bytes, and the rate of a square product."""
    x = jnp.ones((size, size), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    copy = 2 * x.nbytes / seconds(lambda: add(x), rounds)
    return Roofs(copy, 2 * size**3 / seconds(lambda: product(x), rounds))


def measure_kernels(r: jax.Array, rounds: int) -> list[Kernel]:
    """Measures hashing of a set, look-up in its own counts, and the nearest others of all rows."""
    n, d = r.shape
    sketch = metrics.lsh_fit(jax.random.key(0), r, ceiling=False).sketch
    hasher, addresses = sketch.hasher, sketch.places.addresses
    pool = len(hasher.directions)
    tiles = distances.tile(r, np.asarray(r[0], np.float64), MEMORY_MB)
    return [
        Kernel(
            f"hash {n:,} rows with {pool} directions", r.nbytes + addresses.nbytes,
            2 * n * d * pool, seconds(lambda: hashing.encode(hasher, r), rounds),
        ),
        Kernel(
            f"look up {n:,} rows in {len(addresses)} tables", 2 * addresses.nbytes, 0,
            seconds(lambda: look_up(sketch.counts, addresses, 1, own=1), rounds),
        ),
        Kernel(
            f"nearest others of {n:,} rows", r.nbytes + 8 * n * NEAREST, n * n * d,
            seconds(lambda: knn.nearest_others(tiles, NEAREST), rounds),
        ),
    ]  # fmt: skip


def measure_metrics(r: jax.Array, g: jax.Array, rounds: int) -> list[Kernel]:
    """Measures whole metrics, fit and score, from device arrays."""
    (n, d), rows = r.shape, len(r) + len(g)
    m, key = len(g), jax.random.key(0)
    features, pool = 4 * rows * d, metrics.HashSpec().num_directions
    local = metrics.lsh_knn_fit(key, r, ceiling=False)
    candidates = 7 * local.bucket_rows * local.hasher.spec.num_tables
    hashing_flops = 2 * rows * d * pool
    return [
        Kernel("KNN", features, 2 * d * (n * n / 2 + m * m / 2 + n * m), seconds(
            lambda: metrics.knn_precision_recall(r, g, ceiling=False, memory_mb=MEMORY_MB), rounds
        )),
        Kernel("LSH", features, hashing_flops, seconds(
            lambda: metrics.lsh_precision_recall(key, r, g, ceiling=False), rounds
        )),
        Kernel("LSH+KNN", features, hashing_flops + candidates * rows * d, seconds(
            lambda: metrics.lsh_knn_precision_recall(key, r, g, ceiling=False), rounds
        )),
    ]  # fmt: skip


def measure_torch(r: jax.Array, g: jax.Array) -> Kernel | None:
    """Measures torch cdist + kthvalue on the same GPU, in blocks; None without torch on CUDA."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    name, run = metric_peers.cdist(np.array(r), np.array(g), rows=5000)  # JAX holds most memory
    (n, d), m = r.shape, len(g)
    flops = 2 * d * (n * n + m * m + 2 * n * m)
    return Kernel(name, 4 * (n + m) * d, flops, seconds(run, 1))


def moved(r: jax.Array, g: jax.Array) -> float:
    """Returns the share of memberships of KNN that differ from float64 on the host, k = 3."""
    scores = metrics.knn_precision_recall(r, g, membership=True, ceiling=False)
    x, y = (np.asarray(v, np.float64) - np.asarray(r, np.float64).mean(0) for v in (r, g))

    def sq(a, b):
        return np.sum(a * a, 1)[:, None] + np.sum(b * b, 1) - 2 * a @ b.T

    def radii(a):
        own = sq(a, a)
        np.fill_diagonal(own, np.inf)
        return np.partition(own, 2, axis=1)[:, 2]

    across = sq(y, x)
    different = ((across <= radii(x)).any(1) != scores.precision_membership).sum()
    different += ((across <= radii(y)[:, None]).any(0) != scores.recall_membership).sum()
    return float(different / (len(x) + len(y)))


def table(kernels: list[Kernel], roofs: Roofs) -> str:
    """Formats as Markdown: bytes, FLOPs, rates, and shares of the peak rates."""
    head = ("", "s", "GB", "GFLOP", "GB/s", "of copy", "GFLOP/s", "of matrix")
    return markdown(head, (
        (
            name, f"{took:.5f}", f"{moves / 1e9:.3f}", f"{flops / 1e9:.2f}",
            f"{moves / took / 1e9:.1f}", f"{moves / took / roofs.copy:.0%}",
            f"{flops / took / 1e9:.0f}", f"{flops / took / roofs.matrix:.0%}",
        )
        for name, moves, flops, took in kernels
    ))  # fmt: skip


def driver() -> str:
    """Returns the GPU as nvidia-smi names it, or ""."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def report(n: int, d: int, rounds: int) -> str:
    """Measures everything, and returns it as Markdown."""
    device = jax.devices()[0]
    r, g = draw(n, d, 1), draw(n, d, 2)
    roofs = measure_roofs(min(8192, 4 * n), rounds)
    whole, other = measure_metrics(r, g, rounds), measure_torch(r, g)
    kernels = [*measure_kernels(r, rounds), *whole, *([other] if other else [])]
    exact, hashed, local = (kernel.seconds for kernel in whole)
    peak, some = (device.memory_stats() or {}).get("peak_bytes_in_use", 0), min(4096, n)
    return "\n".join(
        [
            f"{device.device_kind} {driver()}; Python {platform.python_version()}, JAX "
            f"{jax.__version__}; {datetime.date.today()}; n = m = {n:,}, d = {d}.",
            f"Measured peaks: copy {roofs.copy / 1e9:.0f} GB/s, float32 matrix product "
            f"{roofs.matrix / 1e9:.0f} GFLOP/s. Features {2 * r.nbytes / 1e9:.2f} GB, peak memory "
            f"of the device {peak / 1e9:.2f} GB (0: not known).",
            "",
            table(kernels, roofs),
            f"LSH is {exact / hashed:.0f} times as fast as KNN, LSH+KNN {exact / local:.1f} times.",
            "Products run in full float32, no TF32; comparisons within its error bound are decided "
            f"in float64. Memberships moved at n = m = {some:,}: {moved(r[:some], g[:some]):.1e} "
            "(at most 1e-4).",
            "" if other else "No torch with CUDA: cdist + kthvalue was not measured.",
        ]
    )


def main() -> None:
    """Prints the report, and writes it if there is a GPU."""
    args = options.parse(__doc__, n=50_000, d=4096, rounds=5)
    text = report(args.n, args.d, args.rounds)
    print(text)
    if jax.default_backend() != "gpu":
        print("No GPU here: this was a smoke check, and there is no GPU table.")
        return
    path = Path(__file__).parent / "results" / "gpu.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# Speed on a GPU\n\n{text}\n")


if __name__ == "__main__":
    main()
