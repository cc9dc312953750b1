"""Clipping thresholds: one function a method, and the table of their names.

A method is a function `(values, spec) -> alpha`: `values` holds the grouped tensor and the traced
width, `spec` the options of the method. `threshold` caps the result at max `|w|`, because a wider
grid than the tensor spends levels on nothing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32

from lsh_gan.compression.quantization import clipped_grid, dequantize, num_levels, quantize

Array = jax.Array

# Candidates of "mse" as shares of max |w|: geometric, because the best share lies anywhere between
# 1 (16 bits) and a few hundredths (1 bit, heavy tails) and the error is flat around it. Neighbours
# are 7 % apart, so the nearest candidate misses the best share by 3.6 % at most.
MSE_SHARES = tuple(0.01 ** (i / 63) for i in range(64))

KL_BINS = 2048
KL_FIRST_BIN = 128
KL_BATCH = 64


class Values(NamedTuple):
    """A tensor ready for a threshold.

    Attributes:
        x: float32 `[groups, group, channels]`, finite.
        bits: int32 scalar, may be traced.
        axes: Axes that share one threshold: (1,) or, per tensor, (0, 1, 2).
    """

    x: Float32[Array, "groups group channels"]
    bits: Int32[Array, ""]
    axes: tuple[int, ...]

    def total(self, x: Array) -> Array:
        """Sum over what shares a threshold, keeping axes.

        Columns first: long float32 sums are then short sums of sums, which round less.
        """
        columns = jnp.sum(x, axis=1, keepdims=True)
        return columns if self.axes == (1,) else jnp.sum(columns, axis=(0, 2), keepdims=True)

    def size(self) -> int:
        """Number of values that share a threshold."""
        return math.prod(self.x.shape[axis] for axis in self.axes)

    def mean(self, x: Array) -> Array:
        """Mean over what shares a threshold, keeping axes."""
        return self.total(x) / self.size()

    def max_abs(self) -> Array:
        """Max `|w|` over what shares a threshold."""
        return jnp.max(jnp.abs(self.x), axis=self.axes, keepdims=True)

    def limits(self) -> tuple[Array, Array]:
        """Smallest and largest value over what shares a threshold."""
        low = jnp.min(self.x, axis=self.axes, keepdims=True)
        return low, jnp.max(self.x, axis=self.axes, keepdims=True)


def squared_error(values: Values, scheme: str) -> Callable[[Array], Array]:
    """The function alpha -> sum of squared quantization errors, in units of max `|w|` squared."""
    low, high = values.limits()
    max_abs = values.max_abs()
    per_unit = 1 / jnp.where(max_abs > 0, max_abs, 1)

    def error(alpha: Array) -> Array:
        grid = clipped_grid(low, high, alpha, values.bits, scheme=scheme)
        codes = quantize(values.x, grid, values.bits, scheme=scheme)
        return values.total(((dequantize(codes, grid) - values.x) * per_unit) ** 2)

    return error


def no_clipping(values: Values, spec) -> Array:
    """Max `|w|`: nothing is clipped."""
    del spec
    return values.max_abs()


def order_statistic(values: Values, rank: int) -> tuple[Array, Array]:
    """The rank-th and the next smallest of `|w|` (rank from 0), exactly and without sorting.

    The bits of a non-negative float32 sort like the number, so the answer is built bit by bit from
    the top: 31 counting passes, each as fast as memory, where a sort takes 20 times longer on CPU.
    """
    keys = jax.lax.bitcast_convert_type(jnp.abs(values.x), jnp.int32)

    def try_bit(i, found):
        candidate = found | jnp.left_shift(1, 30 - i)
        below = values.total((keys < candidate).astype(jnp.int32))
        return jnp.where(below <= rank, candidate, found)

    start = jnp.zeros_like(values.max_abs(), dtype=jnp.int32)
    key = jax.lax.fori_loop(0, 31, try_bit, start)
    above = jnp.where(keys > key, keys, jnp.iinfo(jnp.int32).max)
    repeated = values.total((keys <= key).astype(jnp.int32)) > rank + 1
    following = jnp.where(repeated, key, jnp.min(above, axis=values.axes, keepdims=True))
    as_float = functools.partial(jax.lax.bitcast_convert_type, new_dtype=jnp.float32)
    return as_float(key), as_float(following)


def percentile(values: Values, spec) -> Array:
    """The `spec.percentile`-th percentile of `|w|`, linear between order statistics.

    Equals `numpy.quantile(abs(w), percentile / 100)`; the rank is computed in float64 because
    float32 cannot index large tensors.
    """
    last = values.size() - 1
    rank = spec.percentile / 100 * last
    whole = min(math.floor(rank), last - 1)
    if last == 0:
        return values.max_abs()
    low, high = order_statistic(values, whole)
    return low + (high - low) * (rank - whole)


def _unless_constant(values: Values, alpha: Array) -> Array:
    """Alpha, but max `|w|` where all values are equal: a spread of 0 is no reason to clip."""
    low, high = values.limits()
    return jnp.where(low == high, values.max_abs(), alpha)


def standard_deviation(values: Values) -> Array:
    """Population standard deviation (about the mean) of what shares a threshold."""
    # In units of max `|w|`, so that squares neither vanish nor overflow.
    max_abs = values.max_abs()
    deviations = (values.x - values.mean(values.x)) / jnp.where(max_abs > 0, max_abs, 1)
    return max_abs * jnp.sqrt(values.mean(deviations**2))


def std(values: Values, spec) -> Array:
    """`spec.num_stds` standard deviations; max `|w|` where all values are equal."""
    return _unless_constant(values, spec.num_stds * standard_deviation(values))


def mse(values: Values, spec) -> Array:
    """The share of max `|w|` in `MSE_SHARES` (64 steps, 1 to 0.01) of least squared error.

    Brute force with the quantizer itself; between equals the widest threshold wins.
    """
    max_abs = values.max_abs()
    error_at = squared_error(values, spec.scheme)
    shares = jnp.asarray(MSE_SHARES, jnp.float32)

    def try_share(i, best):
        alpha = max_abs * shares[i]
        error = error_at(alpha)
        better = error < best[0]
        return jnp.where(better, error, best[0]), jnp.where(better, alpha, best[1])

    start = (jnp.full_like(max_abs, jnp.inf), max_abs)
    return jax.lax.fori_loop(0, len(MSE_SHARES), try_share, start)[1]


def _root(slope: Callable[[Array], Array]) -> Array:
    """The root in [0, 32] of a function that goes from negative to positive, by bisection."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        positive = slope(middle) > 0
        return jnp.where(positive, low, middle), jnp.where(positive, middle, high)

    return jax.lax.fori_loop(0, 32, halve, (jnp.float32(0), jnp.float32(32)))[0]


def gauss_ratio(bits: Array) -> Array:
    """Best threshold of a normal variable in standard deviations (Banner et al. 2019, ACIQ).

    Minimises (1 + a^2)(1 - erf(a/√2)) - √(2/π) a e^(-a²/2) + a²/(3·4^bits): the squared error of
    clipping plus that of rounding. Half its derivative is solved for 0.
    """
    rounding = 3 * num_levels(bits) ** 2

    def slope(a):
        density = math.sqrt(2 / math.pi) * jnp.exp(-(a**2) / 2)
        return a * jax.lax.erfc(a / math.sqrt(2)) - density + a / rounding

    return _root(slope)


def laplace_ratio(bits: Array) -> Array:
    """Best threshold of a Laplace variable in mean absolute deviations (Banner et al. 2019, ACIQ).

    Minimises 2 e^(-a) + a²/(3·4^bits). Half its derivative is solved for 0.
    """
    rounding = 3 * num_levels(bits) ** 2
    return _root(lambda a: a / rounding - jnp.exp(-a))


def aciq_gauss(values: Values, spec) -> Array:
    """`gauss_ratio` standard deviations; max `|w|` where all values are equal."""
    del spec
    return _unless_constant(values, gauss_ratio(values.bits) * standard_deviation(values))


def aciq_laplace(values: Values, spec) -> Array:
    """`laplace_ratio` mean absolute deviations; max `|w|` where all values are equal."""
    del spec
    deviation = values.mean(jnp.abs(values.x - values.mean(values.x)))
    return _unless_constant(values, laplace_ratio(values.bits) * deviation)


def aciq(values: Values, spec) -> Array:
    """The better of `aciq_gauss` and `aciq_laplace` by measured squared error."""
    error_at = squared_error(values, spec.scheme)
    widest = values.max_abs()
    gauss, laplace = (jnp.minimum(f(values, spec), widest) for f in (aciq_gauss, aciq_laplace))
    return jnp.where(error_at(gauss) <= error_at(laplace), gauss, laplace)


def _kl_divergences(counts: Array, bits: Array) -> Array:
    """KL(P‖Q) of cutting a histogram after each of its bins; inf where a cut is not allowed.

    P is the histogram up to the cut with everything beyond added to its last bin; Q is the
    histogram up to the cut merged into 2^(bits - 1) levels and spread evenly over the bins that
    hold something. Cumulative sums give a level's count at once, so that a cut costs one term a
    level and not one a bin.

    Args:
        counts: int32 `[bins, rows]`, values in each bin, one histogram a column.
        bits: int32 scalar, may be traced.

    Returns:
        float32 `[bins, rows]`.
    """
    size = len(counts)
    levels = jnp.left_shift(1, bits - 1)
    cuts = jnp.arange(1, size + 1)
    xlogx = jax.scipy.special.xlogy
    # Whole numbers: a difference of two sums is exactly 0 for an empty level.
    sums = jnp.cumsum(jnp.stack([counts, (counts > 0).astype(jnp.int32)]), axis=1)
    sums = jnp.pad(sums, ((0, 0), (1, 0), (0, 0)))
    kept, total = sums[0, 1:], sums[0, -1]
    beyond = (total - kept) / total
    shares = counts / total
    entropy = jnp.cumsum(xlogx(shares, shares), axis=0) - xlogx(shares, shares)

    def add_level(level, carry):
        cross, sums_before = carry
        sums_until = sums[:, -(-(level + 1) * cuts // levels)]
        held, filled = sums_until - sums_before
        weight = held / total + jnp.where(level == levels - 1, beyond, 0)
        spread = held / (jnp.maximum(filled, 1).astype(jnp.float32) * kept)
        return cross + xlogx(weight, spread), sums_until

    # At 2^(bits - 1) >= bins only the cut after the last bin is left; it needs no levels.
    num_terms = jnp.where(levels < size, levels, 0)
    start = (jnp.zeros_like(shares), jnp.zeros_like(sums[:, 1:]))
    cross = jax.lax.fori_loop(0, num_terms, add_level, start)[0]
    impossible = (counts == 0) & (beyond > 0)
    allowed = cuts[:, None] >= jnp.maximum(KL_FIRST_BIN, jnp.minimum(levels, size))
    last = shares + beyond
    return jnp.where(allowed & ~impossible, entropy + xlogx(last, last) - cross, jnp.inf)


def _kl_cuts(rows: Array, bits: Array) -> Array:
    """The share of max `|w|` after which the KL divergence is least, for `[rows, size]` values."""
    max_abs = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    position = jnp.abs(rows) * (KL_BINS / jnp.where(max_abs > 0, max_abs, 1))
    bins = jnp.minimum(position.astype(jnp.int32), KL_BINS - 1)
    counts = jnp.zeros((KL_BINS, len(rows)), jnp.int32)
    counts = counts.at[bins, jnp.arange(len(rows))[:, None]].add(1)
    divergences = _kl_divergences(counts, bits)
    # Between equals the widest wins.
    return (KL_BINS - jnp.argmin(divergences[::-1], axis=0)) / KL_BINS


def kl(values: Values, spec) -> Array:
    """The cut of a 2048-bin histogram of `|w|` of least KL divergence to its quantized self.

    After NVIDIA's TensorRT calibration (Migacz 2017): cuts from bin 128 on, 2^(bits - 1) levels,
    what lies beyond the cut counted in P's last bin and not in Q. α is the upper edge of the last
    bin. From 12 bits on a level is no wider than a bin and nothing is clipped.
    """
    del spec
    groups, size, channels = values.x.shape
    if len(values.axes) == 3:
        rows = values.x.reshape(1, -1)
    else:
        rows = values.x.transpose(0, 2, 1).reshape(groups * channels, size)
    # In batches, because the work space is 2048 numbers a row.
    batch = min(len(rows), KL_BATCH)
    padded = jnp.pad(rows, ((0, -len(rows) % batch), (0, 0))).reshape(-1, batch, rows.shape[1])
    cuts = jax.lax.map(lambda part: _kl_cuts(part, values.bits), padded).reshape(-1)[: len(rows)]
    max_abs = values.max_abs()
    return max_abs * cuts.reshape(max_abs.shape)


METHODS = {
    "none": no_clipping,
    "percentile": percentile,
    "std": std,
    "mse": mse,
    "aciq_gauss": aciq_gauss,
    "aciq_laplace": aciq_laplace,
    "aciq": aciq,
    "kl": kl,
}


def threshold(values: Values, spec: Any) -> Float32[Array, "#groups 1 #channels"]:
    """The clipping threshold α of `spec.clipping`, at most max `|w|`; 0 for all-zero groups."""
    return jnp.minimum(METHODS[spec.clipping](values, spec), values.max_abs())
