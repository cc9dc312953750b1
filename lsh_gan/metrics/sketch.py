"""Sketches: a set as counts in the tables of a hash, built in a stream, merged, saved.

The size of the counts does not depend on the size of the set, and counts add up across batches,
devices and files. Recall and normal levels also need the places of the rows.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int32

from lsh_gan import devices
from lsh_gan.errors import check_int
from lsh_gan.metrics import hashing, inputs
from lsh_gan.metrics.hashing import SAMPLE_ROWS, Codes, Hasher, Places
from lsh_gan.metrics.inputs import MIN_LEVEL, HashSpec, as_features, batches
from lsh_gan.metrics.scores import GROUPS, Found, levels_of

VERSION = 9  # of the file layout; raise it when equal features get other codes
MEMORY_BYTES = 2**33  # limit for the counts of one set
_STEPS = 8  # of backfitting the normal levels


class Sketch(NamedTuple):
    """Counts of a set of samples in the tables of a hash.

    A sketch without places holds only counts, which give precision by votes alone.
    """

    hasher: Hasher
    counts: Int32[jax.Array, "t 2**s"]  #: rows at each address of each table
    rows: int  #: n
    places: Places | None = None  #: of the rows
    normal: Float[jax.Array, "1+g 2 c"] | None = None  #: see `normal_levels`


class Share(NamedTuple):
    """The rows of a set that this process holds; it sends only their codes to the others.

    The set is the shares in the order of the processes. Each process passes its own share of each
    set, and all processes get the same result.

    >>> real, fake = np.random.default_rng(0).normal(size=(2, 2000, 8)).astype(np.float32)
    >>> sample = jnp.asarray(real)[np.r_[0, :2000]]  # rows of the whole set, on every process
    >>> from lsh_gan.metrics import lsh_fit, lsh_score
    >>> fitted = lsh_fit(jax.random.key(0), Share([real], 2000, 2000), sample=sample)
    >>> lsh_score(fitted, Share(np.split(fake, 4), 2000, 2000)).m
    2000
    """

    batches: Iterable[Any]  #: features `[*, d]`; empty if the others have all rows
    each: int  #: rows per process; the last processes may have fewer
    rows: int  #: of the whole set


class LshReference(NamedTuple):
    """A fitted reference for `lsh_score`.

    The options are those of `lsh_precision_recall`; `second` is the sketch of a second reference
    sample, or None.
    """

    sketch: Sketch
    min_count: int = 1
    votes: float | None = 0.5
    min_level: float | None = MIN_LEVEL
    ceiling: bool = True
    second: Sketch | None = None


def fit_hash(
    key: jax.Array,
    sample: Float[Any, "n d"],
    spec: HashSpec | None = None,
    *,
    rows: int | None = None,
    min_count: int = 1,
    votes: float | None = 0.5,
    source: str = "",
    table_bytes: int | None = None,
) -> Hasher:
    """Fits a hash on a sample of the reference; its `num_bits` is what 'auto' found.

    Args:
        key: `jax.random.key`; draws the directions and thresholds.
        sample: Features `[n, d]`, or an iterable of batches.
        spec: Kind of hash; `HashSpec()` if None.
        rows: Number of rows of the whole reference, if larger than the sample. With
            `num_bits='auto'` each doubling adds one bit.
        min_count: As in `lsh_precision_recall`, for `num_bits='auto'`.
        votes: As in `lsh_precision_recall`, for `num_bits='auto'`.
        source: Where the features come from: network, preprocessing, version. Sketches of
            different sources cannot be merged.
        table_bytes: Memory for the counts of a set, of any size. Smaller tables have a higher
            `load`. None gives 16 or more addresses per row.

    Raises:
        TypeError, ValueError: As `lsh_precision_recall`.
    """
    options: dict[str, Any] = {"min_count": min_count, "votes": votes}
    inputs.check_options(**options)
    check_int("rows", rows or 1, 1)
    options |= {"least": min_count + 2, "rows": rows or 1, "table_bytes": table_bytes}
    return fit_tables(key, sample, spec or HashSpec(), source, **options)[0]


def fit_tables(
    key: jax.Array,
    features: Any,
    spec: HashSpec,
    *given: Any,
    rows: int = 1,
    table_bytes: int | None = None,
    **options: Any,
) -> tuple[Hasher, Codes]:
    """Fits and encodes as `fit_and_encode`, with tables for at least `rows` rows.

    Tables that are too large are refused before the fit if the number of rows is known.
    """
    inputs.check_type("spec", spec, HashSpec)
    known = getattr(features, "shape", None) or (getattr(features, "rows", 0),)  # of a `Share`
    _address_bits(spec, max(rows, known[0]), table_bytes)
    hasher, codes = fit_and_encode(key, features, spec, *given, rows=rows, **options)
    bits = _address_bits(spec, max(rows, codes.digits.shape[1]), table_bytes)
    return hasher._replace(address_bits=bits), codes


def fit_and_encode(
    key: jax.Array,
    features: Any,
    spec: HashSpec,
    source: str = "",
    sample: Any = None,
    *,
    least: int = 2,
    **options: Any,
) -> tuple[Hasher, Codes]:
    """Fits a hash on a set of at least `least` rows, and encodes it; options as `fit_num_bits`.

    The hash is fitted on the `sample`, whose row 0 only gives the origin. If it is None, the hash
    is fitted on rows of an array that `hashing.fit` draws, or on the first rows of an iterable.
    """
    inputs.check_type("spec", spec, HashSpec)
    if sample is None and isinstance(features, Share):
        raise ValueError("sample = None; a Share needs the rows that the hash is fitted on.")
    if sample is None:
        stream, first, taken = batches(features, "reference"), [], 0
        for batch in stream:
            first.append(batch)
            taken += len(batch)
            if taken >= SAMPLE_ROWS:
                break
        rows = first[0] if len(first) == 1 else np.concatenate([np.asarray(x) for x in first])
        if taken < least:
            as_features(rows, "reference", least=least)
        if not hasattr(features, "shape"):  # an iterable: the same rows for any size of batches
            rows = rows[:SAMPLE_ROWS]
        hasher = hashing.fit(key, rows, spec, source=source, origin=first[0][0])
        codes = _join([hashing.encode(hasher, x) for x in itertools.chain(first, stream)])
    else:
        sample = as_features(sample, "sample")
        hasher = hashing.fit(key, sample[1:], spec, source=source, origin=sample[0])
        codes = encode_all(hasher, features, "reference")
    if spec.num_bits == "auto":
        hasher = hashing.fit_num_bits(hasher, codes, **options)
    return hasher, codes


def encode_all(hasher: Hasher, features: Any, source: str) -> Codes:
    """Encodes a set, batch by batch; returns `Codes` unchanged."""
    if isinstance(features, Codes):
        return features
    if isinstance(features, Share):
        (mine, each, rows), none = features, jnp.zeros(0, jnp.int32)
        first = jax.process_index() * each
        stream = batches(mine, source, dim=len(hasher.origin), first_row=first)
        parts = [Codes(jnp.zeros((hasher.spec.num_tables, 0), jnp.uint32), none, none)]
        parts += [hashing.encode(hasher, batch, local=True) for batch in stream]
        joined = _join(parts)
        if len(joined.region) < (due := min(each, rows - first)):
            raise ValueError(
                f"{source} has {len(joined.region)} rows in this process; expected {due} of a "
                f"Share of each = {each}, rows = {rows}."
            )
        return Codes(*(devices.gather_rows(x.T, each)[:rows].T for x in joined))
    stream = batches(features, source, dim=len(hasher.origin))
    return _join([hashing.encode(hasher, batch) for batch in stream])


def _join(parts: Sequence[Any]) -> Any:
    """Concatenates the codes, or places, of several sets of rows."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=-1), *parts)


def _address_bits(spec: HashSpec, rows: int, table_bytes: int | None) -> int:
    """Returns the bits of an address; ValueError if the counts would not fit in memory."""
    bits, tables = hashing.address_bits(rows), spec.num_tables
    if table_bytes is not None:
        check_int("table_bytes", table_bytes, 8 * tables)
        return min(bits, int(np.log2(table_bytes / (4 * tables))))
    size = 4 * tables * 2**bits
    if size > MEMORY_BYTES:
        raise ValueError(
            f"num_tables = {tables}: tables of 2^{bits} addresses for {rows} rows take {size} "
            f"bytes, more than {MEMORY_BYTES}; use fewer tables, or table_bytes of fit_hash."
        )
    return bits


def sketch_of(hasher: Hasher, places: Places) -> Sketch:
    """Makes the sketch of rows with these places."""
    shape = hashing.num_cells(hasher)
    counts, normal = _fill(devices.replicate(places), bits=hasher.address_bits, shape=shape)
    return Sketch(hasher, counts, len(places.cells), places, normal)


@functools.partial(jax.jit, static_argnames=("bits", "shape"))
def _fill(places: Places, *, bits: int, shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Computes counts and normal levels, in one program."""
    counts = hashing.count(places.addresses, bits)
    return counts, normal_levels(sum_levels(counts, places, shape=shape))


@jax.jit
def look_up(counts: jax.Array, addresses: jax.Array, least: Any, own: Any = 0) -> Found:
    """Finds hits and company of rows with addresses `[t, n]` in counts; devices share the rows.

    A count of `least` rows, c, is a hit. `own`, scalar or `[n]`, is how often the counts include
    the row itself; it is subtracted.
    """
    n = addresses.shape[1]
    own = jnp.broadcast_to(jnp.asarray(own, jnp.int32), n)

    def run(counts, addresses, own, least):
        company = jnp.take_along_axis(counts, addresses, axis=1) - own
        group = jnp.arange(len(counts)) % devices.largest_divisor(len(counts), GROUPS)
        in_group = jax.nn.one_hot(group, GROUPS, axis=0)

        def by_group(x):
            x = jnp.matmul(in_group, x.astype(jnp.float32), precision="highest")
            return x.astype(jnp.int32)

        return by_group(company >= least), by_group(company)

    arrays = devices.replicate(counts), devices.pad_rows(addresses, axis=1), devices.pad_rows(own)
    found = devices.share(
        run, *arrays, jnp.int32(least), in_specs=(P(), P(None, "data"), P("data"), P()),
        out_specs=P(), join=lambda x: lax.all_gather(x, "data", axis=1, tiled=True),
    )  # fmt: skip
    return Found(*(x[:, :n] for x in found))


@functools.partial(jax.jit, static_argnames="shape")
def sum_levels(counts: jax.Array, places: Places, *, shape: tuple[int, int]) -> jax.Array:
    """Sums the levels of the rows of a set in its own counts, per cell, `[1 + g, 3, *shape]`.

    The second axis holds the number of rows, the sum of their levels (`scores.levels_of`) and the
    sum of the squares, float64. The shape is that of the cells, `hashing.num_cells`.
    """
    company: Any = look_up(counts, places.addresses, 1, own=1).company
    with jax.enable_x64(True):
        levels = levels_of(company, len(counts)).astype(jnp.float64)
        values = jnp.stack([jnp.ones_like(levels), levels, levels**2], axis=1)
        sums = jax.ops.segment_sum(jnp.moveaxis(values, -1, 0), places.cells, math.prod(shape))
        return jnp.moveaxis(sums, 0, -1).reshape(*values.shape[:2], *shape)


@jax.jit
@jax.vmap
def normal_levels(sums: jax.Array) -> jax.Array:
    """Computes mean and standard deviation of the levels per cell, float32 `[1 + g, 2, c]`.

    A cell holds few rows, so that its own mean would be noisy: see `definitions._normal_levels`.
    Takes the sums of `sum_levels`: of all tables first, then without each group.
    """
    with jax.enable_x64(True):
        rows, levels, squares = sums
        mean = levels.sum() / rows.sum()

        def step(_, found):  # each region and bin counts one more row, of the overall mean
            of_region, of_bin = found
            of_region = (levels - rows * of_bin).sum(axis=1) / (rows.sum(axis=1) + 1)
            rest = levels - rows * of_region[:, None]
            return of_region, (rest.sum(axis=0) + mean) / (rows.sum(axis=0) + 1)

        start = jnp.zeros(len(rows), levels.dtype), jnp.full(rows.shape[1], mean)
        of_region, of_bin = lax.fori_loop(0, _STEPS, step, start)
        normal = of_region[:, None] + of_bin
        apart = squares - 2 * normal * levels + rows * normal**2
        variance = apart.sum(axis=1) + apart.sum() / rows.sum()
        variance = jnp.maximum(0, variance / (rows.sum(axis=1) + 1))
        std = jnp.broadcast_to(jnp.sqrt(variance)[:, None], rows.shape)
        return jnp.stack([normal.ravel(), std.ravel()]).astype(jnp.float32)


def build(hasher: Hasher, features: Float[Any, "n d"], *, keep_addresses: bool = True) -> Sketch:
    """Makes the sketch of a set `[n, d]`, or of an iterable of batches, held one at a time.

    `keep_addresses` says whether to keep the places of all rows, which recall and `min_level` need.
    Errors are those of `lsh_precision_recall`.
    """
    inputs.check_type("hasher", hasher, Hasher, hint=", of fit_hash")
    kept: list[Places] = []
    counts: Any = None
    rows = 0
    for batch in batches(features, "features", dim=len(hasher.origin)):
        places = hashing.find_places(hasher, hashing.encode(hasher, batch))
        rows += len(places.cells)
        if keep_addresses:
            kept.append(places)
        else:
            counts = hashing.count(places.addresses, hasher.address_bits, counts)
    return sketch_of(hasher, _join(kept)) if kept else Sketch(hasher, counts, rows)


def merge(first: Sketch, *others: Sketch) -> Sketch:
    """Merges the sketches of several sets: adds their counts and concatenates their places.

    If one part has no places, the result has none. Parts of different hashers are a ValueError,
    which says what differs.
    """
    parts = (first, *others)
    for part in parts:
        inputs.check_type("part", part, Sketch, hint=": merge(a, b), each of build")
        for field, x, y in zip(Hasher._fields, first.hasher, part.hasher, strict=True):
            if not np.array_equal(np.asarray(x), np.asarray(y)):
                how = "differs." if hasattr(x, "shape") else f"differs ({x!r} and {y!r})."
                raise ValueError(f"The sketches come from different hashers: {field} {how}")
    places = [part.places for part in parts if part.places is not None]
    if len(places) == len(parts):
        return sketch_of(first.hasher, _join(places))
    counts = functools.reduce(jnp.add, [part.counts for part in parts])
    return Sketch(first.hasher, counts, sum(part.rows for part in parts))


_ARRAYS, _OPTIONS = Hasher._fields[1:10], LshReference._fields[1:5]


def save(path: str | os.PathLike, fitted: Sketch | LshReference) -> None:
    """Writes a sketch or an LSH reference as one safetensors file.

    Tensors: the fields of the hasher and, for each sketch, `addresses` int32 `[t, n]` and `cells`
    int32 `[n]`, from which `load` computes the rest, or only `counts` int32 `[t, 2^s]`. The
    metadata hold the spec, the source of the features, the options and the layout version as JSON.
    """
    from safetensors.numpy import save as serialize

    inputs.check_type("fitted", fitted, Sketch, LshReference)
    reference = fitted if isinstance(fitted, LshReference) else LshReference(fitted)
    hasher = reference.sketch.hasher
    header = {"version": VERSION, "spec": dataclasses.asdict(hasher.spec)}
    header |= {"source": hasher.source, "address_bits": hasher.address_bits}
    if reference is fitted:
        header |= {name: getattr(reference, name) for name in _OPTIONS}
    tensors = {name: getattr(hasher, name) for name in _ARRAYS}
    for prefix, sketch in (("", reference.sketch), ("second.", reference.second)):
        if sketch is not None:
            header[prefix + "rows"] = sketch.rows
            arrays = sketch.places._asdict() if sketch.places else {"counts": sketch.counts}
            tensors |= {prefix + name: array for name, array in arrays.items()}
    # Contiguous and at least one-dimensional, as the format requires.
    tensors = {name: np.array(x, order="C", ndmin=1) for name, x in tensors.items()}
    content = serialize(tensors, {"lsh_gan": json.dumps(header, sort_keys=True)})
    try:
        Path(path).write_bytes(content)  # a file of `save_file` is readable by its owner only
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror})") from None


def load(path: str | os.PathLike, *, source: str | None = None) -> Sketch | LshReference:
    """Reads a file of `save`; `source` is the required source of features, None accepts any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no sketch, is damaged, or has another version or source.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("lsh_gan", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: no sketch, or a damaged one ({error})") from None
    found = header.get("version", "none")
    if found != VERSION:
        raise ValueError(f"{path}: layout {found}; expected {VERSION}: make it again")
    if source is not None and header["source"] != source:
        raise ValueError(f"{path}: made of {header['source']!r}; expected {source!r}")
    arrays = {name: tensors[name] for name in _ARRAYS} | {"width": tensors["width"][0]}
    spec = HashSpec(**header["spec"])
    hasher = Hasher(spec, **arrays, source=header["source"], address_bits=header["address_bits"])

    def sketch(prefix):
        if prefix + "cells" in tensors:
            places = (jnp.asarray(tensors[prefix + name]) for name in Places._fields)
            return sketch_of(hasher, Places(*places))
        return Sketch(hasher, jnp.asarray(tensors[prefix + "counts"]), header[prefix + "rows"])

    if "votes" not in header:
        return sketch("")
    second = sketch("second.") if "second.rows" in header else None
    options = {name: header[name] for name in _OPTIONS}
    return LshReference(sketch(""), **options, second=second)


def file_hash(path: str | os.PathLike) -> str:
    """Returns the SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
