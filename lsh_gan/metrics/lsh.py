"""LSH precision and recall: hash, count, vote. O(1) for an assessed sample, no distances.

    bucket   = digits and radius bin of x in table t          `hashing`
    yes_t(x) = counts_t[address_t(x)] >= c                    c = 1; one more for a row of R itself
    x is on the manifold when at least the share `votes` of tables says yes

Precision is the share of G on the manifold of R, recall the share of R on the manifold of G, under
the same hash, fitted on R. The counts are all that is kept of a set (a `Sketch`): of fixed size,
built in a stream, added across batches, devices and files. Recall also needs the addresses of R's
rows. By definition, with buckets in place of addresses: `definitions.lsh`.

Source: arXiv:2103.11912, whose abstract fixes the idea; hash families, radius bins and votes are
ours.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from lsh_gan import devices
from lsh_gan.metrics import hashing
from lsh_gan.metrics.hashing import SAMPLE_ROWS, Codes, Hasher
from lsh_gan.metrics.inputs import HashSpec, as_features, batches, check_options, subset
from lsh_gan.metrics.scores import PrecisionRecall, aggregate_votes, group_of, result

VERSION = 7  # of the file; bump it when the codes of equal features change
MEMORY_BYTES = 2**33  # of the counts of one set
_LOOKED_AT = 2**16  # addresses of each table that say its load
_FEW = 0.1  # ceiling below which a score says nothing


class Sketch(NamedTuple):
    """Counts of a set of samples in the tables of a hash.

    Attributes:
        hasher: The hash.
        counts: Rows at each address of each table, int32 `[t, 2^s]`.
        addresses: Address of every row in every table, int32 `[t, n]`; None in a sketch of counts
            alone, which gives precision only.
        rows: n.
    """

    hasher: Hasher
    counts: jax.Array
    addresses: jax.Array | None
    rows: int


class LshReference(NamedTuple):
    """What the score of a generated set needs of the reference.

    Attributes:
        sketch: The reference's.
        min_count: c.
        votes: Share of tables that must say yes, or None for the mean over tables.
        ceiling: Whether scores come with their ceilings.
        second: Sketch of a second reference sample, or None.
    """

    sketch: Sketch
    min_count: int = 1
    votes: float | None = 0.5
    ceiling: bool = True
    second: Sketch | None = None


def lsh_precision_recall(
    key: jax.Array,
    reference: Any,
    generated: Any,
    *,
    spec: HashSpec | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    membership: bool = False,
    ceiling: bool = True,
    second_reference: Any = None,
) -> PrecisionRecall:
    """Scores `generated` against `reference` by shared hash buckets.

    >>> import jax, numpy as np
    >>> real = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    >>> same, narrow = real[:1000] + 0.01, real[:1000] / 2
    >>> key = jax.random.key(0)
    >>> bool(lsh_precision_recall(key, real, same).recall > 0.7)
    True
    >>> bool(lsh_precision_recall(key, real, narrow).recall < 0.3)  # diversity is lost
    True

    Args:
        key: `jax.random.key`; draws the hash.
        reference: Features `[n, d]`, floating point (NumPy, JAX, torch, DLPack), or an iterable of
            batches, of which one at a time is held beside the rows that the hash is fitted on: of
            an iterable the first 2048.
        generated: Features `[m, d]`, likewise.
        spec: Kind of hash; `HashSpec()` if None.
        min_count: c, at least 1. Above 1, a lone outlier makes no manifold.
        votes: Share of tables that must say yes, in (0, 1], or None for the mean over tables.
        membership: Whether to return the membership of every sample: bool with votes, else the
            share of tables.
        ceiling: Whether to score the reference against itself too.
        second_reference: A second sample of the reference distribution, at least n rows; gives the
            ceiling instead.

    Returns:
        The scores; `num_bits` says what 'auto' found.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, wrong shape, too few rows, fewer in the second reference than in the
            reference, an option out of its range, or tables too large for memory.
    """
    if hasattr(generated, "shape") and hasattr(reference, "shape") and len(reference.shape) == 2:
        generated = as_features(generated, "generated", dim=reference.shape[1])
    fitted = lsh_fit(
        key, reference, spec=spec, min_count=min_count, votes=votes, ceiling=ceiling,
        second_reference=second_reference,
    )  # fmt: skip
    return lsh_score(fitted, generated, membership=membership)


def lsh_fit(
    key: jax.Array,
    reference: Any,
    *,
    spec: HashSpec | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    ceiling: bool = True,
    second_reference: Any = None,
    source: str = "",
) -> LshReference:
    """Fits the hash and counts the reference; arguments as `lsh_precision_recall`, `fit_hash`."""
    check_options(min_count=min_count, votes=votes)
    hasher, codes = fit_and_encode(
        key, reference, spec or HashSpec(), source, least=min_count + 2,
        fit_bits=lambda h, c: hashing.fit_num_bits(h, c, min_count=min_count, votes=votes),
    )  # fmt: skip
    n = codes.digits.shape[1]
    hasher = hasher._replace(address_bits=_address_bits(hasher.spec, n))
    sketch = _sketch(hasher, codes)
    second = None
    if ceiling and second_reference is not None:
        others = encode_all(hasher, second_reference, "second reference")
        check_second(n, others.digits.shape[1])
        second = _sketch(hasher, others)
    return LshReference(sketch, min_count, votes, ceiling, second)


def lsh_score(
    fitted: LshReference, generated: Any, *, membership: bool = False, recall: bool = True
) -> PrecisionRecall:
    """Scores `generated` against a fitted reference; see `lsh_precision_recall`.

    Args:
        fitted: From `lsh_fit`, or of a sketch.
        generated: Features `[m, d]`, or an iterable of batches.
        membership: Whether to return the membership of every sample.
        recall: Whether to score recall, which needs the addresses of the reference's rows.

    Raises:
        ValueError: Also when the reference's sketch holds counts alone and recall is asked for.
    """
    reference, votes, least = fitted.sketch, fitted.votes, fitted.min_count
    if recall and reference.addresses is None:
        raise ValueError(
            "This sketch holds counts alone, and recall needs the addresses of the reference's "
            "rows: build it with keep_addresses=True, or say recall=False."
        )
    tables = reference.hasher.spec.num_tables
    join = functools.partial(aggregate_votes, tables=tables, votes=votes)
    codes = encode_all(reference.hasher, generated, "generated")
    m = codes.digits.shape[1]
    if recall:
        sample = _sketch(reference.hasher, codes)
        precise = join(count_votes(reference.counts, sample.addresses, least))
        recalled = join(count_votes(sample.counts, reference.addresses, least))
    else:
        found = _addresses(reference.hasher, codes)
        precise, recalled = join(count_votes(reference.counts, found, least)), None
    some = reference.counts[:, :_LOOKED_AT]  # say what all do, and cost the same at any n
    scores = result(
        precise, recalled, _ceilings(fitted, m, join), membership=membership,
        rows=(reference.rows, m),
        extra={"load": (jnp.sum(some > 0), some.size)},
        num_bits=reference.hasher.num_bits, num_tables=tables,
        family=reference.hasher.spec.family, radius_bins=reference.hasher.spec.radius_bins,
    )  # fmt: skip
    if scores.precision_ceiling is not None and scores.precision_ceiling < _FEW:
        warnings.warn(
            f"LSH: only {scores.precision_ceiling:.1%} of the reference recognises itself, so the "
            f"scores say little: num_bits = {scores.num_bits:g} is too much for n = {scores.n} "
            f"rows; say 'auto', or fewer bits.",
            stacklevel=2,
        )
    return scores if recall else scores._replace(recall_ceiling=None)


def count_votes(counts: jax.Array, addresses: jax.Array, least: Any, own: Any = 0) -> jax.Array:
    """Tables that say yes to each row, by group of tables, int32 `[8, n]`; rows on all devices.

    Args:
        counts: Of the other set, int32 `[t, 2^s]`.
        addresses: Of the rows, int32 `[t, n]`.
        least: c.
        own: How often each row is counted itself, scalar or `[n]`.
    """
    own = jnp.broadcast_to(jnp.asarray(own, jnp.int32), addresses.shape[1:])
    n = addresses.shape[1]
    if devices.count() == 1:
        return _count_votes(counts, addresses, jnp.int32(least), own)
    rows = (devices.pad_rows(addresses.T, 1), devices.pad_rows(own, 1))
    return _count_votes_sharded(devices.replicate(counts), *rows, jnp.int32(least))[:, :n]


@jax.jit
def _count_votes(counts, addresses, least, own):
    hits = jnp.take_along_axis(counts, addresses, axis=1) - own >= least
    groups = jnp.asarray(group_of(len(counts)))
    return jnp.matmul(groups, hits.astype(jnp.float32)).astype(jnp.int32)


@jax.jit
def _count_votes_sharded(counts, addresses, own, least):
    def run(counts, addresses, own, least):
        hits = _count_votes(counts, addresses.T, least, own)
        return lax.all_gather(hits, "data", axis=1, tiled=True)

    rows = P("data")
    run = devices.shard_map(run, in_specs=(P(), rows, rows, P()), out_specs=P())
    return run(counts, addresses, own, least)


def _ceilings(fitted: LshReference, m: int, join: Any) -> tuple[Any, Any]:
    """What a sample of the reference distribution scores; recall of as many rows as G has."""
    reference, second, least = fitted.sketch, fitted.second, fitted.min_count
    n, addresses = reference.rows, reference.addresses
    if not fitted.ceiling or (addresses is None and second is None):
        return None, None
    if second is not None:
        above = join(count_votes(reference.counts, second.addresses, least)).total, second.rows
        sample, own = second.addresses[:, subset(second.rows, min(m, n))], 0
    else:
        above = join(count_votes(reference.counts, addresses, least, own=1)).total, n
        rows = subset(n, min(m, n))
        sample, own = addresses[:, rows], jnp.zeros(n, jnp.int32).at[rows].set(1)
    if addresses is None:
        return above, None
    if m >= n and second is None:
        return above, above
    thinned = _count(sample, reference.hasher.address_bits)
    return above, (join(count_votes(thinned, addresses, least, own=own)).total, n)


def fit_hash(
    key: jax.Array,
    sample: Any,
    spec: HashSpec | None = None,
    *,
    rows: int | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    source: str = "",
) -> Hasher:
    """Fits a hash on a sample of the reference and freezes it.

    Args:
        key: `jax.random.key`; draws the directions and thresholds.
        sample: Features `[n, d]`, floating point.
        spec: What to fit; `HashSpec()` if None.
        rows: Size of the whole reference if it is larger than the sample; with `num_bits='auto'`
            each doubling adds one bit.
        min_count: Others that a bucket must hold, for `num_bits='auto'`.
        votes: How tables are joined, for `num_bits='auto'`; see `lsh_precision_recall`.
        source: Where the features come from: network, preprocessing, version. Sketches of
            different sources do not mix.

    Returns:
        The hasher; `hasher.num_bits` says what 'auto' found.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, wrong shape, too few rows, or tables too large for memory.
    """
    check_options(min_count=min_count, votes=votes)

    def fit_bits(hasher, codes):
        doublings = max(0.0, np.log2((rows or 1) / codes.digits.shape[1]))
        return hashing.fit_num_bits(
            hasher, codes, min_count=min_count, votes=votes, doublings=doublings
        )

    hasher, codes = fit_and_encode(
        key, sample, spec or HashSpec(), source, least=min_count + 2, fit_bits=fit_bits
    )
    rows = max(rows or 0, codes.digits.shape[1])
    return hasher._replace(address_bits=_address_bits(hasher.spec, rows))


def build(hasher: Hasher, features: Any, *, keep_addresses: bool = True) -> Sketch:
    """Counts a set, batch by batch.

    Args:
        hasher: From `fit_hash`.
        features: `[n, d]`, or an iterable of batches, of which one at a time is held.
        keep_addresses: Whether to keep every row's addresses, which recall needs.

    Returns:
        The sketch.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, or a d other than the hasher's.
    """
    whole = None
    for batch in batches(features, "features", dim=len(hasher.origin)):
        part = _sketch(hasher, hashing.encode(hasher, batch))
        part = part if keep_addresses else part._replace(addresses=None)
        whole = part if whole is None else merge(whole, part)
    return whole


def merge(first: Sketch, *others: Sketch) -> Sketch:
    """The sketch of several sets together: counts add, addresses follow one another.

    Of parts of which one has no addresses, the whole has none.

    Raises:
        ValueError: They were not made by the same hasher.
    """
    parts = (first, *others)
    for part in others:
        check_same_hasher(first.hasher, part.hasher)
    addresses = [part.addresses for part in parts]
    return Sketch(
        first.hasher,
        sum(part.counts for part in parts),
        None if any(a is None for a in addresses) else jnp.concatenate(addresses, axis=1),
        sum(part.rows for part in parts),
    )


def fit_and_encode(
    key: jax.Array, features: Any, spec: HashSpec, source: str, *, least: int, fit_bits: Any
) -> tuple[Hasher, Codes]:
    """Fits a hash on a set, encodes the set, and chooses the number of digits.

    Args:
        key: Draws the hash.
        features: The reference; of an iterable the first rows are fitted on.
        spec: What to fit.
        source: Where the features come from.
        least: Fewest rows.
        fit_bits: Chooses the digits of a hasher for codes; see `hashing.fit_num_bits`.
    """
    whole = hasattr(features, "shape")
    stream = batches(
        as_features(features, "reference", least=least) if whole else features, "reference"
    )
    first, rows = [], 0
    while whole or rows < SAMPLE_ROWS:
        batch = next(stream, None)
        if batch is None:
            break
        first.append(batch)
        rows += len(batch)
    sample = first[0] if len(first) == 1 else np.concatenate([np.asarray(x) for x in first])
    if len(sample) < least:
        as_features(sample, "reference", least=least)
    hasher = hashing.fit(key, sample, spec, source=source)
    codes = encode_all(hasher, itertools.chain(first, stream), "reference")
    return (fit_bits(hasher, codes) if spec.num_bits == "auto" else hasher), codes


def encode_all(hasher: Hasher, features: Any, source: str) -> Codes:
    """Codes of a set, batch by batch."""
    stream = batches(features, source, dim=len(hasher.origin))
    parts = [hashing.encode(hasher, batch) for batch in stream]
    if len(parts) == 1:
        return parts[0]
    return Codes(
        jnp.concatenate([part.digits for part in parts], axis=1),
        jnp.concatenate([part.radius_bin for part in parts]),
    )


def check_second(rows: int, second_rows: int) -> None:
    """Raises ValueError if a second reference has fewer rows than the reference."""
    if second_rows < rows:
        raise ValueError(
            f"second reference has {second_rows} rows; the reference has {rows}: give at least as "
            "many, or none, and the ceilings come from the reference alone."
        )


def check_same_hasher(a: Hasher, b: Hasher) -> None:
    """Raises ValueError, saying what differs, unless two hashers are the same."""
    for field, x, y in zip(Hasher._fields, a, b, strict=True):
        same = np.array_equal(x, y) if hasattr(x, "shape") else x == y
        if not same:
            detail = "" if hasattr(x, "shape") else f" ({x!r} and {y!r})"
            raise ValueError(f"The sketches come from different hashers: {field} differs{detail}.")


def _address_bits(spec: HashSpec, rows: int) -> int:
    """Bits of an address; ValueError, with the bytes, if the counts would not fit in memory."""
    bits = hashing.address_bits(rows)
    size = 4 * spec.num_tables * 2**bits
    if size > MEMORY_BYTES:
        raise ValueError(
            f"num_tables = {spec.num_tables}: tables of 2^{bits} addresses for {rows} rows take "
            f"{size} bytes, more than {MEMORY_BYTES}; use fewer tables."
        )
    return bits


def _sketch(hasher: Hasher, codes: Codes) -> Sketch:
    found = _addresses(hasher, codes)
    return Sketch(hasher, _count(found, hasher.address_bits), found, found.shape[1])


def _addresses(hasher: Hasher, codes: Codes) -> jax.Array:
    return hashing.addresses(hashing.buckets(hasher, codes), hasher.address_bits)


def _count(addresses: jax.Array, bits: int) -> jax.Array:
    """Counts, int32 `[t, 2^bits]`: each device those of its rows, and then their sum."""
    if devices.count() == 1:
        return _count_all(addresses, bits)
    weights = jnp.ones(addresses.shape[1], jnp.int32)
    return _count_sharded(*(devices.pad_rows(x, 1) for x in (addresses.T, weights)), bits)


_count_all = jax.jit(hashing.count, static_argnums=1)


@functools.partial(jax.jit, static_argnums=2)
def _count_sharded(addresses, weights, bits):
    def run(addresses, weights):
        return lax.psum(hashing.count(addresses.T, bits, weights), "data")

    return devices.shard_map(run, in_specs=(P("data"), P("data")), out_specs=P())(
        addresses, weights
    )


def save(path: str | os.PathLike, fitted: Sketch | LshReference) -> None:
    """Writes a sketch or an LSH reference as one safetensors file.

    Tensors: the fields of the hasher and, for each sketch, `addresses` int32 `[t, n]`, from which
    the counts follow, or `counts` int32 `[t, 2^s]` where there are none. The metadata hold the
    spec, the source of the features, the options, and the version of this layout, as JSON.

    Args:
        path: The file.
        fitted: What to write.
    """
    from safetensors.numpy import save_file

    reference = fitted if isinstance(fitted, LshReference) else None
    sketches = {"": fitted if reference is None else reference.sketch}
    if reference is not None and reference.second is not None:
        sketches["second."] = reference.second
    hasher = sketches[""].hasher
    header = {"version": VERSION, "spec": dataclasses.asdict(hasher.spec), "source": hasher.source}
    header |= {"address_bits": hasher.address_bits}
    header |= {prefix + "rows": sketch.rows for prefix, sketch in sketches.items()}
    if reference is not None:
        header |= {name: getattr(reference, name) for name in _OPTIONS}
    tensors = {name: getattr(hasher, name) for name in _ARRAYS}
    for prefix, sketch in sketches.items():
        name = "counts" if sketch.addresses is None else "addresses"
        tensors[prefix + name] = getattr(sketch, name)
    # Contiguous and at least one-dimensional, as the format wants them.
    tensors = {name: np.array(x, order="C", ndmin=1) for name, x in tensors.items()}
    save_file(tensors, path, metadata={"lsh_gan": json.dumps(header, sort_keys=True)})


_OPTIONS = ("min_count", "votes", "ceiling")
_ARRAYS = (
    "origin", "centre", "directions", "members", "thresholds", "width", "radius_edges", "digits",
)  # fmt: skip


def load(path: str | os.PathLike, *, source: str | None = None) -> Sketch | LshReference:
    """Reads what `save` wrote.

    Args:
        path: The file.
        source: What the features must come from; None accepts any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no sketch, is damaged, is of another version, or of another source.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("lsh_gan", "{}"))
            if header.get("version") != VERSION:
                found = header.get("version", "none")
                raise ValueError(f"{path}: layout {found}; expected {VERSION}: make it again")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{path}: no such file") from None
        raise ValueError(f"{path}: no sketch, or a damaged one ({error})") from None
    if source is not None and header["source"] != source:
        raise ValueError(f"{path}: made of {header['source']!r}; expected {source!r}")
    arrays = {name: tensors[name] for name in _ARRAYS} | {"width": tensors["width"][0]}
    spec = HashSpec(**header["spec"])
    hasher = Hasher(spec, **arrays, source=header["source"], address_bits=header["address_bits"])

    def sketch(prefix):
        rows, counts = header[prefix + "rows"], tensors.get(prefix + "counts")
        if counts is not None:
            return Sketch(hasher, jnp.asarray(counts), None, rows)
        found = jnp.asarray(tensors[prefix + "addresses"])
        return Sketch(hasher, _count(found, hasher.address_bits), found, rows)

    if "votes" not in header:
        return sketch("")
    second = sketch("second.") if "second.rows" in header else None
    return LshReference(sketch(""), *(header[name] for name in _OPTIONS), second)


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
