"""Random-projection hashing, fitted on a reference sample and then frozen.

A table is b random unit directions w_j and thresholds t_j. The code of x is made of one digit for
each direction, in order, so that the first digits of a code are the code of a coarser table:

    hyperplane  digit w_j·(x − μ) > 0                    Charikar 2002, doi:10.1145/509907.509965
    affine      digit w_j·x > w_j·r, r drawn from the reference          ours
    pstable     digit floor((w_j·(x − μ) + u_j) / width), cut to eight cells around μ
                                                     Datar et al. 2004, doi:10.1145/997817.997857

μ is the mean of the reference. `radius_bins` adds the quantile bin of ‖x − μ‖ to the code, which
bounds cells that are otherwise unbounded: one bin below the reference, `radius_bins` of equal
shares of its central part, one for its outer part, and one above it.

Robust fit: μ, thresholds, bins, and the share that chooses b see the central 90 % of the reference
by distance from μ, so that up to a tenth of outliers moves none of them much.

Directions come from a pool that the tables share (each table draws its own, with its own
thresholds): scores as with independent tables for a third of the work or less.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.errors import choose
from lsh_gan.metrics.checks import check_type, check_whole
from lsh_gan.metrics.inputs import Array, is_wide, narrow

CENTRAL = 0.9  # share of the reference that a fit looks at
_DIGIT_BITS = {"affine": 1, "hyperplane": 1, "pstable": 3}
_MAX_DIGITS = {"affine": 24, "hyperplane": 24, "pstable": 10}
_SPARE_BITS = 4  # cells for each row, as a power of two, where codes are mixed into an address
_MEMORY_BYTES = 2**31
_PROJECT_ROWS = 2048  # rows that a CPU projects at a time while they are in its caches
_ROUNDING = 1e-5  # more than a norm in float32 is wrong by, as a share


@dataclasses.dataclass(frozen=True)
class HashSpec:
    """What kind of hash to fit.

    Attributes:
        family: 'affine', 'hyperplane' or 'pstable'.
        num_tables: T, at least 1.
        num_bits: Directions in a table, 0 (one cell for every radius bin) to 24 (pstable: 10), or
            'auto': as many as put the ceiling at `ceiling_target`; some tables then have one more
            than others.
        radius_bins: Quantile bins of the distance from the mean; 0 leaves it out.
        width: Cell width of pstable, in standard deviations of a projection.
        num_directions: Size of the pool of directions; 0 gives every table its own.
        ceiling_target: Share of the reference that `num_bits='auto'` lets vote yes, in (0, 1).
    """

    family: str = "pstable"
    num_tables: int = 32
    num_bits: int | str = "auto"
    radius_bins: int = 8
    width: float = 1.5
    num_directions: int = 128
    ceiling_target: float = 0.85

    def __post_init__(self):
        most = choose("hash family", self.family, _MAX_DIGITS)
        if self.num_bits != "auto" and (
            isinstance(self.num_bits, str) or not 0 <= self.num_bits <= most
        ):
            raise ValueError(
                f"num_bits = {self.num_bits!r}; {self.family} takes 0 to {most}, or 'auto'."
            )
        check_whole(
            num_tables=self.num_tables,
            num_bits=0 if self.num_bits == "auto" else self.num_bits,
            radius_bins=self.radius_bins,
            num_directions=self.num_directions,
        )
        for field, least in (("num_tables", 1), ("radius_bins", 0), ("num_directions", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} = {getattr(self, field)}; expected at least {least}.")
        least = 1 if self.num_bits == "auto" else self.num_bits
        if 0 < self.num_directions < least:
            raise ValueError(
                f"num_directions = {self.num_directions}; a table draws {least} from the pool "
                "(0 gives every table its own)."
            )
        if not 0 < self.width < np.inf:
            raise ValueError(f"width = {self.width}; expected a positive number.")
        if not 0 < self.ceiling_target < 1:
            raise ValueError(f"ceiling_target = {self.ceiling_target}; expected it in (0, 1).")

    @property
    def max_digits(self) -> int:
        """Digits that are drawn for a table; how many of them count is `Hasher.digits`.

        Not `num_bits`, where a pool makes more digits free: another number of bits is then the same
        computation, which need not be compiled again, and a prefix of the same code.
        """
        most = _MAX_DIGITS[self.family]
        if self.num_directions:
            return min(most, self.num_directions)
        return most if self.num_bits == "auto" else max(1, self.num_bits)


class Hasher(NamedTuple):
    """A fitted hash: arrays only, all that is needed to code a sample.

    Attributes:
        spec: What was asked for.
        digits: Digits of each table's code, int32 `[t]`.
        shift: μ, float64 `[d]`.
        scale: Power of two that brings features near 1.
        directions: The pool, float32 `[p, d]`, unit norm.
        members: Directions of each table, int32 `[t, digits]`.
        thresholds: t_j (pstable: −u_j), in scaled units, float32 `[t, digits]`.
        width: Cell width of pstable, in scaled units; 1 for the others.
        radius_edges: Edges of the radius bins, in scaled units, float32 `[e]`, or `[0]`.
        rows: Rows that the tables of pstable are sized for.
        source: Says where the features come from (network, preprocessing, version); "" if unknown.
    """

    spec: HashSpec
    digits: np.ndarray
    shift: np.ndarray
    scale: float
    directions: np.ndarray
    members: np.ndarray
    thresholds: np.ndarray
    width: float
    radius_edges: np.ndarray
    rows: int
    source: str = ""

    @property
    def num_bits(self) -> float:
        """Mean number of digits of a table's code."""
        return float(np.mean(self.digits))

    @property
    def code_bits(self) -> int:
        """Bits of the longest code without its radius bin."""
        return int(self.digits.max(initial=0)) * _DIGIT_BITS[self.spec.family]

    @property
    def mixed(self) -> bool:
        """Whether code and radius bin are mixed into a short address, so that cells may collide."""
        return self.spec.family == "pstable"

    @property
    def address_bits(self) -> int:
        """Bits of a cell's address (without its radius bin, unless mixed).

        Even where they follow the code, so that tables come in few sizes and a sweep over bits
        compiles half as often.
        """
        if self.mixed:
            return max(10, math.ceil(math.log2(self.rows)) + _SPARE_BITS)
        return self.code_bits + self.code_bits % 2

    @property
    def cells(self) -> int:
        """Cells of a table."""
        return (1 if self.mixed else len(self.radius_edges) + 1) << self.address_bits


class Codes(NamedTuple):
    """Codes of a batch.

    Attributes:
        digits: First digit in the most significant place of `max_digits`, uint32 `[t, n]`.
        radius_bin: int32 `[n]`.
    """

    digits: jax.Array
    radius_bin: jax.Array


def draw_hash(key: jax.Array, sample: Array, spec: HashSpec, *, source: str = "") -> Hasher:
    """Fits everything but the number of bits, which 'auto' leaves at the most there can be."""
    check_type("spec", spec, HashSpec, "a HashSpec")
    check_type("key", key, (jax.Array, np.ndarray), "jax.random.key(seed)")
    t, b = spec.num_tables, spec.max_digits
    pool = spec.num_directions or t * b
    for_directions, for_members, for_thresholds = jax.random.split(key, 3)
    directions = _directions(for_directions, pool, sample.shape[1])
    members = _members(for_members, spec, pool)
    shift, scale = _centre(sample)
    digits = b if spec.num_bits == "auto" else spec.num_bits
    hasher = Hasher(
        spec, np.full(t, digits, np.int32), shift, scale, directions, members,
        np.zeros((t, b), np.float32), 1.0, np.zeros(0, np.float32), sample.shape[0], source,
    )  # fmt: skip
    projections, norms = project(hasher, sample)
    central = np.flatnonzero(norms <= np.quantile(norms, CENTRAL))
    # Drawn by rank: the same draw from a slightly different sample is a slightly different value.
    uniform = np.asarray(jax.random.uniform(for_thresholds, (t, b)), np.float64)
    if spec.family == "affine":
        ordered = np.sort(projections[:, central], axis=1)
        rank = (uniform * len(central)).astype(np.int64)
        above = np.minimum(rank + 1, len(central) - 1)
        # Midway to the next row: no row of the sample lies on a threshold, where the rounding of a
        # product, which depends on the shape of the batch, would decide its code.
        thresholds = (ordered[members, rank] + ordered[members, above]) / 2
        hasher = hasher._replace(thresholds=thresholds.astype(np.float32))
    elif spec.family == "pstable":
        width = spec.width * float(projections[:, central].std()) or 1.0
        hasher = hasher._replace(thresholds=-(uniform * width).astype(np.float32), width=width)
    return hasher._replace(radius_edges=_radius_edges(norms, central, spec.radius_bins))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _directions(key: jax.Array, pool: int, d: int) -> jax.Array:
    w = jax.random.normal(key, (pool, d), jnp.float32)
    return w / jnp.linalg.norm(w, axis=1, keepdims=True)


def _members(key: jax.Array, spec: HashSpec, pool: int) -> np.ndarray:
    t, b = spec.num_tables, spec.max_digits
    if not spec.num_directions:
        return np.arange(pool, dtype=np.int32).reshape(t, b)
    order = np.argsort(np.asarray(jax.random.uniform(key, (t, pool))), axis=1)
    return order[:, :b].astype(np.int32)


def _centre(sample: Array) -> tuple[np.ndarray, float]:
    """Mean of the central rows, and the power of two that scales the offsets from it."""
    x = np.asarray(sample)
    x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
    # About the mean: the offsets from it say the rest.
    shift = np.full(len(x), 1 / len(x), x.dtype) @ x
    offset = x - shift
    largest = float(max(offset.max(), -offset.min()))
    scale = 2.0 ** -math.ceil(math.log2(largest)) if largest > 0 else 1.0
    offset *= scale
    sq_radii = np.einsum("nd,nd->n", offset, offset)
    central = sq_radii <= np.quantile(sq_radii, CENTRAL)
    shift = shift + (central.astype(x.dtype) @ offset) / np.float64(central.sum() * scale)
    return shift if x.dtype == np.float64 else shift.astype(np.float32).astype(np.float64), scale


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


def project(hasher: Hasher, features: Array) -> tuple[np.ndarray, np.ndarray]:
    """Projections float32 `[p, n]` and norms float32 `[n]` of shifted, scaled features `[n, d]`."""
    parts = []
    for start in range(0, features.shape[0], _PROJECT_ROWS):
        x, shift, scale = _arguments(hasher, features[start : start + _PROJECT_ROWS])
        parts.append(_project(x, shift, scale, hasher.directions))
    projections, norms = (np.concatenate(p, axis=-1) for p in zip(*parts, strict=True))
    return projections[:, : features.shape[0]], norms[: features.shape[0]]


def _arguments(hasher: Hasher, features: Array) -> tuple[Array, np.ndarray, np.float32]:
    """Features, shift and scale as the kernels take them."""
    shift, scale = hasher.shift.astype(np.float32), np.float32(hasher.scale)
    if is_wide(features, hasher.shift):
        features = narrow(features, hasher.shift, hasher.scale)
        shift, scale = np.zeros_like(shift), np.float32(1)
    rows = features.shape[0]
    # A power of two rows: few shapes, so that another n is seldom compiled for.
    fill = ((0, (1 << (rows - 1).bit_length()) - rows), (0, 0))
    if fill[0][1]:
        numpy = isinstance(features, np.ndarray)
        features = np.pad(features, fill) if numpy else jnp.pad(features, fill)
    return features, shift, scale


@jax.jit
def _project(x, shift, scale, directions):
    x = (x.astype(jnp.float32) - shift) * scale
    # Full float32: a code must not depend on the precision that a backend prefers.
    projections = jnp.matmul(directions, x.T, precision=jax.lax.Precision.HIGHEST)
    return projections, jnp.sqrt(jnp.sum(x * x, axis=1))


def encode(hasher: Hasher, features: Array, source: str = "features", first_row: int = 0) -> Codes:
    """Codes of features `[n, d]`.

    Raises:
        ValueError: NaN or Inf; the message names `source` and the row, counted from `first_row`.
    """
    codes, finite = _encode(
        *_arguments(hasher, features), hasher.directions, hasher.members, hasher.thresholds,
        np.float32(hasher.width), np.int32(hasher.digits.max()), hasher.radius_edges,
        bits=_DIGIT_BITS[hasher.spec.family],
    )  # fmt: skip
    finite = np.asarray(finite)
    if not finite.all():
        row = int(np.argmin(finite)) + first_row
        raise ValueError(f"{source} has NaN or Inf (or overflows float32) in row {row}.")
    if len(finite) == features.shape[0]:
        return codes
    return Codes(codes.digits[:, : features.shape[0]], codes.radius_bin[: features.shape[0]])


@functools.partial(jax.jit, static_argnames="bits")
def _encode(x, shift, scale, directions, members, thresholds, width, steps, edges, *, bits: int):
    """Codes of a batch, and which of its rows are finite."""
    projections, norms = _project(x, shift, scale, directions)
    digits = _digits(projections, members, thresholds, width, steps, bits=bits)
    radius_bin = jnp.searchsorted(edges, norms).astype(jnp.int32)
    return Codes(digits, radius_bin), jnp.isfinite(norms)


def _digits(projections, members, thresholds, width, steps, *, bits: int):
    def step(j, code):
        offset = projections[members[:, j]] - thresholds[:, j, None]
        if bits == 1:
            digit = (offset > 0).astype(jnp.uint32)
        else:
            half = 2 ** (bits - 1)
            digit = jnp.clip(jnp.floor(offset / width) + half, 0, 2 * half - 1).astype(jnp.uint32)
        return (code << bits) | digit

    code = jnp.zeros((members.shape[0], projections.shape[1]), jnp.uint32)
    code = jax.lax.fori_loop(0, steps, step, code)
    return code << (bits * (members.shape[1] - steps)).astype(jnp.uint32)


def cell_index(hasher: Hasher, codes: Codes) -> jax.Array:
    """Cell of each row in each table, int32 `[t, n]`, below `hasher.cells`."""
    return _cells(codes, _drop(hasher), np.uint32(hasher.address_bits), mixed=hasher.mixed)


def _drop(hasher: Hasher) -> np.ndarray:
    """Bits at the end of each table's code that do not count."""
    unused = hasher.spec.max_digits - hasher.digits
    return (unused * _DIGIT_BITS[hasher.spec.family]).astype(np.uint32)


@functools.partial(jax.jit, static_argnames="mixed")
def _cells(codes: Codes, drop, address_bits, *, mixed: bool):
    code, radius_bin = codes.digits >> drop[:, None], codes.radius_bin.astype(jnp.uint32)
    if not mixed:
        return (radius_bin << address_bits | code).astype(jnp.int32)
    # The finaliser of MurmurHash3 (Appleby 2011): every bit of the code reaches every bit.
    code = code ^ (radius_bin * np.uint32(0x9E3779B9))
    code = (code ^ (code >> 16)) * np.uint32(0x85EBCA6B)
    code = (code ^ (code >> 13)) * np.uint32(0xC2B2AE35)
    return ((code ^ (code >> 16)) >> (32 - address_bits)).astype(jnp.int32)


def cell_keys(hasher: Hasher, codes: Codes) -> np.ndarray:
    """Like `cell_index`, but one number for each different code and radius bin, int64 `[t, n]`."""
    code = np.asarray(codes.digits).astype(np.int64) >> _drop(hasher)[:, None].astype(np.int64)
    return np.asarray(codes.radius_bin).astype(np.int64) << 32 | code


def most_digits(hasher: Hasher) -> int:
    """Digits that a table may have before the tables of counts outgrow the memory limit."""
    if hasher.mixed:
        return hasher.spec.max_digits
    cells = _MEMORY_BYTES // (4 * hasher.spec.num_tables * (len(hasher.radius_edges) + 1))
    return min(hasher.spec.max_digits, (max(1, cells).bit_length() - 1) // 2 * 2)


def check_memory(hasher: Hasher) -> None:
    """Raises ValueError, with the bytes, when the tables of counts would not fit in memory."""
    size = hasher.cells * hasher.spec.num_tables * 4
    if size > _MEMORY_BYTES:
        raise ValueError(
            f"num_bits = {hasher.num_bits:g}: {hasher.spec.num_tables} tables of {hasher.cells} "
            f"cells take {size} bytes, more than {_MEMORY_BYTES}; use fewer bits, tables or "
            "radius bins."
        )
