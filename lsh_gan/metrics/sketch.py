"""A set as counts in the tables of a hash: fitted, built in a stream, merged, saved.

The counts of addresses are all that LSH keeps of a set, of a size that does not depend on it. They
add up across batches, devices and files. Recall also needs the addresses of the reference's rows.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from lsh_gan import devices
from lsh_gan.metrics import hashing, inputs
from lsh_gan.metrics.hashing import SAMPLE_ROWS, Codes, Hasher
from lsh_gan.metrics.inputs import HashSpec, as_features, batches

VERSION = 8  # of the file; bump it when the codes of equal features change
MEMORY_BYTES = 2**33  # of the counts of one set


class Sketch(NamedTuple):
    """Counts of a set of samples in the tables of a hash.

    A sketch without addresses holds counts alone, and gives precision only.
    """

    hasher: Hasher
    counts: Int32[jax.Array, "t 2**s"]  # rows at each address of each table
    addresses: Int32[jax.Array, "t n"] | None  # of each row in each table
    rows: int  # n


class Share(NamedTuple):
    """The rows of a set that fall to this process, which gives the others their codes alone.

    The shares of all processes follow one another. Every process scores its share of each set, and
    all get the same result.

    >>> real, fake = np.random.default_rng(0).normal(size=(2, 400, 4)).astype(np.float32)
    >>> sample = jnp.asarray(real)[np.r_[0, :400]]  # of all rows, on every process
    >>> from lsh_gan.metrics import lsh_fit, lsh_score
    >>> fitted = lsh_fit(jax.random.key(0), Share([real], 400, 400), sample=sample)
    >>> lsh_score(fitted, Share(np.split(fake, 4), 400, 400)).m
    400
    """

    batches: Iterable[Any]  # features [*, d], already checked; none where others have all rows
    each: int  # rows of every process, but for the last ones, which may have fewer
    rows: int  # of all


class LshReference(NamedTuple):
    """What the score of a generated set needs of the reference.

    The options are those of `lsh_precision_recall`; `second` is the sketch of a second reference
    sample, or None.
    """

    sketch: Sketch
    min_count: int = 1
    votes: float | None = 0.5
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
    """Fits a hash on a sample of the reference; its `num_bits` says what 'auto' found.

    Args:
        key: `jax.random.key`; draws the directions and thresholds.
        sample: Features `[n, d]`, or an iterable of batches.
        spec: What to fit; `HashSpec()` if None.
        rows: Size of the whole reference if it is larger than the sample; with `num_bits='auto'`
            each doubling adds one bit.
        min_count: As `lsh_precision_recall`, for `num_bits='auto'`.
        votes: Likewise.
        source: Where the features come from: network, preprocessing, version. Sketches of
            different sources do not mix.
        table_bytes: What the counts of a set may take, whatever its size: smaller tables, and a
            higher `load`. None takes 16 addresses a row.

    Raises:
        TypeError, ValueError: As `lsh_precision_recall`.
    """
    options: dict[str, Any] = {"min_count": min_count, "votes": votes}
    inputs.check_options(**options)
    options |= {"least": min_count + 2, "rows": rows or 1}
    hasher, codes = fit_and_encode(key, sample, spec or HashSpec(), source, **options)
    rows = max(rows or 0, codes.digits.shape[1])
    if table_bytes is None:
        return size_tables(hasher, rows)
    most = int(np.log2(table_bytes / (4 * hasher.spec.num_tables)))
    return hasher._replace(address_bits=min(hashing.address_bits(rows), most))


def fit_and_encode(
    key: jax.Array,
    features: Any,
    spec: HashSpec,
    source: str,
    sample: Any = None,
    *,
    least: int = 2,
    **options: Any,
) -> tuple[Hasher, Codes]:
    """Fits a hash on a set of at least `least` rows, and encodes it; options as `fit_num_bits`.

    It is fitted on the `sample`, whose row 0 is the origin alone, or on the first rows.
    """
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
        origin, features = first[0][0], itertools.chain(first, stream)
    else:
        origin, rows = sample[0], sample[1:]
    hasher = hashing.fit(key, rows, spec, source=source, origin=origin)
    codes = encode_all(hasher, features, "reference")
    if spec.num_bits == "auto":
        hasher = hashing.fit_num_bits(hasher, codes, **options)
    return hasher, codes


def encode_all(hasher: Hasher, features: Any, source: str) -> Codes:
    """Codes of a set, batch by batch; what is codes already stays so."""
    if isinstance(features, Codes):
        return features
    if isinstance(features, Share):
        none = jnp.zeros(0, jnp.int32)
        parts = [Codes(jnp.zeros((hasher.spec.num_tables, 0), jnp.uint32), none, none)]
        parts += [hashing.encode(hasher, batch, local=True) for batch in features.batches]
        joined = [jnp.concatenate(x, axis=-1).T for x in zip(*parts, strict=True)]
        return Codes(*(devices.gather_rows(x, features.each)[: features.rows].T for x in joined))
    stream = batches(features, source, dim=len(hasher.origin))
    parts = [hashing.encode(hasher, batch) for batch in stream]
    if len(parts) == 1:
        return parts[0]
    return Codes(*(jnp.concatenate(x, axis=-1) for x in zip(*parts, strict=True)))


def size_tables(hasher: Hasher, rows: int) -> Hasher:
    """Sets the bits of an address; ValueError if the counts would not fit in memory."""
    bits, tables = hashing.address_bits(rows), hasher.spec.num_tables
    size = 4 * tables * 2**bits
    if size > MEMORY_BYTES:
        raise ValueError(
            f"num_tables = {tables}: tables of 2^{bits} addresses for {rows} rows take {size} "
            f"bytes, more than {MEMORY_BYTES}; use fewer tables."
        )
    return hasher._replace(address_bits=bits)


def addresses_of(hasher: Hasher, codes: Codes) -> jax.Array:
    """Address of each row in each table, int32 `[t, n]`."""
    return hashing.addresses(hashing.buckets(hasher, codes), hasher.address_bits)


def sketch_of(hasher: Hasher, addresses: jax.Array) -> Sketch:
    """The sketch of rows whose addresses `[t, n]` are known."""
    counts = hashing.count(addresses, hasher.address_bits)
    return Sketch(hasher, counts, addresses, addresses.shape[1])


def build(hasher: Hasher, features: Float[Any, "n d"], *, keep_addresses: bool = True) -> Sketch:
    """Counts a set `[n, d]`, or an iterable of batches, of which one at a time is held.

    `keep_addresses` says whether to keep every row's addresses, which recall needs.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, or a d other than the hasher's.
    """
    counts = jnp.zeros((hasher.spec.num_tables, 2**hasher.address_bits), jnp.int32)
    counts, kept, rows = devices.replicate(counts), [], 0
    for batch in batches(features, "features", dim=len(hasher.origin)):
        found = addresses_of(hasher, hashing.encode(hasher, batch))
        counts, rows = hashing.count(found, hasher.address_bits, counts), rows + found.shape[1]
        kept += [found] if keep_addresses else []
    return Sketch(hasher, counts, jnp.concatenate(kept, axis=1) if kept else None, rows)


def merge(first: Sketch, *others: Sketch) -> Sketch:
    """The sketch of several sets together: counts add, addresses follow one another.

    Of parts of which one has no addresses, the whole has none.

    Raises:
        ValueError: They were not made by the same hasher; says what differs.
    """
    parts = (first, *others)
    for part in others:
        for field, x, y in zip(Hasher._fields, first.hasher, part.hasher, strict=True):
            if not np.array_equal(np.asarray(x), np.asarray(y)):
                how = "differs." if hasattr(x, "shape") else f"differs ({x!r} and {y!r})."
                raise ValueError(f"The sketches come from different hashers: {field} {how}")
    addresses = [part.addresses for part in parts if part.addresses is not None]
    return Sketch(
        first.hasher,
        functools.reduce(jnp.add, [part.counts for part in parts]),
        jnp.concatenate(addresses, axis=1) if len(addresses) == len(parts) else None,
        sum(part.rows for part in parts),
    )


_ARRAYS, _OPTIONS = Hasher._fields[1:10], LshReference._fields[1:4]


def save(path: str | os.PathLike, fitted: Sketch | LshReference) -> None:
    """Writes a sketch or an LSH reference as one safetensors file.

    Tensors: the fields of the hasher and, for each sketch, `addresses` int32 `[t, n]`, from which
    the counts follow, or `counts` int32 `[t, 2^s]` where there are none. The metadata hold the
    spec, the source of the features, the options, and the version of this layout, as JSON.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

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
            name = "counts" if sketch.addresses is None else "addresses"
            tensors[prefix + name] = getattr(sketch, name)
    # Contiguous and at least one-dimensional, as the format wants them.
    tensors = {name: np.array(x, order="C", ndmin=1) for name, x in tensors.items()}
    try:
        save_file(tensors, path, metadata={"lsh_gan": json.dumps(header, sort_keys=True)})
    except SafetensorError as error:  # of a full disk or a folder that is not there
        raise OSError(f"{path}: cannot be written ({error})") from None


def load(path: str | os.PathLike, *, source: str | None = None) -> Sketch | LshReference:
    """Reads what `save` wrote; `source` is what the features must come from, None accepts any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no sketch, is damaged, is of another version, or of another source.
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
        if prefix + "addresses" in tensors:
            return sketch_of(hasher, jnp.asarray(tensors[prefix + "addresses"]))
        counts = jnp.asarray(tensors[prefix + "counts"])
        return Sketch(hasher, counts, None, header[prefix + "rows"])

    if "votes" not in header:
        return sketch("")
    second = sketch("second.") if "second.rows" in header else None
    options = {name: header[name] for name in _OPTIONS}
    return LshReference(sketch(""), **options, second=second)


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
