"""Distances between distributions of features: kernel and Fréchet.

Neither is Inception FID or KID unless the features are Inception's: the numbers of different
feature networks, or of different numbers of samples, do not compare.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics.distances import block_size, dots
from lsh_gan.metrics.inputs import Array, as_features

_LEAST = 2.0**-40  # features up to so much smaller or larger than 1 are multiplied in float32
_MOST = 1e50  # features whose sixth power float64 holds
_TINIEST = 1e-150  # features whose squares it holds as normal numbers; of smaller ones kid is 0
_FAR = 100  # squared distance of the mean from the origin, over the mean squared one from the mean
_SOME = 256  # rows that say where a set lies


def kid(reference: Any, generated: Any, *, memory_mb: int = 256) -> float:
    """Kernel distance: unbiased estimate of MMD² with the kernel (x·y/d + 1)³.

    Bińkowski et al. 2018, arXiv:1801.01401. All pairs are used, where the original averages over
    subsets; the expectation is the same, the variance smaller. Unbiased at any sample size, so it
    may be slightly negative.

    Args:
        reference: Features `[n, d]`, NumPy or JAX, floating point; computed in float32. In float64
            are those of float64, and those far from the origin beside their spread.
        generated: Features `[m, d]`.
        memory_mb: Bound of the working memory beside the features, in MiB.

    Returns:
        MMD², dimensionless.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, wrong shape, fewer than 2 rows, or a kernel that overflows.
    """
    reference = as_features(reference, "reference")
    generated = as_features(generated, "generated", dim=reference.shape[1])
    largest = max(_largest(reference), _largest(generated))
    kernel = _kernel(largest, reference.shape[1])
    wide = _is_far(reference) or not _LEAST <= largest <= 1 / _LEAST
    size = block_size(max(len(reference), len(generated)), memory_mb)

    def within(x):
        return _kernel_sum(x, x, kernel, size, wide) / (len(x) * (len(x) - 1))

    across = _kernel_sum(reference, generated, kernel, size, wide)
    across /= len(reference) * len(generated)
    return float((within(reference) + within(generated) - 2 * across) * kernel.unit)


class _Kernel(NamedTuple):
    """The kernel without its constant, which cancels, over `unit`: Σ weights · (scale · x·y)^power.

    Of numbers near 1, so that float32 neither overflows nor loses small features beside the 1.
    """

    scale: float
    weights: tuple[float, float, float]  # of powers 1, 2 and 3
    unit: float


def _kernel(largest: float, d: int) -> _Kernel:
    if largest > _MOST:
        raise ValueError(f"The kernel overflows float64: features are as large as {largest:g}.")
    square = max(largest, _TINIEST) ** 2
    unit = max(square, square**3)
    weights = 3 * square / unit, 3 * square**2 / unit, square**3 / unit
    return _Kernel(1 / (square * d), weights, unit)


def _largest(x: Array) -> float:
    return max(float(x.max()), -float(x.min()))


def _is_far(x: Array) -> bool:
    """Whether a set lies so far from the origin that float32 products lose its spread."""
    some = np.asarray(x[:: -(-len(x) // _SOME)]).astype(np.float64)
    mean = some.mean(axis=0)
    return bool(np.sum(mean**2) > _FAR * np.mean(np.sum((some - mean) ** 2, axis=1)))


def _values(dot: Any, kernel: _Kernel) -> Any:
    x = dot * kernel.scale
    one, two, three = kernel.weights
    return x * (one + x * (two + x * three))


@partial(jax.jit, static_argnames="own")
def _row_sums(dot: jax.Array, kernel: _Kernel, *, own: bool) -> jax.Array:
    values = _values(dot, kernel)
    return jnp.sum(jnp.where(jnp.eye(len(dot), dtype=bool), 0, values) if own else values, axis=1)


def _kernel_sum(x: Array, y: Array, kernel: _Kernel, size: int, wide: bool) -> float:
    """Sum of the kernel over all pairs; of a set with itself over those of different rows.

    Half the tiles count twice then. A row with itself is left out from the start: where one is much
    larger than the others, nothing would be left of their pairs beside it.
    """
    total, single = 0.0, None if wide else _Kernel(*jax.tree.map(np.float32, kernel[:2]), None)
    for i in range(0, len(x), size):
        for j in range(i if x is y else 0, len(y), size):
            rows, others = x[i : i + size], y[j : j + size]
            own = x is y and i == j
            if wide:  # block by block, so that no set is held twice
                rows, others = (np.asarray(part).astype(np.float64) for part in (rows, others))
            if rows.dtype == others.dtype == np.float64:
                sums = _values(rows @ others.T, kernel)
                if own:
                    np.fill_diagonal(sums, 0)
            else:
                sums = np.asarray(_row_sums(dots(rows, others), single, own=own))
            total += sums.sum(dtype=np.float64) * (2 if x is y and i != j else 1)
    return total


def frechet_distance(reference: Any, generated: Any) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features, computed in float64.

    ‖μ_r − μ_g‖² + Tr(C_r + C_g − 2 (C_r C_g)^½), Dowson & Landau 1982,
    doi:10.1016/0047-259X(82)90077-X; for generators: Heusel et al. 2017, arXiv:1706.08500.
    Biased upwards unless n and m are many times d.

    Args:
        reference: Features `[n, d]`, NumPy or JAX, floating point.
        generated: Features `[m, d]`.

    Returns:
        The distance, in squared feature units.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, wrong shape, fewer than 2 rows, or a distance that overflows.
    """
    reference = as_features(reference, "reference")
    generated = as_features(generated, "generated", dim=reference.shape[1])
    largest = max(_largest(reference), _largest(generated))
    unit = 2.0 ** (math.frexp(largest)[1] - 1) if largest else 1.0  # so that no product overflows
    few = min(len(reference), len(generated)) <= reference.shape[1]
    r, g = (_moments(x, unit, few) for x in (reference, generated))
    shared = _singular_values(r.factor, g.factor) if few else _roots(r.covariance, g.covariance)
    distance = np.sum((r.mean - g.mean) ** 2) + r.trace + g.trace - 2 * shared.sum()
    distance = max(0.0, float(distance)) * unit * unit  # rounding may leave less than 0
    if math.isinf(distance):
        raise ValueError(f"The distance overflows float64: features are as large as {largest:g}.")
    return distance


class _Moments(NamedTuple):
    """Mean `[d]` and covariance of a set over a power of two, in float64.

    The covariance is `[d, d]`, or X `[at most d, d]` of which it is XᵀX; the other is None.
    """

    mean: np.ndarray
    trace: float
    covariance: np.ndarray | None
    factor: np.ndarray | None


def _moments(features: Array, unit: float, few: bool) -> _Moments:
    x = np.asarray(features).astype(np.float64)
    x /= unit
    mean = x.mean(axis=0)
    x -= mean
    x /= np.sqrt(len(x) - 1)
    trace = float(np.vdot(x, x))
    if not few:
        return _Moments(mean, trace, x.T @ x, None)
    return _Moments(mean, trace, None, np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x)


def _singular_values(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Roots of the eigenvalues of XᵀX YᵀY, those that are not surely 0.

    Where a set has no more rows than dimensions, most eigenvalues may be 0, and `_roots` would take
    the roots of their rounding errors; but it takes less than half of the time.
    """
    return np.linalg.svd(x @ y.T, compute_uv=False)


def _roots(cov_r: np.ndarray, cov_g: np.ndarray) -> np.ndarray:
    """Roots of the eigenvalues of C_r C_g, by a symmetric matrix that has the same."""
    values, vectors = np.linalg.eigh(cov_r)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ cov_g @ root), 0))
