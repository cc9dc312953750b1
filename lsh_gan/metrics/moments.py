"""Distances between distributions of features: kernel and Fréchet.

Neither is Inception FID or KID unless the features are Inception's: the numbers of different
feature networks, or of different numbers of samples, do not compare.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics.distances import block_size, dots
from lsh_gan.metrics.inputs import Array, as_features


def kid(reference: Any, generated: Any, *, memory_mb: int = 256) -> float:
    """Kernel distance: unbiased estimate of MMD² with the kernel (x·y/d + 1)³.

    Bińkowski et al. 2018, arXiv:1801.01401. All pairs are used, where the original averages over
    subsets; the expectation is the same, the variance smaller. Unbiased at any sample size, so it
    may be slightly negative.

    Args:
        reference: Features `[n, d]`, NumPy or JAX, floating point; computed in float32.
        generated: Features `[m, d]`.
        memory_mb: Bound of the working memory beside the features, in MiB.

    Returns:
        MMD², dimensionless.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, wrong shape, or fewer than 2 rows.
    """
    reference = as_features(reference, "reference", min_rows=2)
    generated = as_features(generated, "generated", min_rows=2, dim=reference.shape[1])
    size = block_size(max(len(reference), len(generated)), memory_mb)

    def within(x):
        n = len(x)
        return (_kernel_sum(x, x, size) - _diagonal_sum(x)) / (n * (n - 1))

    across = _kernel_sum(reference, generated, size) / (len(reference) * len(generated))
    return float(within(reference) + within(generated) - 2 * across)


@jax.jit
def _row_sums(dot: jax.Array, d: jax.Array) -> jax.Array:
    return jnp.sum((dot / d + 1) ** 3, axis=1)


def _kernel_sum(x: Array, y: Array, size: int) -> float:
    """Sum of the kernel over all pairs. Of a set with itself half the tiles count twice."""
    total, d = 0.0, np.float32(x.shape[1])
    for i in range(0, len(x), size):
        for j in range(i if x is y else 0, len(y), size):
            rows = _row_sums(dots(x[i : i + size], y[j : j + size]), d)
            total += np.asarray(rows).sum(dtype=np.float64) * (2 if x is y and i != j else 1)
    return total


def _diagonal_sum(x: Array) -> float:
    x = np.asarray(x).astype(np.float64)
    return float(np.sum((np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3))


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
        ValueError: NaN, Inf, wrong shape, or fewer than 2 rows.
    """
    reference = as_features(reference, "reference", min_rows=2)
    generated = as_features(generated, "generated", min_rows=2, dim=reference.shape[1])
    (mean_r, cov_r), (mean_g, cov_g) = _moments(reference), _moments(generated)
    values, vectors = np.linalg.eigh(cov_r)
    root = vectors * np.sqrt(np.maximum(values, 0))
    # The trace of the root of C_r C_g, by a symmetric matrix with the same eigenvalues.
    shared = np.linalg.eigvalsh(root.T @ cov_g @ root)
    trace = np.trace(cov_r) + np.trace(cov_g) - 2 * np.sqrt(np.maximum(shared, 0)).sum()
    return float(np.sum((mean_r - mean_g) ** 2) + trace)


def _moments(features: Array) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(features).astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    return mean, x.T @ x / (len(x) - 1)
