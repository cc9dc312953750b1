"""Random-projection hashing, fitted on a reference sample and then frozen.

A table has directions w_j with thresholds. The code of x has one digit per direction, in a fixed
order, so that the first digits of a code are the code of a coarser table:

    pstable     floor((w_j·(x − μ) + u_j) / width) modulo 8; from the 7th digit on the width is a
                third, for data of few dimensions    Datar et al. 2004, doi:10.1145/997817.997857
    affine      w_j·x > w_j·r, r drawn from the reference                                  ours
    hyperplane  w_j·(x − μ) > 0                      Charikar 2002, doi:10.1145/509907.509965

The *bucket* of x in a table is its code together with the quantile bin of ‖x − μ‖, since directions
alone leave buckets unbounded. All tables draw their directions from one pool. μ, thresholds, width
and bins are fitted on the central 90 % of the reference, so that a few outliers do not move them.

The number of digits that count depends on the *region* of x: the nearest of at most 32 k-means
centroids of the central rows. `fit_num_bits` gives dense regions more digits, so that their buckets
are finer. With the same number everywhere, blurred or nearly flat images, which lie in dense
regions, would share the wide buckets there with real ones.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float32, Float64, Int32, UInt32

from lsh_gan import devices
from lsh_gan.metrics.inputs import DIGIT_BITS, Array, HashSpec, centred, subset

SAMPLE_ROWS = 2048  # rows that a hash is fitted on
CENTRAL = 0.9  # share of the reference that a fit uses
REGIONS = 32  # at most, each with its own number of digits
_REGION_ROWS = 64  # fitted rows per region, on average, at least
_LLOYD_STEPS = 6
_WIDE_DIGITS = 6  # of pstable; later digits are a third as wide
_CHUNK = 1024, 8192  # rows that are projected at once, on a CPU and elsewhere; see `encode`
_THIN = 10  # a shell is thin if the spread of norms is below this multiple of `nearer` in `_fit`
_MARGIN = 1e-5  # relative; keeps the smallest and largest norm of the sample inside the bins


class Hasher(NamedTuple):
    """A fitted hash."""

    spec: HashSpec  #: as requested
    origin: Float64[np.ndarray, " d"]  #: subtracted from all features first
    centre: Float32[jax.Array, " d"]  #: μ minus the origin
    directions: Float32[jax.Array, "p d"]  #: the pool, unit vectors
    members: Int32[jax.Array, "t digits"]  #: the directions of each table, by number in the pool
    thresholds: Float32[jax.Array, "t digits"]  #: of each digit
    width: Float32[jax.Array, ""]  #: of a pstable digit, in units of the features
    radius_edges: Float32[jax.Array, " e"]  #: of the radius bins
    regions: Float32[jax.Array, "q d"]  #: centroids, minus the origin
    digits: Int32[jax.Array, "q t"]  #: number of digits that count, per region and table
    source: str = ""  #: of the features: network, preprocessing, version; "" if unknown
    address_bits: int = 0  #: s: tables of counts have 2^s addresses; 0 until their size is known

    @property
    def num_bits(self) -> float:
        """Mean number of digits that count, over regions and tables."""
        return float(np.asarray(self.digits).mean())

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of the hash that go into a result."""
        spec = self.spec
        return {
            "family": spec.family, "num_tables": spec.num_tables, "num_bits": self.num_bits,
            "radius_bins": spec.radius_bins,
        }  # fmt: skip

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays that encoding needs on the device."""
        return (self.origin.astype(np.float32), *self[2:9])


class Codes(NamedTuple):
    """Codes of a set; the first digit is the most significant."""

    digits: UInt32[jax.Array, "t n"]
    radius_bin: Int32[jax.Array, " n"]
    region: Int32[jax.Array, " n"]


class Places(NamedTuple):
    """The places of n rows in the tables."""

    addresses: Int32[jax.Array, "t n"]  # in each table
    cells: Int32[jax.Array, " n"]  # region · number of radius bins + radius bin


def fit(
    key: jax.Array, sample: Array, spec: HashSpec, *, source: str = "", origin: Any = None
) -> Hasher:
    """Fits a hash; with 'auto' bits all digits count, until `fit_num_bits` chooses.

    The sample holds checked features of the reference, `[n, d]`; at most `SAMPLE_ROWS` of them are
    used. The origin `[d]` is its first row if None. Other arguments are as in `sketch.fit_hash`.
    """
    traced = isinstance(key, jax.core.Tracer)
    if traced or not isinstance(key, jax.Array) or jnp.issubdtype(key.dtype, jnp.floating):
        shape = getattr(key, "shape", ())
        found = f"an array {shape}" if shape and not traced else repr(key)  # perhaps features
        raise TypeError(f"key = {found}; expected jax.random.key(SEED)")
    if not devices.is_free(key):
        data = jnp.asarray(np.asarray(jax.random.key_data(key)))
        key = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
    origin = np.asarray(sample[0] if origin is None else origin, np.float64)
    if len(sample) > SAMPLE_ROWS:
        sample = sample[subset(len(sample), SAMPLE_ROWS)]
    arrays = _fit(key, centred(sample, origin), jnp.float32(spec.width), spec=spec.static)
    digits = spec.max_digits if spec.num_bits == "auto" else int(spec.num_bits)
    kept = jnp.full((len(arrays[-1]), spec.num_tables), digits, jnp.int32)
    return Hasher._make([spec, origin, *arrays, kept, source, 0])


@functools.partial(jax.jit, static_argnames="spec")
def _fit(key, x, relative_width, *, spec: HashSpec):
    n, d = x.shape
    tables, digits, pool = spec.num_tables, spec.max_digits, spec.num_directions
    for_directions, *others = jax.random.split(key, 3)
    directions = jax.random.normal(for_directions, (pool, d), jnp.float32)
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    # Each draw takes long to compile, so there is one for all else.
    keys, most = jnp.stack([*others, jax.random.fold_in(key, 3)]), max(tables * pool, n)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (most,), jnp.float32))(keys)
    for_members = uniform[0, : tables * pool].reshape(tables, pool)
    for_thresholds = uniform[1, : tables * digits].reshape(tables, digits)
    members = jnp.argsort(for_members, axis=1)[:, :digits].astype(jnp.int32)
    last = int(CENTRAL * (n - 1))  # of the central rows, by norm

    def central_about(centre):  # which rows are central, and all norms, ascending
        norms = jnp.linalg.norm(x - centre, axis=1)
        ordered = jnp.sort(norms)
        return norms <= ordered[last], ordered

    weights, _ = central_about(x.mean(axis=0))
    centre = jnp.matmul(weights.astype(x.dtype), x, precision="highest") / weights.sum()
    central, norms = central_about(centre)
    projections = jnp.matmul(directions, (x - centre).T, precision="highest")

    width, thresholds = jnp.float32(1), jnp.zeros((tables, digits), jnp.float32)
    if spec.family == "affine":
        # Midway between two rows, so that no digit of a row depends on rounding.
        ordered = jnp.sort(jnp.where(central, projections, jnp.inf), axis=1)
        rank = (for_thresholds * central.sum()).astype(jnp.int32)
        after = jnp.minimum(rank + 1, central.sum() - 1)
        thresholds = (ordered[members, rank] + ordered[members, after]) / 2
    elif spec.family == "pstable":
        width = relative_width * jnp.std(projections, where=central)
        width = jnp.where(width > 0, width, 1.0)
        thresholds = -for_thresholds * width

    edges = jnp.zeros(0, jnp.float32)
    if spec.radius_bins:
        share = CENTRAL * np.arange(1, spec.radius_bins + 1) / spec.radius_bins
        row = np.minimum(share * (n - 1), n - 2).astype(np.int32)
        inner = (norms[row] + norms[row + 1]) / 2
        first, end = norms[:1] * (1 - _MARGIN), norms[-1:] * (1 + _MARGIN)
        # The rows whose mean is μ are nearer to μ than other rows, by about this much. On a thin
        # shell, bins would separate them from other samples of their distribution: use one bin.
        nearer = norms[n // 2] / weights.sum()
        thin = jnp.std(norms[: last + 1]) < _THIN * nearer
        edges = jnp.concatenate([first, jnp.where(thin, first, inner), end])
    count = max(1, min(REGIONS, n // _REGION_ROWS))
    order = jnp.argsort(uniform[2, :n] + ~central)  # central rows first
    regions = _k_means(x[order[:count]], x, central)
    return centre, directions, members, thresholds, width, edges, regions


def _k_means(start, x, central) -> jax.Array:
    """Finds centroids of the central rows of x by Lloyd's algorithm, from `start` `[k, d]`."""

    def step(_, centroids):
        products = jnp.matmul(centroids, x.T, precision="highest")
        nearest = _nearest(centroids, products)
        own = jax.nn.one_hot(nearest, len(start), dtype=x.dtype, axis=0) * central
        rows = own.sum(axis=1, keepdims=True)
        means = jnp.matmul(own, x, precision="highest") / jnp.maximum(rows, 1)
        return jnp.where(rows > 0, means, centroids)

    return lax.fori_loop(0, _LLOYD_STEPS, step, start)


def _nearest(centroids, products):
    """Finds the nearest centroid of each row, int32 `[n]`, from inner products `[k, n]`."""
    half = jnp.sum(centroids * centroids, axis=1, keepdims=True) / 2
    return jnp.argmin(half - products, axis=0).astype(jnp.int32)


def encode(hasher: Hasher, features: Array, *, local: bool = False) -> Codes:
    """Encodes checked features `[n, d]`, with rows split over all devices, or those of this host.

    Chunks of a fixed number of rows are projected, so that a row has the same code in any set.
    """
    chunk = devices.at_once(*_CHUNK)
    if features.dtype == np.float64:  # subtracts the origin in float64, before the device
        features = centred(features, hasher.origin)
        hasher = hasher._replace(origin=np.zeros_like(hasher.origin))
    n, whole = len(features), devices.count(local=local) == 1 and len(features) >= chunk
    rows = jnp.asarray(features) if whole else devices.pad_rows(features, chunk, local=local)
    codes = _encode(hasher.arrays, rows, bits=DIGIT_BITS[hasher.spec.family], local=local)
    return codes if whole else Codes(*(x[..., :n] for x in codes))


@functools.partial(jax.jit, static_argnames=("bits", "local"))
def _encode(arrays, x, *, bits: int, local: bool = False) -> Codes:
    run, rows = functools.partial(_encode_rows, bits=bits), P("data")
    out = Codes(P(None, "data"), rows, rows)  # type: ignore[arg-type]  # specs, not arrays
    return devices.share(run, arrays, x, in_specs=(P(), rows), out_specs=out, local=local)


def _encode_rows(arrays, x, *, bits: int) -> Codes:
    origin, centre, directions, members, thresholds, width, edges, regions = arrays
    size = min(len(x), devices.at_once(*_CHUNK))
    pool, digits = len(directions), members.shape[1]
    offsets = jnp.matmul(directions, centre, precision="highest")[:, None]
    widths = jnp.where(jnp.arange(digits) < _WIDE_DIGITS, width, width / 3)
    both = jnp.concatenate([directions, regions])  # so that one pass over the rows is enough

    def chunk(first):
        rows = lax.dynamic_slice_in_dim(x, first, size) - origin
        norms = jnp.linalg.norm(rows - centre, axis=1)
        products = jnp.matmul(both, rows.T, precision="highest")
        projections = products[:pool] - offsets

        def add_digit(code, j):
            beyond = projections[members[:, j]] - thresholds[:, j, None]
            digit = beyond > 0 if bits == 1 else jnp.mod(jnp.floor(beyond / widths[j]), 2**bits)
            return code << bits | digit.astype(jnp.uint32), None

        code = jnp.zeros((len(members), size), jnp.uint32)
        code, _ = lax.scan(add_digit, code, jnp.arange(digits), unroll=devices.at_once(1, digits))
        radius_bin = jnp.searchsorted(edges, norms).astype(jnp.int32)
        return Codes(code, radius_bin, _nearest(regions, products[pool:]))

    # The last chunk ends at the last row, and may overlap the chunk before it.
    n = len(x)
    firsts = np.minimum(np.arange(0, n, size), n - size)
    codes = lax.map(chunk, jnp.asarray(firsts, jnp.int32))
    rest = n - (len(firsts) - 1) * size

    def join(parts):  # [chunks, ..., size]
        whole = jnp.moveaxis(parts[:-1], 0, -2)
        whole = whole.reshape(*parts.shape[1:-1], -1)
        return jnp.concatenate([whole, parts[-1, ..., size - rest :]], axis=-1)

    return Codes(*map(join, codes))


def buckets(hasher: Hasher, codes: Codes) -> UInt32[jax.Array, "t n"]:
    """Computes the bucket of each row in each table: a mix of the digits and the radius bin."""
    return _buckets(codes, hasher.digits, spec=hasher.spec.static)


@functools.partial(jax.jit, static_argnames="spec")
def _buckets(codes, kept, *, spec: HashSpec) -> jax.Array:
    return _bucket(codes.digits, codes.radius_bin, kept[codes.region].T, spec)


def _bucket(digits, radius_bin, kept, spec: HashSpec) -> jax.Array:
    """Computes buckets, uint32 `[..., n]`, from the first `kept` digits, int32 `[..., n]`."""
    unused = DIGIT_BITS[spec.family] * (spec.max_digits - kept)
    beside = (32 * radius_bin + kept + 1).astype(jnp.uint32) * np.uint32(0x9E3779B9)
    x = (digits >> unused.astype(jnp.uint32)) + beside
    # The finaliser of MurmurHash3, a bijection: every bit affects every bit.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return x ^ (x >> 16)


def num_cells(hasher: Hasher) -> tuple[int, int]:
    """Returns the numbers of regions and of radius bins, the outer ones included.

    A cell is a pair of a region and a radius bin.
    """
    return len(hasher.regions), len(hasher.radius_edges) + 1


def find_places(hasher: Hasher, codes: Codes) -> Places:
    """Finds the places of rows in the tables."""
    bits, bins = hasher.address_bits, num_cells(hasher)[1]
    return _find_places(codes, hasher.digits, spec=hasher.spec.static, bits=bits, bins=bins)


@functools.partial(jax.jit, static_argnames=("spec", "bits", "bins"))
def _find_places(codes, kept, *, spec: HashSpec, bits: int, bins: int) -> Places:
    found = addresses(_buckets(codes, kept, spec=spec), bits)
    return Places(found, codes.region * bins + codes.radius_bin)


def address_bits(rows: int) -> int:
    """Returns the bits of an address for a table of `rows` rows: 16 addresses per row or more."""
    return max(16, int(np.ceil(np.log2(rows))) + 4)


def addresses(buckets: jax.Array, bits: int) -> jax.Array:
    """Returns the addresses of buckets in tables of 2^bits, int32, of the same shape.

    Two buckets may share an address, as in a Bloom filter, with a chance equal to the load.
    """
    return (buckets >> np.uint32(32 - bits)).astype(jnp.int32)


@functools.partial(jax.jit, donate_argnums=1)
def _count(addresses: jax.Array, counts: jax.Array) -> jax.Array:
    def run(addresses, counts):
        # Only the first device adds the previous counts.
        counts = jnp.where(lax.axis_index("data") == 0, counts, 0) if shared else counts
        return counts.at[jnp.arange(len(addresses))[:, None], addresses].add(1, mode="drop")

    shared = devices.count() > 1
    join, specs = functools.partial(lax.psum, axis_name="data"), (P(None, "data"), P())
    return devices.share(run, addresses, counts, in_specs=specs, out_specs=P(), join=join)


def count(addresses: jax.Array, bits: int, counts: jax.Array | None = None) -> jax.Array:
    """Counts rows with addresses `[t, n]` at each address of each table, int32 `[t, 2^bits]`.

    The result is added to `counts`, whose buffer it reuses.
    """
    if counts is None:
        counts = devices.replicate(jnp.zeros((len(addresses), 2**bits), jnp.int32))
    return _count(devices.pad_rows(addresses, axis=1, fill=2**bits), counts)


def fit_num_bits(
    hasher: Hasher, codes: Codes, *, min_count: int, votes: float | None, rows: int = 1
) -> Hasher:
    """Returns the hasher with as many digits as still let the reference recognise itself.

    A row is recognised if it is on the manifold of the other rows by votes alone. The recognised
    share of the central rows falls with the total number of digits of all tables. A bisection finds
    the largest number that keeps this share at `ceiling_target` or above. A second bisection finds
    how many more digits each region allows, for its own rows: up to two per table.

    The codes are those of the reference, or of a sample of its `rows` rows; then each doubling from
    the sample to `rows` adds one bit. `min_count` is the number of others that a bucket must hold,
    and `votes` is the share of tables that must have a hit, or None for their mean.
    """
    spec, doublings = hasher.spec, max(0.0, np.log2(rows / codes.digits.shape[1]))
    extra = round(doublings * spec.num_tables / DIGIT_BITS[spec.family])
    # The tolerance keeps a share that is met exactly.
    needed = None if votes is None else max(1, int(np.ceil(votes * spec.num_tables - 1e-9)))
    kept = _fit_num_bits(
        codes, jnp.int32(min_count), jnp.int32(extra), jnp.float32(spec.ceiling_target), needed,
        spec=spec.static, regions=len(hasher.regions),
    )  # fmt: skip
    return hasher._replace(digits=kept)


@functools.partial(jax.jit, static_argnames=("spec", "regions"))
def _fit_num_bits(codes, min_count, extra, target, needed, *, spec: HashSpec, regions: int):
    tables, limit = spec.num_tables, spec.num_tables * spec.max_digits
    bits = address_bits(codes.digits.shape[1])
    central = (codes.radius_bin >= 1) & (codes.radius_bin <= spec.radius_bins)
    central = jnp.where(central.any(), central, True)

    def spread(totals):  # evenly over the tables; the first ones get the remainder
        more = jnp.arange(tables) < totals[:, None] % tables
        return (totals[:, None] // tables + more).astype(jnp.int32)

    def recognised(totals, group, some):
        """Returns the recognised share of the `some` rows of each group, NaN without such rows."""

        def vote(digits, kept):
            at = addresses(_bucket(digits, codes.radius_bin, kept[group], spec), bits)
            others = jnp.zeros(2**bits, jnp.int32).at[at].add(1)[at]
            return others > min_count

        shares = codes.digits, spread(totals).T
        hits = lax.map(lambda x: vote(*x), shares, batch_size=devices.at_once(1, 8)).sum(axis=0)
        hits = hits if needed is None else tables * (hits >= needed)
        total, count = (
            jax.ops.segment_sum(jnp.where(some, x, 0), group, len(totals))
            for x in (hits, jnp.ones_like(hits))
        )
        return total / (tables * count)

    def bisect(low, high, steps, *rows):
        def halve(_, ends):
            low, high = ends
            middle = (low + high) // 2
            keep = recognised(middle, *rows) >= target
            return jnp.where(keep, middle, low), jnp.where(keep, high, middle)

        return lax.fori_loop(0, steps, halve, (low, high))[0]

    everywhere, ends = jnp.zeros_like(codes.region), jnp.array([[0], [limit]], jnp.int32)
    low = bisect(*ends, limit.bit_length(), everywhere, central)
    if regions > 1:
        low = jnp.broadcast_to(low, regions)
        more = min(2 * tables, limit)
        low = bisect(low, jnp.minimum(low + more, limit), more.bit_length(), codes.region, True)
    return spread(jnp.minimum(low + extra, limit))
