"""Fits a hash: draws directions and thresholds, and finds the centre and the radius bins.

Robust: μ, thresholds and bins see the central 90 % of the reference by distance from its mean, so
that up to a tenth of outliers moves none of them much.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics import hashing
from lsh_gan.metrics.checks import check_type
from lsh_gan.metrics.distances import move
from lsh_gan.metrics.hashing import Hasher, HashSpec, filled, norms_about, project
from lsh_gan.metrics.inputs import ORDINARY, Array, narrow, scale_for
from lsh_gan.metrics.streams import SAMPLE_ROWS

CENTRAL = 0.9  # share of the reference that a fit looks at
_NEAR = 4  # spreads that μ may be from the origin before features are shifted by it first
_EXTREME = 1000  # times the usual size of rows: too large to say anything of the others
_USUAL = 50  # times the spread of a feature, in which the largest value mostly lies
_MEMBER_BYTES = 20  # of a table's direction: its number, its threshold, and the draws behind them
_RANK_BYTES = 12  # of a draw of one direction for one table, which ranks it, and its rank
_ROUNDING = 1e-5  # more than a norm in float32 is wrong by, as a share


def draw_hash(key: jax.Array, sample: Array, spec: HashSpec, *, source: str = "") -> Hasher:
    """Fits everything but the number of bits, which 'auto' leaves at the most there can be.

    Args:
        key: `jax.random.key`; draws directions, members of tables and thresholds.
        sample: Finite features of the reference, floating point `[n, d]`.
        spec: What to fit.
        source: Where the features come from.

    Returns:
        The hasher; families and their sources are in `hashing`.

    Raises:
        TypeError: `spec`, `key` or `source` is something else.
        ValueError: What is drawn would not fit in memory.
    """
    check_spec(key, spec, source)
    _check_memory(spec, *sample.shape)
    t, b = spec.num_tables, spec.max_digits
    pool = _pool(spec)
    for_directions, for_members, for_thresholds = jax.random.split(key, 3)
    directions = _directions(for_directions, pool, sample.shape[1])
    members = _members(for_members, spec, pool)
    shift, scale, near = _centre(sample)
    # Not by BLAS, whose threads would wait on the cores of what comes next.
    offsets = np.einsum("pd,d->p", directions, shift) if near else np.zeros(0)
    digits = b if spec.num_bits == "auto" else spec.num_bits
    hasher = Hasher(
        spec, np.full(t, digits, np.int32), shift, scale, directions, members,
        np.zeros((t, b), np.float32), 1.0, np.zeros(0, np.float32),
        offsets.astype(np.float32), source,
    )  # fmt: skip
    found = project(hasher, sample)
    norms = np.asarray(found.norms)[: sample.shape[0]]
    central = np.flatnonzero(norms <= np.quantile(norms, CENTRAL))
    # Drawn by rank: the same draw from a slightly different sample is a slightly different value.
    uniform = np.asarray(jax.random.uniform(for_thresholds, (t, b), jnp.float32), np.float64)
    if spec.family == "affine":
        ordered = np.sort(np.asarray(found.projections())[:, central], axis=1)
        rank = (uniform * len(central)).astype(np.int64)
        above = np.minimum(rank + 1, len(central) - 1)
        # Midway to the next row: no row of the sample lies on a threshold, where the rounding of a
        # product, which depends on the shape of the batch, would decide its code.
        thresholds = (ordered[members, rank] + ordered[members, above]) / 2
        hasher = hasher._replace(thresholds=thresholds.astype(np.float32))
    elif spec.family == "pstable":
        width = spec.width * float(np.asarray(found.projections())[:, central].std()) or 1.0
        hasher = hasher._replace(thresholds=-(uniform * width).astype(np.float32), width=width)
    return hasher._replace(radius_edges=_radius_edges(norms, central, spec.radius_bins))


def _pool(spec: HashSpec) -> int:
    """Directions that are drawn."""
    return spec.num_directions or spec.num_tables * spec.max_digits


def _check_memory(spec: HashSpec, rows: int, d: int) -> None:
    """Raises ValueError, with the bytes, when a hash fitted on a sample `[rows, d]` is too large.

    Samples beyond the usual size are their owner's affair.
    """
    t, b, pool = spec.num_tables, spec.max_digits, _pool(spec)
    rows = min(max(rows, hashing.FEWEST), SAMPLE_ROWS)
    size = 4 * pool * (d + rows) + _MEMBER_BYTES * t * b
    if spec.num_directions:
        size += _RANK_BYTES * t * pool
    if size > hashing.MEMORY_BYTES:
        raise ValueError(
            f"num_tables = {t}, num_bits = {spec.num_bits}, num_directions = "
            f"{spec.num_directions}: {pool} directions of d = {d}, their products with {rows} rows "
            f"and {b} of them for each table take {size} bytes, more than {hashing.MEMORY_BYTES}; "
            "use fewer tables, bits or directions (tables can share num_directions = 128)."
        )


def check_spec(key: jax.Array, spec: HashSpec, source: str) -> None:
    """Raises TypeError unless these are a key, a HashSpec and a string."""
    check_type("spec", spec, HashSpec, "a HashSpec")
    check_type("source", source, str, "a string")
    check_type("key", key, (jax.Array, np.ndarray), "jax.random.key(seed)")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if key.shape != (() if typed else (2,)) or not (typed or key.dtype == np.uint32):
        raise TypeError(
            f"key has shape {key.shape} and dtype {key.dtype}; expected jax.random.key(seed)."
        )


@functools.partial(jax.jit, static_argnums=(1, 2))
def _directions(key: jax.Array, pool: int, d: int) -> jax.Array:
    w = jax.random.normal(key, (pool, d), jnp.float32)
    return w / jnp.linalg.norm(w, axis=1, keepdims=True)


def _members(key: jax.Array, spec: HashSpec, pool: int) -> np.ndarray:
    t, b = spec.num_tables, spec.max_digits
    if not spec.num_directions:
        return np.arange(pool, dtype=np.int32).reshape(t, b)
    order = np.argsort(np.asarray(jax.random.uniform(key, (t, pool), jnp.float32)), axis=1)
    return order[:, :b].astype(np.int32)


@np.errstate(over="ignore", invalid="ignore")  # `scale_for` refuses what is infinite
def _centre(sample: Array) -> tuple[np.ndarray, float, bool]:
    """Mean of the central rows, float64 `[d]`, a scale, and whether the mean is near the origin.

    The scale is the power of two that brings the offsets from the mean near 1. "Near" is beside the
    spread: products with features as they come then lose no precision to speak of.
    """
    rows, wide = sample.shape[0], sample.dtype == np.float64
    if wide:
        sample = np.asarray(sample)
        mean, low, high = (f(axis=0) for f in (sample.mean, sample.min, sample.max))
    else:
        x = filled(sample)
        weights = (np.arange(len(x)) < rows) / np.float32(rows)
        mean, low, high = (np.asarray(v) for v in _summary(x, weights.astype(np.float32)))
    largest = float(max((high - mean).max(), (mean - low).max()))
    if not wide and not 1 / ORDINARY < largest < ORDINARY:  # 0 too: kernels take tiny ones for it
        exact = np.asarray(sample).astype(np.float64)
        if np.ptp(exact, axis=0).any():
            return _centre(exact)
    scale = scale_for(largest)
    if wide:
        x = filled(narrow(sample, mean, scale))
        norms, near = norms_about(x, np.zeros(len(mean), np.float32), np.float32(1)), False
    else:
        norms = norms_about(x, mean, np.float32(scale))
        near = _is_near(mean, scale, np.asarray(norms)[:rows])
        x = x if near else move(x, mean, np.float32(scale))
    norms = np.asarray(norms)[:rows]
    if _USUAL * float(np.median(norms)) < math.sqrt(sample.shape[1]):
        ordinary = _ordinary(sample)
        if len(ordinary) < rows:
            return _centre(sample[ordinary])
    weights = np.zeros(len(x), np.float32)
    weights[:rows] = norms <= np.quantile(norms, CENTRAL)
    centre = np.asarray(_weighted_sum(x, weights), np.float64) / weights.sum()
    shift = centre if near else mean + centre / scale
    return shift if wide else shift.astype(np.float32).astype(np.float64), scale, near


def _ordinary(sample: Array) -> np.ndarray:
    """Rows without extreme values, beside which float32 would lose all others, int64 `[rows]`."""
    largest = np.abs(np.asarray(sample).astype(np.float64)).max(axis=1)
    usual = np.median(largest[largest > 0]) if largest.any() else 0
    return np.flatnonzero(largest <= _EXTREME * usual)


def _is_near(mean: np.ndarray, scale: float, norms: np.ndarray) -> bool:
    return float(np.linalg.norm(mean * np.float32(scale))) <= _NEAR * float(np.median(norms))


@jax.jit
def _weighted_sum(x, weights):
    return jnp.matmul(weights, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _summary(x, weights):
    """Weighted sum, least and largest value of each column, float32 `[d]`."""
    x = x.astype(jnp.float32)
    return _weighted_sum(x, weights), x.min(axis=0), x.max(axis=0)


def _radius_edges(norms: np.ndarray, central: np.ndarray, bins: int) -> np.ndarray:
    if not bins:
        return np.zeros(0, np.float32)
    edges = np.quantile(norms[central], np.linspace(0, 1, bins + 1)[1:])
    # Midway between rows, as thresholds are, and as far below the first and above the last row as
    # rounding never reaches.
    ordered = np.sort(norms).astype(np.float64)
    above = np.searchsorted(ordered, edges, side="right")
    edges = (ordered[above - 1] + ordered[np.minimum(above, len(ordered) - 1)]) / 2
    ends = ordered[0] * (1 - _ROUNDING), max(ordered[-1], edges[-1]) * (1 + _ROUNDING)
    return np.concatenate([ends[:1], edges, ends[1:]]).astype(np.float32)
