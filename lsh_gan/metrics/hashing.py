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

Directions come from a pool that the tables share (each table draws its own, with its own
thresholds): scores as with independent tables for a third of the work or less.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.errors import choose
from lsh_gan.metrics.checks import check_real, check_type, check_whole
from lsh_gan.metrics.directory import Directory, list_keys, look_up, mix
from lsh_gan.metrics.distances import dots, move
from lsh_gan.metrics.inputs import Array, is_wide, narrow, readable, readable_empty

DIGIT_BITS = {"affine": 1, "hyperplane": 1, "pstable": 3}
_MAX_DIGITS = {"affine": 24, "hyperplane": 24, "pstable": 10}
MEMORY_BYTES = 2**31
FEWEST = 512  # rows of a batch: of fewer, products and norms are rounded otherwise
_MOST_TABLES = 2**16 - 1
_MOST_BINS = 32_000  # with those around them they are numbered in int16


@dataclasses.dataclass(frozen=True)
class HashSpec:
    """What kind of hash to fit.

    Attributes:
        family: 'affine', 'hyperplane' or 'pstable'.
        num_tables: T, 1 to 65535.
        num_bits: Directions in a table, 0 (one cell for every radius bin) to 24 (pstable: 10), or
            'auto': as many as put the ceiling at `ceiling_target`; some tables then have one more
            than others.
        radius_bins: Quantile bins of the distance from the mean, up to 32000; 0 leaves it out.
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
        check_type("family", self.family, str, "the name of a hash family")
        most = choose("hash family", self.family, _MAX_DIGITS)
        self._check_bits(most)
        for field in ("num_tables", "radius_bins", "num_directions"):
            self._set(field, *check_whole(**{field: getattr(self, field)}))
        width, target = check_real(width=self.width, ceiling_target=self.ceiling_target)
        for field, least in (("num_tables", 1), ("radius_bins", 0), ("num_directions", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} = {getattr(self, field)}; expected at least {least}.")
        for field, most in (("num_tables", _MOST_TABLES), ("radius_bins", _MOST_BINS)):
            if getattr(self, field) > most:
                raise ValueError(f"{field} = {getattr(self, field)}; expected at most {most}.")
        least = 1 if self.num_bits == "auto" else self.num_bits
        if 0 < self.num_directions < least:
            raise ValueError(
                f"num_directions = {self.num_directions}; a table draws {least} from the pool "
                "(0 gives every table its own)."
            )
        if not 0 < width < np.inf:
            raise ValueError(f"width = {self.width}; expected a positive number.")
        if not 0 < target < 1:
            raise ValueError(f"ceiling_target = {self.ceiling_target}; expected it in (0, 1).")
        self._set("width", width)
        self._set("ceiling_target", target)

    def _set(self, field: str, value: int | float) -> None:
        """Makes a field of a frozen instance a Python number: NumPy's would overflow in sums."""
        object.__setattr__(self, field, value)

    def _check_bits(self, most: int) -> None:
        bits = self.num_bits
        if isinstance(bits, str) and bits == "auto":
            return
        hint = f"num_bits = {bits!r}; {self.family} takes 0 to {most}, or 'auto'."
        if isinstance(bits, bool) or not isinstance(bits, (int, np.integer, str)):
            raise TypeError(hint)
        if isinstance(bits, str) or not 0 <= bits <= most:
            raise ValueError(hint)
        self._set("num_bits", int(bits))

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
        offsets: w_j·μ, in features' own units, float32 `[p]`, where features are multiplied before
            μ is taken off; `[0]` where μ is too large for that.
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
    offsets: np.ndarray = np.zeros(0, np.float32)
    source: str = ""

    @property
    def num_bits(self) -> float:
        """Mean number of digits of a table's code."""
        return float(np.mean(self.digits))

    @property
    def code_bits(self) -> int:
        """Bits of the longest code without its radius bin."""
        return int(self.digits.max(initial=0)) * DIGIT_BITS[self.spec.family]

    @property
    def listed(self) -> bool:
        """Whether codes are too long to be addresses, so that tables need a directory of them."""
        return self.spec.family == "pstable"

    def table_size(self, rows: int) -> int:
        """Addresses of a table that counts up to `rows` rows, for each radius bin.

        Even powers of two where codes are addresses, so that tables come in few sizes and a sweep
        over bits compiles half as often. Else enough for as many codes as there can be, and one.
        """
        if self.listed:
            return max(FEWEST, 1 << min(rows.bit_length(), self.code_bits + 1))
        return 1 << (self.code_bits + self.code_bits % 2)

    def cells(self, rows: int) -> int:
        """Cells of a table that counts up to `rows` rows."""
        return (len(self.radius_edges) + 1) * self.table_size(rows)


class Codes(NamedTuple):
    """Codes of a batch.

    Attributes:
        digits: First digit in the most significant place of `max_digits`, uint32 `[t, n]`.
        radius_bin: int32 `[n]`.
    """

    digits: jax.Array
    radius_bin: jax.Array


class Projected(NamedTuple):
    """Products of a batch with the directions; projections are `(products - offsets) * scale`.

    Attributes:
        products: float32 `[p, rows]`; behind the batch follow rows that fill up a power of two.
        norms: Norms of the shifted, scaled rows, float32 `[rows]`; None where nothing needs them.
        offsets: float32 `[p]`.
        scale: float32.
    """

    products: jax.Array
    norms: jax.Array | None
    offsets: np.ndarray
    scale: np.float32

    def projections(self) -> jax.Array:
        """Projections of the shifted, scaled rows, float32 `[p, rows]`."""
        return (self.products - self.offsets[:, None]) * self.scale


def project(hasher: Hasher, features: Array, *, norms: bool = True) -> Projected:
    """Projects features `[n, d]`, and finds their norms unless `norms` is False.

    Features are multiplied as they come, and μ is taken off the products, unless it is so large
    that float32 would lose what is behind it: then a shifted copy is made first.
    """
    offsets, directions = hasher.offsets, jnp.asarray(hasher.directions)
    if is_wide(features, hasher.shift, hasher.scale):
        x, moved = filled(narrow(features, hasher.shift, hasher.scale)), True
    else:
        x, moved = filled(features), False
        shift, scale = hasher.shift.astype(np.float32), np.float32(hasher.scale)
        if not len(offsets):
            x, moved = move(x, shift, scale), True
    if moved:
        shift, scale = np.zeros(len(hasher.shift), np.float32), np.float32(1)
        offsets = np.zeros(len(directions), np.float32)
    found = norms_about(x, shift, scale) if norms else None
    return Projected(dots(directions, x), found, offsets, scale)


def filled(features: Array) -> Array:
    """Features with so many copies of the last row that rows are a power of two: few shapes.

    And no small ones, so that a row's code is the same to the bit in a batch of any size.
    """
    rows = features.shape[0]
    size = max(FEWEST, 1 << (rows - 1).bit_length())
    if size == rows:
        return readable(features)
    if not isinstance(features, np.ndarray):
        return jnp.pad(features, ((0, size - rows), (0, 0)), mode="edge")
    x = readable_empty((size, features.shape[1]), features.dtype)
    x[:rows], x[rows:] = features, features[-1]
    return x


@jax.jit
def norms_about(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Norms of `(x - shift) * scale`, float32 `[n]`."""
    x = move(x, shift, scale)
    return jnp.sqrt(jnp.sum(x * x, axis=1))


def cell_index(hasher: Hasher, codes: Codes, directory: Directory | None) -> jax.Array:
    """Cell of each row in each table, int32 `[t, n]`: radius bin, and address within it.

    Args:
        hasher: What made the codes.
        codes: Full-length codes.
        directory: Of the set whose cells they are looked up in, see `directory_of`.
    """
    if directory is not None:
        return listed_cells(codes.radius_bin, directory, keys(hasher, codes))
    return _cells(codes, _drop(hasher), np.uint32(hasher.table_size(0)))


def keys(hasher: Hasher, codes: Codes) -> jax.Array:
    """Codes as a directory lists them, uint32 `[t, n]`."""
    return mix(codes.digits >> _drop(hasher)[:, None])


def directory_of(hasher: Hasher, codes: Codes) -> Directory | None:
    """The directory of the codes of a set, or None where codes are addresses."""
    if not hasher.listed:
        return None
    return list_keys(np.asarray(keys(hasher, codes)), hasher.table_size(codes.digits.shape[1]))


def _drop(hasher: Hasher) -> np.ndarray:
    """Bits at the end of each table's code that do not count."""
    unused = hasher.spec.max_digits - hasher.digits
    return (unused * DIGIT_BITS[hasher.spec.family]).astype(np.uint32)


@jax.jit
def _cells(codes: Codes, drop, size) -> jax.Array:
    radius_bin = codes.radius_bin.astype(jnp.uint32)
    return (radius_bin * size + (codes.digits >> drop[:, None])).astype(jnp.int32)


@jax.jit
def listed_cells(radius_bin: jax.Array, directory: Directory, keys: jax.Array) -> jax.Array:
    """Cells of rows, int32 `[t, n]`, from their radius bins `[n]` or `[t, n]` and keys `[t, n]`."""
    return radius_bin * directory.size + look_up(directory, keys)


def cell_keys(hasher: Hasher, codes: Codes) -> np.ndarray:
    """One number for each different code and radius bin, int64 `[t, n]`."""
    code = np.asarray(codes.digits).astype(np.int64) >> _drop(hasher)[:, None].astype(np.int64)
    return np.asarray(codes.radius_bin).astype(np.int64) << 32 | code


def most_digits(hasher: Hasher) -> int:
    """Digits that a table may have before the tables of counts outgrow the memory limit."""
    if hasher.listed:
        return hasher.spec.max_digits
    cells = MEMORY_BYTES // (4 * hasher.spec.num_tables * (len(hasher.radius_edges) + 1))
    return min(hasher.spec.max_digits, (max(1, cells).bit_length() - 1) // 2 * 2)


def check_table_memory(hasher: Hasher, rows: int) -> None:
    """Raises ValueError, with the bytes, if the counts of so many rows would not fit in memory."""
    cells = hasher.cells(rows)
    size = cells * hasher.spec.num_tables * 4
    if size > MEMORY_BYTES:
        raise ValueError(
            f"num_bits = {hasher.num_bits:g}: {hasher.spec.num_tables} tables of {cells} cells "
            f"take {size} bytes, more than {MEMORY_BYTES}; use fewer bits, tables or radius bins."
        )
