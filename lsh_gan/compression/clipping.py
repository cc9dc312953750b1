"""Clipping thresholds: one function per method, and the table of their names.

A method is a function `(values, spec) -> alpha`: `values` holds the grouped tensor and the traced
width, `spec` the options of the method. `threshold` caps the result at max `|w|`, because a grid
wider than the tensor wastes levels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32

from lsh_gan.compression.quantization import clipped_grid, dequantize, num_levels, quantize

Array = jax.Array

# Candidates of "mse" as fractions of max |w|. The best one is between 1 (16 bits) and a few
# hundredths (1 bit, heavy tails); the nearest candidate differs from it by at most 3.6 %.
MSE_SHARES = tuple(0.01 ** (i / 63) for i in range(64))

KL_BINS = 2048
KL_FIRST_BIN = 128
KL_BATCH = 64


class Values(NamedTuple):
    """A tensor in groups, for which thresholds are computed."""

    x: Float32[Array, "groups group channels"]  #: finite values
    bits: Int32[Array, ""]  #: width of a code; may be traced
    axes: tuple[int, ...]  #: axes that share a threshold: (1,), or (0, 1, 2) per tensor

    def total(self, x: Array) -> Array:
        """Sums over the axes that share a threshold; axis 1 first, to round less; keeps axes."""
        columns = jnp.sum(x, axis=1, keepdims=True)
        return columns if self.axes == (1,) else jnp.sum(columns, axis=(0, 2), keepdims=True)

    def mean(self, x: Array) -> Array:
        """Averages over the axes that share a threshold; keeps axes."""
        return self.total(x) / math.prod(self.x.shape[axis] for axis in self.axes)

    def max_abs(self) -> Array:
        """Returns max `|w|` over the axes that share a threshold."""
        return jnp.max(jnp.abs(self.x), axis=self.axes, keepdims=True)

    def per_unit(self) -> Array:
        """Returns the factor that scales max `|w|` to 1, so that squares stay in range."""
        max_abs = self.max_abs()
        return 1 / jnp.where(max_abs > 0, max_abs, 1)

    def limits(self) -> tuple[Array, Array]:
        """Returns the smallest and the largest value over the axes that share a threshold."""
        low = jnp.min(self.x, axis=self.axes, keepdims=True)
        return low, jnp.max(self.x, axis=self.axes, keepdims=True)


def squared_error(values: Values, scheme: str) -> Callable[[Array], Array]:
    """Returns the function alpha -> sum of squared errors, in units of max `|w|` squared."""

    def error(alpha: Array) -> Array:
        grid = clipped_grid(*values.limits(), alpha, values.bits, scheme=scheme)
        codes = quantize(values.x, grid, values.bits, scheme=scheme)
        return values.total(((dequantize(codes, grid) - values.x) * values.per_unit()) ** 2)

    return error


def percentile(values: Values, spec) -> Array:
    """Returns the `spec.percentile`-th percentile of `|w|`, linear between order statistics.

    Equals `numpy.quantile(abs(w), percentile / 100)`. The rank is computed in float64, because
    float32 cannot index large tensors.
    """
    x = jnp.abs(values.x if values.axes == (1,) else values.x.reshape(1, -1, 1))
    # As integers, non-negative floats have the same order, and are sorted 4 times as fast on a CPU.
    bits = jnp.sort(jax.lax.bitcast_convert_type(x, jnp.uint32), axis=1)
    ordered = jax.lax.bitcast_convert_type(bits, jnp.float32)
    last = ordered.shape[1] - 1
    rank = spec.percentile / 100 * last
    whole = max(min(math.floor(rank), last - 1), 0)
    low, high = ordered[:, whole, None], ordered[:, min(whole + 1, last), None]
    return low + (high - low) * (rank - whole)


def _unless_constant(values: Values, alpha: Array) -> Array:
    """Returns alpha, or max `|w|` where all values are equal: a spread of 0 must not clip all."""
    low, high = values.limits()
    return jnp.where(low == high, values.max_abs(), alpha)


def _root_mean_square(values: Values, x: Array, mean: Callable[[Array], Array]) -> Array:
    # In units of max `|w|`, so that squares neither vanish nor overflow.
    max_abs = values.max_abs()
    return max_abs * jnp.sqrt(mean((x / jnp.where(max_abs > 0, max_abs, 1)) ** 2))


def std(values: Values, spec) -> Array:
    """Returns `spec.num_stds` population standard deviations; max `|w|` of equal values."""
    deviation = _root_mean_square(values, values.x - values.mean(values.x), values.mean)
    return _unless_constant(values, spec.num_stds * deviation)


def mse(values: Values, spec) -> Array:
    """Finds the fraction of max `|w|` with the least squared error, of 64 in geometric steps.

    They run from 1 to 0.01. Among equal errors, the widest threshold wins.
    """
    max_abs = values.max_abs()
    error_at = squared_error(values, spec.scheme)
    shares = jnp.asarray(MSE_SHARES, jnp.float32)
    errors = jax.lax.map(lambda share: error_at(max_abs * share), shares)
    return max_abs * shares[jnp.argmin(errors, axis=0)]


def _root(slope: Callable[[Array], Array]) -> Array:
    """Finds by bisection the root in [0, 32] of a function that goes from negative to positive."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        positive = slope(middle) > 0
        return jnp.where(positive, low, middle), jnp.where(positive, middle, high)

    return jax.lax.fori_loop(0, 32, halve, (jnp.float32(0), jnp.float32(32)))[0]


def gauss_ratio(bits: Array) -> Array:
    """Finds the best threshold of a normal variable, in standard deviations.

    ACIQ, Banner et al. 2019, arXiv:1810.05723. Minimises the squared error of clipping plus that of
    rounding, (1 + a²)(1 - erf(a/√2)) - √(2/π) a e^(-a²/2) + a²/(3·4^bits), at the root of half its
    derivative.
    """
    rounding = 3 * num_levels(bits) ** 2

    def slope(a):
        density = math.sqrt(2 / math.pi) * jnp.exp(-(a**2) / 2)
        return a * jax.lax.erfc(a / math.sqrt(2)) - density + a / rounding

    return _root(slope)


def laplace_ratio(bits: Array) -> Array:
    """Finds the best threshold of a Laplace variable, in mean absolute deviations.

    ACIQ, Banner et al. 2019, arXiv:1810.05723. Minimises 2 e^(-a) + a²/(3·4^bits), at the root of
    half its derivative.
    """
    rounding = 3 * num_levels(bits) ** 2
    return _root(lambda a: a / rounding - jnp.exp(-a))


def _one_sided(values: Values, spec) -> Array:
    """Tells per threshold whether all values have one sign and the grid covers only that side.

    This holds for inputs after a ReLU. Their exact zeros have no error, so methods ignore them.
    """
    low, high = values.limits()
    return ((low >= 0) | (high <= 0)) & (spec.scheme == "affine") & (values.bits > 1)


def _aciq(values: Values, spec, find_ratio: Callable, deviation: Callable) -> Array:
    """Multiplies a ratio by a deviation, a function of (differences from the mean, averaging).

    Values of one sign are treated as half of a distribution that is symmetric about 0, on a grid
    with one more bit, as in Banner et al.
    """
    one_sided = _one_sided(values, spec)
    counted = (values.x != 0) | ~one_sided
    number = jnp.maximum(values.total(counted), 1)
    center = jnp.where(one_sided, 0, values.total(values.x) / number)
    spread = deviation(values.x - center, lambda x: values.total(jnp.where(counted, x, 0)) / number)
    ratio = jnp.where(one_sided, find_ratio(values.bits + 1), find_ratio(values.bits))
    return _unless_constant(values, ratio * spread)


def aciq_gauss(values: Values, spec) -> Array:
    """Returns `gauss_ratio` standard deviations; max `|w|` where all values are equal."""
    return _aciq(values, spec, gauss_ratio, partial(_root_mean_square, values))


def aciq_laplace(values: Values, spec) -> Array:
    """Returns `laplace_ratio` mean absolute deviations; max `|w|` where all values are equal."""
    return _aciq(values, spec, laplace_ratio, lambda x, mean: mean(jnp.abs(x)))


def aciq(values: Values, spec) -> Array:
    """Returns `aciq_gauss` or `aciq_laplace`, whichever has the smaller squared error."""
    error_at = squared_error(values, spec.scheme)
    widest = values.max_abs()
    gauss, laplace = (jnp.minimum(f(values, spec), widest) for f in (aciq_gauss, aciq_laplace))
    return jnp.where(error_at(gauss) <= error_at(laplace), gauss, laplace)


def _kl_divergences(counts: Array, bits: Array) -> Array:
    """Computes KL(P‖Q) for a cut after each bin of a histogram; inf where no cut is allowed.

    P is the histogram up to the cut, with all counts beyond added to its last bin. Q is the
    histogram up to the cut, merged into 2^(bits - 1) levels; each level is spread evenly over its
    non-empty bins. Cumulative sums give the counts of levels. Maps int32 `[bins, rows]`, one
    histogram per column, to float32 of the same shape.
    """
    size = len(counts)
    levels = jnp.left_shift(1, bits - 1)
    cuts = jnp.arange(1, size + 1)
    xlogx = jax.scipy.special.xlogy
    # Integers, so that the difference of two sums is exactly 0 for an empty level.
    sums = jnp.cumsum(jnp.stack([counts, (counts > 0).astype(jnp.int32)]), axis=1)
    sums = jnp.pad(sums, ((0, 0), (1, 0), (0, 0)))
    kept, number = sums[0, 1:], sums[0, -1]
    total = jnp.maximum(number, 1).astype(jnp.float32)
    beyond = (number - kept) / total
    shares = counts / total
    entropy = jnp.cumsum(xlogx(shares, shares), axis=0) - xlogx(shares, shares)

    def add_level(level, carry):
        cross, sums_before = carry
        sums_until = sums[:, -(-(level + 1) * cuts // levels)]
        held, filled = sums_until - sums_before
        weight = held / total + jnp.where(level == levels - 1, beyond, 0)
        spread = held / (jnp.maximum(filled, 1).astype(jnp.float32) * kept)
        return cross + xlogx(weight, spread), sums_until

    # With 2^(bits - 1) >= bins, only the cut after the last bin is allowed; it needs no levels.
    num_terms = jnp.where(levels < size, levels, 0)
    start = (jnp.zeros_like(shares), jnp.zeros_like(sums[:, 1:]))
    cross = jax.lax.fori_loop(0, num_terms, add_level, start)[0]
    impossible = (counts == 0) & (beyond > 0)
    allowed = cuts[:, None] >= jnp.maximum(KL_FIRST_BIN, jnp.minimum(levels, size))
    last = shares + beyond
    return jnp.where(allowed & ~impossible, entropy + xlogx(last, last) - cross, jnp.inf)


def _kl_cuts(rows: Array, bits: Array) -> Array:
    """Finds the cut with the least KL divergence in each of `rows [n, size]`.

    Cuts are fractions of the largest value of the row. Negative numbers are ignored.
    """
    largest = jnp.max(rows, axis=1, keepdims=True)
    position = rows * (KL_BINS / jnp.where(largest > 0, largest, 1))
    bins = jnp.clip(position.astype(jnp.int32), 0, KL_BINS - 1)
    counts = jnp.zeros((KL_BINS, len(rows)), jnp.int32)
    counted = (rows >= 0).astype(jnp.int32)
    counts = counts.at[bins, jnp.arange(len(rows))[:, None]].add(counted)
    divergences = _kl_divergences(counts, bits)
    # Reversed, so that the widest cut wins among equals.
    return (KL_BINS - jnp.argmin(divergences[::-1], axis=0)).astype(jnp.float32) / KL_BINS


def kl(values: Values, spec) -> Array:
    """Cuts the histogram of `|w|` where its KL divergence to the quantized histogram is least.

    Follows NVIDIA's TensorRT calibration (Migacz 2017): 2048 bins, cuts from bin 128 on,
    2^(bits - 1) levels. From 12 bits on a level is no wider than a bin, and nothing is clipped.
    Exact zeros of inputs after a ReLU are ignored: their bin would outweigh all others.
    """
    max_abs = values.max_abs()
    rows = jnp.where((values.x == 0) & _one_sided(values, spec), -1, jnp.abs(values.x))
    rows = rows.transpose(0, 2, 1).reshape(max_abs.size, -1)
    # In batches, because the work space is 2048 numbers per row.
    batch = min(len(rows), KL_BATCH)
    padded = jnp.pad(rows, ((0, -len(rows) % batch), (0, 0))).reshape(-1, batch, rows.shape[1])
    cuts = jax.lax.map(lambda part: _kl_cuts(part, values.bits), padded)
    return max_abs * cuts.reshape(-1)[: len(rows)].reshape(max_abs.shape)


METHODS = {
    "none": lambda values, spec: values.max_abs(),
    "percentile": percentile,
    "std": std,
    "mse": mse,
    "aciq_gauss": aciq_gauss,
    "aciq_laplace": aciq_laplace,
    "aciq": aciq,
    "kl": kl,
}


def threshold(values: Values, spec: Any) -> Float32[Array, "#groups 1 #channels"]:
    """Computes the threshold α by `spec.clipping`: at most max `|w|`, 0 if all values are 0.

    >>> from lsh_gan.compression import CompressionSpec
    >>> x = jnp.array([-4.0, 1, 2, 3]).reshape(1, 4, 1)  # one group of four, one channel
    >>> values = Values(x, jnp.int32(4), axes=(1,))
    >>> threshold(values, CompressionSpec(bits=4, clipping="percentile", percentile=50)).item()
    2.5
    """
    return jnp.minimum(METHODS[spec.clipping](values, spec), values.max_abs())
