"""Checks feature sets and options once, before any heavy work.

Other code trusts its arguments: finite features `[n, d]`, float32 or float64, and valid options.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsh_gan import devices
from lsh_gan.errors import choose

Array = np.ndarray | jax.Array
# Limits of the largest absolute feature: squares and their sums must fit in float32.
SMALLEST, LARGEST = 1e-16, 1e15
MIN_LEVEL = -0.5  # default of LSH
_BLOCK = 1024  # rows per transfer from host to device
DIGIT_BITS = {"affine": 1, "hyperplane": 1, "pstable": 3}
MAX_DIGITS = {"affine": 24, "hyperplane": 24, "pstable": 10}
_DTYPES = tuple(np.dtype(t) for t in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))


@dataclasses.dataclass(frozen=True)
class HashSpec:
    """Options of a hash; a field out of range is a ValueError with its name, value and range.

    With `num_bits='auto'`, tables have as many digits as still let the reference recognise itself
    (`hashing.fit_num_bits`). Some tables then have one digit more than others.
    """

    family: str = "pstable"  #: or 'affine' or 'hyperplane'; see `hashing`
    num_tables: int = 32  #: T, 1 to 65535
    num_bits: int | str = "auto"  #: or 0 to 10 digits of 3 bits (pstable), or 0 to 24 of 1 bit
    radius_bins: int = 8  #: quantile bins of the distance from the mean, 0 (none) to 1000
    width: float = 1.5  #: of a pstable digit, in standard deviations of a projection
    num_directions: int = 128  #: in the pool that all tables draw from, 1 to 65536
    ceiling_target: float = 0.85  #: share of the reference that recognises itself under 'auto'

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # from a NumPy range, say
                object.__setattr__(self, name, value.item())
        most = choose("hash family", self.family, MAX_DIGITS)
        if self.num_bits != "auto":
            _check_range("num_bits", self.num_bits, 0, most, " (or 'auto')")
        _check_range("num_tables", self.num_tables, 1, 2**16 - 1)
        _check_range("radius_bins", self.radius_bins, 0, 1000)
        # A table draws different directions.
        least = 1 if self.num_bits == "auto" else max(1, int(self.num_bits))
        _check_range("num_directions", self.num_directions, least, 2**16)
        check_options(width=self.width, ceiling_target=self.ceiling_target)

    @property
    def max_digits(self) -> int:
        """Number of digits that are drawn per table, of which the first ones count."""
        return min(MAX_DIGITS[self.family], self.num_directions)

    @property
    def static(self) -> "HashSpec":
        """The fields that shapes and compiled programs depend on; others have fixed values."""
        return dataclasses.replace(self, num_bits="auto", width=1.0, ceiling_target=0.5)


# The condition on each option, and its text in messages; others are whole, from 1 to 1024.
_NUMBERS: dict[str, tuple[Callable, str]] = {
    "votes": (lambda x: 0 < x <= 1, "a share in (0, 1]"),
    "min_level": (math.isfinite, "a number, or None"),
    "memory_mb": (lambda x: x >= 1, "at least 1"),
    "width": (lambda x: 0 < x < math.inf, "a positive number"),
    "ceiling_target": (lambda x: 0 < x < 1, "it in (0, 1)"),
}


def check_options(**options: Any) -> None:
    """Raises ValueError, with name, value and range, for an option out of range.

    Options are k, density_k, min_count, bucket_rows, num_points and those of `_NUMBERS`. Only
    votes and min_level may be None.
    """
    for name, value in options.items():
        if name not in _NUMBERS:
            of_k = name == "bucket_rows"
            low, hint = (options["k"] + 2, f", as k = {options['k']}") if of_k else (1, "")
            _check_range(name, value, low, 2**20 if name == "num_points" else 1024, hint)
        elif value is not None or name not in ("votes", "min_level"):
            fits, expected = _NUMBERS[name]
            if isinstance(value, bool) or not (isinstance(value, Real) and fits(value)):
                raise ValueError(f"{name} = {value!r}; expected {expected}.")


def _check_range(name: str, value: Any, low: int, high: int, hint: str = "") -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(f"{name} = {value!r}; expected a whole number from {low} to {high}{hint}.")


def as_features(
    features: Any, source: str, *, dim: int = 0, least: int = 2, k: int = 0, first_row: int = 0
) -> Array:
    """Returns features `[n, d]` as one checked NumPy or JAX array, float64 if given so, or float32.

    Messages name the set by `source` ("reference"), and a row by its number; that of the first row
    of a batch is `first_row`. `dim` is the expected d (0: any), and `least` the required number of
    rows. Balls of k neighbours need k + 2 rows.

    Raises:
        TypeError: Not an array, sparse, or not real floating point.
        ValueError: Wrong rank or d, too few rows, NaN or Inf (the message names the row).
    """
    features = as_array(features, source)
    if features.dtype not in _DTYPES:
        raise TypeError(
            f"{source} has dtype {features.dtype}; expected floating-point features: float16, "
            "bfloat16, float32 or float64."
        )
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{source} has shape {tuple(features.shape)}; expected [rows, d].")
    if dim and features.shape[1] != dim:
        raise ValueError(f"{source} has d = {features.shape[1]}; the other set has d = {dim}.")
    why, least = (f"k = {k} needs", k + 2) if k else ("expected", least)
    if len(features) < least:
        raise ValueError(f"{source} has {len(features)} rows; {why} at least {least}.")
    if features.dtype not in (np.float64, np.float32):
        features = features.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        of_host = isinstance(features, np.ndarray)
        total = float(_total(features, np) if of_host else jax.jit(_total)(features))
    if not 1e-6 < abs(total) < 1e15:  # NaN, Inf, or a large or small sum: check each value
        _check_values(np.asarray(features), source, first_row)
    return features


def as_references(reference: Any, second: Any, k: int) -> tuple[Array, Array | None]:
    """Returns checked features of a reference, for balls of k neighbours, and of a second one."""
    reference = as_features(reference, "reference", k=k)
    if second is not None:
        second = as_features(second, "second reference", dim=reference.shape[1])
        check_second(len(reference), len(second))
    return reference, second


def check_type(name: str, value: Any, *expected: type, hint: str = "") -> None:
    """Raises TypeError unless a value is of one of the expected types."""
    if not isinstance(value, expected):
        types = " or ".join(x.__name__ for x in expected)
        raise TypeError(f"{name} is a {type(value).__name__}; expected a {types}{hint}.")


def check_second(rows: int, second_rows: int) -> None:
    """Raises ValueError if a second reference has fewer rows than the reference."""
    if second_rows < rows:
        raise ValueError(
            f"second reference has {second_rows} rows; the reference has {rows}: give at least as "
            "many, or none, and the ceilings come from the reference alone."
        )


def check_labels(labels: Any, n: int, m: int) -> None:
    """Raises ValueError unless there are labels of a reference `[n]` and a generated set `[m]`."""
    if labels is None:
        return
    two = np.iterable(labels) and len(tuple(labels)) == 2
    found = [np.shape(x) for x in labels] if two else np.shape(labels)
    if found != [(n,), (m,)]:
        raise ValueError(
            f"labels have shapes {found}; expected those of both sets, {(n,)}, {(m,)}."
        )


def _total(features, xp=jnp):
    return xp.sum(features @ xp.ones(features.shape[1], features.dtype))


def _check_values(features: np.ndarray, source: str, first_row: int) -> None:
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite)) + first_row
        raise ValueError(f"{source} has NaN or Inf in row {row}.")
    largest = float(np.abs(features).max(initial=0))
    if largest > LARGEST or 0 < largest < SMALLEST:
        what = "values up to" if largest < SMALLEST else "a value of"
        raise ValueError(
            f"{source} holds {what} {largest:.3g}; expected the largest from {SMALLEST:g} to "
            f"{LARGEST:g}: scale both sets alike."
        )


def as_array(features: Any, source: str) -> Array:
    """Converts features to a NumPy or JAX array of the same values."""
    if isinstance(features, np.ma.MaskedArray):
        raise TypeError(f"{source} is a masked array; fill it first.")
    if isinstance(features, np.ndarray):  # in native byte order, and not as np.matrix
        return np.asarray(features, features.dtype.newbyteorder("="))
    if isinstance(features, jax.core.Tracer):
        raise TypeError(
            f"{source} is traced, by jax.jit, vmap or grad; expected values: a metric is called "
            "outside of them, and compiles by itself."
        )
    if isinstance(features, jax.Array):  # on one of several devices: through the host
        return features if devices.is_free(features) else np.asarray(features)
    kind = type(features).__name__
    if hasattr(features, "toarray") or getattr(features, "is_sparse", False):
        raise TypeError(f"{source} is a sparse {kind}; expected a dense array: call toarray().")
    if hasattr(features, "detach"):  # a torch tensor, which may have a gradient
        features = features.detach()
    for protocol, convert in (("__array__", np.asarray), ("__dlpack__", jnp.from_dlpack)):
        if hasattr(features, protocol):
            # NumPy does not know all dtypes, nor all devices.
            with contextlib.suppress(TypeError, ValueError, RuntimeError):
                return as_array(convert(features), source)
    raise TypeError(
        f"{source} is a {kind}; expected one array [n, d]: NumPy, JAX, torch or DLPack "
        "(lists of rows: numpy.asarray; batches: numpy.concatenate)."
    )


def middle_of(features: Array) -> np.ndarray:
    """Returns medians of the first rows, float64 `[d]`: an origin near the middle of the features.

    Norms from it are small, and so are the errors of products. Its coordinates are values of
    features, so that they have the same precision.
    """
    rows = np.asarray(features[:255])
    return np.sort(rows, axis=0)[len(rows) // 2].astype(np.float64)


def centred(features: Array, origin: np.ndarray) -> jax.Array:
    """Returns features minus the origin, float32 `[n, d]`, on the device; see `join_centred`."""
    return join_centred([features], origin, len(features))


def join_centred(sets: Sequence[Array], origin: np.ndarray, rows: int) -> jax.Array:
    """Concatenates sets minus the origin and pads by zeros, float32 `[rows, d]`, on the device.

    The coordinates of the origin, float64 `[d]`, are those of rows of the reference. Differences
    from it are exact if float32 holds the features with bits to spare, so that scores do not change
    when all sets are shifted. For float64 features they are computed in float64. Host arrays are
    transferred in blocks, so that no second copy of a set is held.
    """
    joined, at = jnp.zeros((rows, len(origin)), jnp.float32), 0
    for features in sets:
        step = _BLOCK if isinstance(features, np.ndarray) else len(features)
        for first in range(0, len(features), step):
            block, by = features[first : first + step], origin.astype(np.float32)
            if features.dtype == np.float64:
                block, by = (np.asarray(block) - origin).astype(np.float32), np.zeros_like(by)
            # Waits for the transfer, so that blocks do not queue up.
            joined, at = _put(joined, block, by, at).block_until_ready(), at + len(block)
    return joined


@functools.partial(jax.jit, donate_argnums=0)
def _put(joined, block, origin, at):
    return lax.dynamic_update_slice(joined, block - origin, (at, 0))


def batches(features: Any, source: str, *, dim: int = 0, first_row: int = 0) -> Iterator[Array]:
    """Yields checked batches `[*, d]` of an array, or of an iterable of arrays; see `as_features`.

    Raises:
        TypeError, ValueError: As `as_features`, or the set has no rows.
    """
    if hasattr(features, "shape") or not isinstance(features, Iterable):
        features = (features,)
    rows = first_row
    for batch in features:
        if isinstance(features, list) and isinstance(batch, (list, tuple, int, float)):
            as_features(features, source)  # a list of rows: raises the error for a single array
        if isinstance(batch, (list, tuple)):
            raise TypeError(
                f"{source}: a batch is a {type(batch).__name__}; expected an array [n, d]. For a "
                "loader of features with labels pass (batch[0] for batch in loader)."
            )
        batch = as_features(batch, source, dim=dim, least=0, first_row=rows)
        dim, rows = batch.shape[1], rows + len(batch)
        if len(batch):
            yield batch
    if not rows:
        raise ValueError(f"{source} has no rows (an iterator yields its batches once).")


def check_ahead(features: Any, source: str, other: Any) -> None:
    """Checks a set before the other one is fitted; raises as `batches`.

    Of a sequence it checks the first batch, and of other iterables, which may be read only once,
    none. The d is that of the other set, if this is an array.
    """
    if hasattr(features, "shape") or isinstance(features, Sequence) or not np.iterable(features):
        shape: Any = getattr(other, "shape", ())
        next(batches(features, source, dim=shape[1] if len(shape) == 2 else 0))


@functools.cache
def subset(n: int, m: int) -> np.ndarray:
    """Returns m pseudo-random rows of n, the same in each call, ascending, int32 `[m]`."""
    return np.sort(np.random.default_rng(0).permutation(n)[:m]).astype(np.int32)
