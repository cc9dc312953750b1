"""Distances between distributions of features: kernel and Fréchet.

They are the usual KID and FID only if the features are Inception's. Do not compare numbers of
different feature networks, or of different numbers of samples.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from lsh_gan.metrics import distances
from lsh_gan.metrics.distances import Tiles
from lsh_gan.metrics.inputs import Array, as_features, check_options


def kid(
    reference: Float[Any, "n d"], generated: Float[Any, "m d"], *, memory_mb: float = 256
) -> tuple[float, float]:
    """Estimates the kernel distance, and its standard error over both samples.

    MMD² with the kernel (x·y/d + 1)³, unbiased, dimensionless: Bińkowski et al. 2018,
    arXiv:1801.01401. All pairs are used, while the original averages over subsets: the expectation
    is the same, and the variance is smaller. The estimate is unbiased at any sample size, so it may
    be slightly negative. Between a set and itself it is below 0 by many standard errors, since the
    samples are not independent. The error is that of the projection on single rows (Hoeffding 1948,
    doi:10.1214/aoms/1177730196), and up to √2 too large if both sets have the same distribution.

    >>> import numpy as np
    >>> real = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    >>> distance, error = kid(real, real + 1)
    >>> bool(0 < error < distance / 5)
    True

    `memory_mb` is the memory for a tile of kernel values, in MiB. Features and errors are those of
    `knn_precision_recall`, but 2 rows are enough.
    """
    check_options(memory_mb=memory_mb)
    sets = _checked(reference, generated)
    nowhere = np.zeros(sets[0].shape[1])
    distance, error = _kid(*(distances.tile(x, nowhere, memory_mb) for x in sets))
    return float(distance), float(error)


def _checked(reference: Any, generated: Any) -> tuple[Array, Array]:
    reference = as_features(reference, "reference")
    return reference, as_features(generated, "generated", dim=reference.shape[1])


@jax.jit
def _kid(r: Tiles, g: Tiles) -> tuple[jax.Array, jax.Array]:
    with jax.enable_x64(True):

        def sums(x: Tiles, y: Tiles, itself: bool = False):
            """Sums the kernel of each row of x over y (or its other rows), and of y over x."""
            d = x.rows.shape[2]

            def with_tile(i):
                def tile(j):
                    xy = distances.products(x.rows[i], y.rows[j]).astype(jnp.float64)
                    inside = jnp.isfinite(x.sq_norms[i])[:, None] & jnp.isfinite(y.sq_norms[j])
                    if itself:
                        inside &= ~((i == j) & jnp.eye(len(xy), dtype=bool))
                    values = jnp.where(inside, (xy / d + 1) ** 3, 0)
                    return values.sum(axis=1), values.sum(axis=0)

                of_x, of_y = lax.map(tile, jnp.arange(len(y.rows)))
                return of_x.sum(axis=0), of_y

            of_x, of_y = lax.map(with_tile, jnp.arange(len(x.rows)))
            return of_x.ravel(), of_y.sum(axis=0).ravel()

        n, m, (of_r, of_g) = r.inside.sum(), g.inside.sum(), sums(r, g)
        # The contribution of each row; the distance is the sum of both means.
        added = [
            (sums(r, r, True)[0] / (n - 1) - of_r / m, r.inside),
            (sums(g, g, True)[0] / (m - 1) - of_g / n, g.inside),
        ]
        distance = jnp.stack([jnp.mean(x, where=inside) for x, inside in added]).sum()
        of_each = [jnp.var(x, where=inside) / inside.sum() for x, inside in added]
        return distance, jnp.sqrt(4 * jnp.stack(of_each).sum())


def frechet_distance(reference: Float[Any, "n d"], generated: Float[Any, "m d"]) -> float:
    """Computes the Fréchet distance between Gaussians fitted to two sets of features, in float64.

    ‖μ_r − μ_g‖² + Tr(C_r + C_g − 2 (C_r C_g)^½), Dowson & Landau 1982,
    doi:10.1016/0047-259X(82)90077-X; for generators: Heusel et al. 2017, arXiv:1706.08500.
    Biased upwards unless n and m are many times d.

    >>> import numpy as np
    >>> real = np.random.default_rng(0).normal(size=(400, 4))
    >>> round(frechet_distance(real, real + 2), 6)
    16.0

    Features and errors as `kid`; the unit is that of squared features.
    """
    sets = _checked(reference, generated)
    with jax.enable_x64(True):
        return float(_frechet(*(jnp.asarray(np.asarray(x), jnp.float64) for x in sets)))


@jax.jit
def _frechet(r, g):
    def root(x):  # returns X, for which the covariance is XᵀX
        x = (x - x.mean(axis=0)) / jnp.sqrt(len(x) - 1.0)
        return jnp.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x

    x, y = root(r), root(g)
    # Tr (C_r C_g)^½ is the sum of the singular values of X Yᵀ.
    shared = jnp.linalg.svd(x @ y.T, compute_uv=False).sum()
    apart = jnp.sum((r.mean(axis=0) - g.mean(axis=0)) ** 2)
    return jnp.maximum(0, apart + jnp.sum(x * x) + jnp.sum(y * y) - 2 * shared)
