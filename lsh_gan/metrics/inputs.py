"""Feature sets on entry: arrays or iterables of batches, checked before any heavy work."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.backend import on_cpu

Array = np.ndarray | jax.Array
_DTYPES = tuple(np.dtype(t) for t in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64))
_CHECK_ROWS = 1024
_ALIGNMENT = 64  # bytes
ORDINARY = 2.0**100  # scales up to it and down to its inverse leave float32 and float64 room
_LARGEST = 2.0**500
_TINIEST = 2.0**-1000  # smaller differences are scaled as these, so that the scale is finite


def as_features(
    features: Any, source: str, *, k: int | None = None, dim: int | None = None
) -> Array:
    """Returns `features` as one checked floating-point array.

    Args:
        features: NumPy or JAX array `[n, d]`, or an iterable of batches, which are joined.
        source: What the set is called in messages ("reference").
        k: Nearest neighbours that the caller asks for, of all rows but one: it takes k + 2 rows,
            or 2 if None.
        dim: Expected d, or None.

    Returns:
        The array itself, `[n, d]`: float64, float32, float16 or bfloat16, on the host or a device.

    Raises:
        TypeError: Not an array or an iterable of arrays, or not real floating point.
        ValueError: Wrong rank or d, too few rows, NaN or Inf (the row is named).
    """
    if not hasattr(features, "ndim"):
        features = concatenate(features, source)
    check_shape(features, source, dim=dim)
    least = 2 if k is None else k + 2
    if features.shape[0] < least:
        needs = "expected at least" if k is None else f"k = {k} needs at least"
        raise ValueError(f"{source} has {features.shape[0]} rows; {needs} {least}.")
    features = on_host_if_free(features)
    check_finite(features, source)
    return features


def as_references(reference: Any, second_reference: Any, *, k: int) -> tuple[Array, Array | None]:
    """A reference and, unless it is None, a second one, both checked by `as_features`."""
    reference = as_features(reference, "reference", k=k)
    if second_reference is not None:
        options = {"k": k, "dim": reference.shape[1]}
        second_reference = as_features(second_reference, "second reference", **options)
    return reference, second_reference


def subset(n: int, m: int) -> np.ndarray:
    """Fixed pseudo-random m rows of n, ascending, int64 `[m]`."""
    return np.sort(np.random.default_rng(0).permutation(n)[:m])


def on_host_if_free(features: Array) -> Array:
    """The array as NumPy's where the device is the CPU: a view, whose rows are views or quick."""
    return np.asarray(features) if on_cpu() else features


def is_readable(features: np.ndarray) -> bool:
    """Whether XLA for CPUs reads the array in place."""
    return features.ctypes.data % _ALIGNMENT == 0 and features.flags.c_contiguous


def readable(features: Array) -> Array:
    """The array as XLA reads it without a copy of its own for every program: once copied, if so."""
    if not isinstance(features, np.ndarray) or not on_cpu():
        return jnp.asarray(features)
    if is_readable(features):
        return features
    place = readable_empty(features.shape, features.dtype)
    place[:] = features
    return place


def readable_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Room that XLA for CPUs reads in place."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def check_kind(features: Any, source: str, *, dim: int | None = None) -> None:
    """Raises what `streams.batches` would, as far as that can be said before reading."""
    if hasattr(features, "ndim"):
        check_shape(features, source, dim=dim)
        if not features.shape[0]:
            raise ValueError(f"{source} has no rows.")
    elif not isinstance(features, Iterable) or isinstance(features, (str, bytes)):
        raise TypeError(
            f"{source} is a {type(features).__name__}; expected a NumPy or JAX array [n, d] or an "
            "iterable of such batches."
        )


def parts_of(features: Any, source: str, dim: int | None = None) -> Iterator[Array]:
    """Yields the checked batches `[*, d]` of a stream; errors as `check_kind` and `check_shape`."""
    check_kind(features, source)
    other = {}
    for index, batch in enumerate(features):
        check_shape(batch, f"batch {index} of {source}", dim=dim, **other)
        dim, other = batch.shape[1], {"other": "earlier batches have"}
        yield batch


def concatenate(batches: Iterable[Array], source: str) -> Array:
    """Joins an iterable of batches `[*, d]` into one array."""
    parts = list(parts_of(batches, source))
    if not parts:
        raise ValueError(f"{source} is an iterable without batches; expected at least one.")
    return join(parts)


def join(parts: list[Array]) -> Array:
    """Joins batches `[*, d]` of any floating-point types into one that holds them all."""
    if len(parts) == 1:
        return parts[0]
    if {np.dtype(jnp.float16), np.dtype(jnp.bfloat16)} <= {part.dtype for part in parts}:
        # NumPy knows no type that holds both.
        parts = [part if part.dtype.itemsize > 2 else part.astype(np.float32) for part in parts]
    return (np if any(isinstance(x, np.ndarray) for x in parts) else jnp).concatenate(parts)


def check_shape(
    features: Array, source: str, *, dim: int | None = None, other: str = "the other set has"
) -> None:
    """Raises unless `features` is a real floating-point array `[n, d]` with the expected d.

    `other` says in the message what has that d.
    """
    dtype = getattr(features, "dtype", None)
    if not isinstance(dtype, np.dtype) or dtype not in _DTYPES:
        got = f"a {type(features).__name__}" if dtype is None else f"dtype {dtype}"
        raise TypeError(
            f"{source} has {got}; expected floating-point features: float16, bfloat16, float32 or "
            "float64, in this machine's byte order."
        )
    if isinstance(features, np.ma.MaskedArray):
        raise TypeError(f"{source} is a masked array; expected one without a mask: fill it first.")
    if features.ndim != 2:
        raise ValueError(f"{source} has shape {tuple(features.shape)}; expected [rows, d].")
    if features.shape[1] == 0:
        raise ValueError(f"{source} has shape {tuple(features.shape)}; expected d >= 1.")
    if dim is not None and features.shape[1] != dim:
        raise ValueError(f"{source} has d = {features.shape[1]}; {other} d = {dim}.")


@jax.jit
def _finite_rows(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all(axis=1)


def check_finite(features: Array, source: str, *, first_row: int = 0) -> None:
    """Raises ValueError naming the first row of `features` with NaN or Inf.

    `first_row` is the number of row 0 in the whole set, for sets that arrive in batches.
    """
    if isinstance(features, np.ndarray):
        steps = range(0, features.shape[0], _CHECK_ROWS)
        parts = [np.isfinite(features[i : i + _CHECK_ROWS]).all(axis=1) for i in steps]
        finite = np.concatenate(parts) if parts else np.ones(0, bool)
    else:
        finite = np.asarray(_finite_rows(features))
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{source} has NaN or Inf in row {row + first_row}.")


def scale_for(largest: float) -> float:
    """The power of two that brings differences of features up to `largest` near 1.

    Raises:
        ValueError: Their squares would be infinite.
    """
    if not largest < _LARGEST:
        raise ValueError(
            f"The features span {largest:.2g}; expected less than {_LARGEST:.2g}, whose square "
            "float64 holds."
        )
    return 2.0 ** -math.ceil(math.log2(max(largest, _TINIEST))) if largest > 0 else 1.0


def is_wide(features: Array, shift: np.ndarray, scale: float) -> bool:
    """Whether it takes float64 to move features: they or the shift are, or the scale is extreme.

    Then what kernels in float32 take for 0 or for infinite is more than rounding. Others subtract
    exactly enough in float32.
    """
    if features.dtype == np.float64 or not 1 / ORDINARY < scale < ORDINARY:
        return True
    with np.errstate(over="ignore"):
        return bool((shift != shift.astype(np.float32)).any())


@np.errstate(over="ignore")  # found as values that are not finite
def narrow(features: Array, shift: np.ndarray, scale: float) -> np.ndarray:
    """`(features - shift) * scale` in float64, returned in float32."""
    moved = (np.asarray(features).astype(np.float64, copy=False) - shift) * scale
    return moved.astype(np.float32)
