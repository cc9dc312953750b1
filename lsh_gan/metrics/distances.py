"""Blocks of squared Euclidean distances in float32, with a bound on their error.

A set is held as blocks `[block, d]`, shifted by the mean of the reference and scaled by a power of
two, so that ‖x‖² − 2xy + ‖y‖² loses nothing to a large mean and cannot overflow; see `fit_frame`
for those that need neither. The last block is filled with rows of infinite norm, which are nobody's
neighbours.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.backend import on_cpu
from lsh_gan.metrics.checks import check_memory
from lsh_gan.metrics.inputs import (
    Array,
    is_readable,
    is_wide,
    narrow,
    on_host_if_free,
    readable_empty,
    scale_for,
)

_UNIT = 2.0**-24  # unit roundoff of float32
TINY = 1e-30  # stands for underflow: largest features are within 2^10 of 1
_IN_ORDER = 512  # terms of a dot product that are summed one after another
_MIN_BLOCK = 128
_ORDINARY = 2.0**10  # features up to so much larger or smaller than 1 are not scaled
_SOME = 256  # rows that say where a set is and how wide
_MOVED = 256  # rows that the host moves at a time
_FEW = 32  # up to one of so many pairs of a tile is entered by itself


class Frame(NamedTuple):
    """The coordinates that both sets are moved to: `(x - shift) * scale`."""

    shift: np.ndarray  # [d] float64
    scale: float  # a power of two


class Blocks(NamedTuple):
    """A set of features, ready for distance kernels.

    Attributes:
        rows: Number of real rows.
        size: Rows in a block.
        features: Blocks, float32 `[size, d]`; on a CPU NumPy's: views where rows are not moved.
        sq_norms: Their squared norms, float32 `[size]`; inf in the filling rows.
    """

    rows: int
    size: int
    features: tuple[Array, ...]
    sq_norms: tuple[Array, ...]


def slack(d: int) -> float:
    """Relative error bound of a squared distance, as a share of ‖x‖² + ‖y‖².

    Rounding errors of a dot product of length d grow like √d units in practice (Higham & Mary 2019,
    doi:10.1137/18M1226312): twice that. Terms that are alike round alike, a unit each at worst, so
    that errors add up over the terms that are summed in order, of which a CPU's product has 512;
    rows of one grey level take a quarter of that. 8 units are for the sums of norms and products
    and for rounding the input. Where a whole row is summed in order, as an accelerator may do, rows
    of one grey level stay within the bound up to d = 2,300 or so.
    """
    return (8 + min(d, _IN_ORDER) + 2 * math.sqrt(d)) * _UNIT


def block_size(rows: int, memory_mb: int) -> int:
    """Rows in a block: several float32 tiles [block, block] fit in `memory_mb`.

    On a CPU blocks have at most 2048 rows, where products are fastest, and equal sizes, a multiple
    of 16, so that little is filled up. Elsewhere the size is a power of two.
    """
    memory_mb = check_memory(memory_mb)
    limit = 2 ** int(math.log2(math.sqrt(memory_mb * 2**20 / 24)))
    if on_cpu():
        limit = max(_MIN_BLOCK, min(limit, 2048))
        return max(_MIN_BLOCK, 16 * math.ceil(rows / (16 * math.ceil(rows / limit))))
    return max(_MIN_BLOCK, min(limit, 2 ** math.ceil(math.log2(max(rows, 2)))))


@np.errstate(over="ignore", invalid="ignore")  # `scale_for` refuses what is infinite
def fit_frame(features: Array) -> Frame:
    """Returns the shift (mean) and scale (power of two near 1 / largest value) of a set.

    Float32 features that are of ordinary size and lie around the origin, beside their spread, stay
    as they are, so that nobody needs a second copy of them.
    """
    highest, lowest = features.max(), features.min()
    if features.dtype == np.float32 and 1 / _ORDINARY <= max(highest, -lowest) <= _ORDINARY:
        some = np.asarray(features[:: -(-len(features) // _SOME)], np.float64)
        mean = some.mean(axis=0)
        if np.sum(mean**2) <= np.mean(np.sum((some - mean) ** 2, axis=1)):
            return Frame(np.zeros_like(mean), 1.0)
    if isinstance(features, np.ndarray):
        mean = features.mean(axis=0, dtype=np.float64)
    else:
        mean = np.asarray(features.astype(jnp.float32).mean(axis=0), np.float64)
    if features.dtype != np.float64:
        mean = mean.astype(np.float32).astype(np.float64)
    largest = float(max(abs(highest - mean.min()), abs(lowest - mean.max())))
    return Frame(mean, scale_for(largest))


@jax.jit
def move(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """`(x - shift) * scale` in float32."""
    return (x.astype(jnp.float32) - shift) * scale


@jax.jit
def _sq_norms(x: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.where(jnp.arange(len(x)) < rows, jnp.sum(x * x, axis=1), jnp.inf)


def to_blocks(features: Array, frame: Frame, size: int, source: str) -> Blocks:
    """Cuts `features` `[n, d]` into shifted, scaled float32 blocks of `size` rows.

    Raises:
        ValueError: A row lies so far from the reference that its square overflows float32.
    """
    features = on_host_if_free(features)
    n = features.shape[0]
    cut = _cut_on_host if on_cpu() else _cut_on_device
    blocks = tuple(cut(features, frame, size))
    norms = tuple(_sq_norms(x, np.int32(min(size, n - i * size))) for i, x in enumerate(blocks))
    finite = np.isfinite(np.concatenate([np.asarray(s) for s in norms]))[:n]
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{source} row {row} lies too far from the reference: float32 overflows.")
    return Blocks(n, size, blocks, norms)


def _cut_on_device(features: Array, frame: Frame, size: int) -> Iterator[jax.Array]:
    as_is, wide = _stays(features, frame), is_wide(features, *frame)
    shift, scale = (np.zeros_like(frame.shift), 1.0) if wide else frame
    for start in range(0, features.shape[0], size):
        x = features[start : start + size]
        if wide:
            x = narrow(x, *frame)
        # Filled up before it is compiled for: another n is the same program.
        if x.shape[0] < size:
            numpy = np if isinstance(x, np.ndarray) else jnp
            x = numpy.pad(x, ((0, size - x.shape[0]), (0, 0)))
        yield jnp.asarray(x) if as_is else move(x, np.float32(shift), np.float32(scale))


def _cut_on_host(features: np.ndarray, frame: Frame, size: int) -> Iterator[np.ndarray]:
    """Views of whole blocks that stay as they are; all others lie in one array.

    One large array is given back to the system when it is freed; many smaller ones may not be.
    """
    n, d = features.shape
    kept = n // size * size if _stays(features, frame) else 0
    yield from (features[start : start + size] for start in range(0, kept, size))
    room = readable_empty((-(-(n - kept) // size) * size, d), np.float32)
    room[n - kept :] = 0
    kind = np.float64 if is_wide(features, *frame) else np.float32
    shift, scale = frame.shift.astype(kind), kind(frame.scale)
    with np.errstate(over="ignore", invalid="ignore"):  # found by the norms
        for start in range(kept, n, _MOVED):
            x = features[start : start + _MOVED].astype(kind)
            room[start - kept : start - kept + len(x)] = (x - shift) * scale
    yield from room.reshape(-1, size, d)


def _stays(features: Array, frame: Frame) -> bool:
    return not frame.shift.any() and frame.scale == 1 and features.dtype == np.float32


def in_place(blocks: Blocks) -> Blocks:
    """On a CPU, the blocks on the host, where XLA too reads them without copies of its own.

    As large a copy as the set itself, where that does not lie as XLA needs it.
    """
    if not on_cpu():
        return blocks
    features, sq_norms = blocks.features, tuple(np.asarray(s) for s in blocks.sq_norms)
    if not all(is_readable(x) for x in features):
        room = readable_empty((len(features), *features[0].shape), np.float32)
        features = tuple(np.stack(features, out=room))
    return blocks._replace(features=features, sq_norms=sq_norms)


def halves(blocks: Blocks) -> Blocks:
    """Views of the blocks, cut in two."""
    half = blocks.size // 2
    features, sq_norms = (
        tuple(x[start : start + half] for x in parts for start in (0, half))
        for parts in (blocks.features, blocks.sq_norms)
    )
    return blocks._replace(size=half, features=features, sq_norms=sq_norms)


def products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Dot products `[a, b]` of the rows of x `[a, d]` and y `[b, d]`, in full float32.

    A program that asks something of them should return them too: XLA for CPUs fuses what only the
    program itself sees, and then the product takes up to twice as long.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


dots = jax.jit(products)


def sq_distances(dot: Any, x_sq: Any, y_sq: Any) -> Any:
    """Squared distances, at least 0, from dot products and squared norms that broadcast.

    NumPy gives NumPy, so that a few pairs of any number are no new program.
    """
    return (x_sq + y_sq - 2 * dot).clip(0)


def sq_distance_bounds(dot: Any, x_sq: Any, y_sq: Any, share: np.float32) -> tuple[Any, Any]:
    """Lower and upper bounds of squared distances; arguments as `sq_distances`.

    Args:
        dot: Dot products, float32.
        x_sq: Squared norms of their rows.
        y_sq: The same of the others.
        share: `slack` of the number of features.
    """
    sq, error = sq_distances(dot, x_sq, y_sq), share * (x_sq + y_sq) + TINY
    return sq - error, sq + error


def pack(mask: jax.Array) -> jax.Array:
    """Packs bool `[a, b]`, a a multiple of 8, as uint8 `[a / 8, b]`: bit i is row i of eight."""
    eights = mask.reshape(-1, 8, mask.shape[1]).astype(jnp.uint8)
    return functools.reduce(jnp.bitwise_or, (eights[:, i] << i for i in range(8)))


def few_places(packed: jax.Array) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns of what is true in a tile, or None if that is much.

    Nearly all of a tile is false, and 64 pairs are looked at at a time.

    Args:
        packed: What `pack` made of the tile, uint8 `[a / 8, b]`, b a multiple of 8.

    Returns:
        int64 `[places]` each; None if more than one pair of 32 is true.
    """
    packed = np.asarray(packed)
    words = packed.reshape(-1).view(np.uint64)
    some = np.flatnonzero(words != 0)  # NumPy finds places of bool several times as fast
    if np.bitwise_count(words[some]).sum() > 8 * packed.size // _FEW:
        return None
    of_eight = np.unpackbits(words[some].view(np.uint8), bitorder="little").view(bool)
    place, bit = np.divmod(np.flatnonzero(of_eight), 8)
    row, column = np.divmod(8 * some[place // 8] + place % 8, packed.shape[1])
    return 8 * row + bit, column
