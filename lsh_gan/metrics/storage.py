"""Fitted references on disk: one file each, checked by content.

A file is an npz archive without pickles: arrays and a JSON header. The header holds a SHA-256 over
everything else, and `source`, which says what made the features; a reference of another source, or
of another version of this format, is refused, whatever the file is called.
"""

import dataclasses
import hashlib
import json
import lzma
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics import distances
from lsh_gan.metrics.checks import check_flags, check_real, check_whole
from lsh_gan.metrics.directory import Directory, list_keys
from lsh_gan.metrics.distances import Frame
from lsh_gan.metrics.hashing import Hasher, HashSpec, check_table_memory
from lsh_gan.metrics.inputs import Array
from lsh_gan.metrics.knn_reference import KnnReference
from lsh_gan.metrics.lsh import LshReference, check_reference
from lsh_gan.metrics.nearest import Nearest
from lsh_gan.metrics.sketch import Sketch, from_cells
from lsh_gan.metrics.types import Ceiling

VERSION = 6  # also counts the ways that codes are made: bump it when a hash of equal arrays changes
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError,
    RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, IndexError, ArithmeticError,
    MemoryError, SyntaxError, tokenize.TokenError,  # the last three: of damaged headers of arrays
)  # fmt: skip
_HASHER_ARRAYS = (
    "digits",
    "shift",
    "directions",
    "members",
    "thresholds",
    "radius_edges",
    "offsets",
)


def content_hash(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    """SHA-256 (hex) over names, shapes, dtypes and values of arrays, and over a JSON header."""
    digest = hashlib.sha256(_text(header))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _text(header: dict[str, Any]) -> bytes:
    """JSON, where numbers may be NumPy's."""
    return json.dumps(header, sort_keys=True, default=lambda number: number.item()).encode()


def save(
    path: str | os.PathLike,
    fitted: Sketch | LshReference | KnnReference,
    *,
    source: str = "",
    keep_features: bool = True,
) -> str:
    """Writes a sketch, an LSH reference, or a KNN reference with its radii.

    Args:
        path: The file.
        fitted: What to write.
        source: Says what made the features of a KNN reference; the others have their hasher's.
        keep_features: Whether the file of a KNN reference holds the features too, and those of a
            second sample; if not, `load` must be given the same ones, and the second sample is up
            to the caller.

    Returns:
        The content hash, hex.

    Raises:
        TypeError: `fitted` is something else, or `keep_features` neither True nor False.
    """
    check_flags(keep_features=keep_features)
    if isinstance(fitted, LshReference):
        arrays, header = _from_lsh(fitted)
    elif isinstance(fitted, Sketch):
        arrays, header = _from_sketch(fitted)
    elif isinstance(fitted, KnnReference):
        arrays, header = _from_knn(fitted, source, keep_features)
    else:
        raise TypeError(
            f"Cannot save a {type(fitted).__name__}; expected Sketch, LshReference or KnnReference."
        )
    return write(path, arrays, header)


def load(
    path: str | os.PathLike, *, source: str | None = None, features: Array | None = None
) -> Sketch | LshReference | KnnReference:
    """Reads what `save` wrote.

    Args:
        path: The file.
        source: What the features must come from; None accepts any.
        features: Those of a KNN reference that was saved without them.

    Returns:
        The sketch or reference.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a file, is damaged, has another version, another source, parts
            that do not fit together, or was made of other features.
    """
    arrays, header = read(path)
    if source is not None and header.get("source") != source:
        raise ValueError(
            f"{path}: fitted on features of {header.get('source')!r}, not of {source!r}."
        )
    kind, readers = header.get("kind"), {"sketch": _to_sketch, "lsh": _to_lsh, "knn": _to_knn}
    if kind not in tuple(readers):
        raise ValueError(f"{path}: holds {kind}; expected a sketch or reference.")
    if kind == "knn":
        arrays["features"] = _features_of(path, arrays, header, features)
    try:
        fitted = readers[kind](arrays, header)
        _check(fitted)
    except _UNREADABLE as e:
        raise ValueError(f"{path}: holds no whole {kind} ({type(e).__name__}: {e})") from e
    return fitted


def _check(fitted: Sketch | LshReference | KnnReference) -> None:
    """Raises TypeError or ValueError where parts that were read do not fit together."""
    if isinstance(fitted, KnnReference):
        _check_knn(fitted)
    elif isinstance(fitted, Sketch):
        _check_hasher(fitted.hasher)
        _check_counts(fitted)
    else:
        check_reference(fitted)
        for sketch in (fitted.sketch, fitted.second):
            if sketch is not None:
                _check(sketch)


def _check_hasher(hasher: Hasher) -> None:
    check_real(scale=hasher.scale, width=hasher.width)
    (p, d), shape = hasher.directions.shape, (hasher.spec.num_tables, hasher.spec.max_digits)
    _require("shift", hasher.shift.shape == (d,))
    _require("offsets", hasher.offsets.shape in ((0,), (p,)))
    _require("thresholds", hasher.thresholds.shape == shape)
    _require("members", hasher.members.shape == shape and _within(hasher.members, p))
    _require("digits", hasher.digits.shape == shape[:1] and _within(hasher.digits, shape[1] + 1))


def _check_counts(sketch: Sketch) -> None:
    counts, cells = np.asarray(sketch.counts), sketch.cells
    whole = (counts >= 0).all() and (counts.sum(axis=1, dtype=np.int64) == sketch.rows).all()
    _require("counts", whole)
    if cells is not None:
        cells = np.asarray(cells)
        _require("cells", cells.shape == (len(counts), sketch.rows))
        _require("cells", _within(cells, counts.shape[1]))


def _check_knn(fitted: KnnReference) -> None:
    (n, d), near = fitted.features.shape, fitted.nearest
    k, density_k = check_whole(k=fitted.k, density_k=fitted.density_k)
    check_flags(inclusive=fitted.inclusive)
    _require("shift", fitted.frame.shift.shape == (d,))
    second = fitted.second
    _require("second", second is None or (second.ndim == 2 and second.shape[1] == d))
    _require("k", 1 <= k <= n - 2 and density_k >= 1)
    _require("nearest_sq", len(near.sq) == n and near.sq.shape[1] >= k)
    _require("nearest_rows", near.rows.shape == near.sq.shape and _within(near.rows, n))


def _within(numbers: np.ndarray, end: int) -> bool:
    """Whether all lie in [0, end)."""
    return not numbers.size or bool(numbers.min() >= 0 and numbers.max() < end)


def _require(name: str, fits: bool) -> None:
    if not fits:
        raise ValueError(f"{name} does not fit the rest")


def file_hash(path: str | os.PathLike) -> str:
    """The content hash of a saved file, hex, after checking it; raises as `load`."""
    return read(path)[1]["sha256"]


def write(path: str | os.PathLike, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    """Writes arrays and a JSON header to one file, whole or not at all; returns its hash."""
    header = {**header, "version": VERSION}
    header["sha256"] = content_hash(arrays, header)
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {Path(path).parent}")
    text = np.frombuffer(_text(header), np.uint8)
    part = Path(path).with_name(Path(path).name + ".part")
    # Features do not compress; counts and codes do.
    save_archive = np.savez if "features" in arrays else np.savez_compressed
    with part.open("wb") as stream:
        save_archive(stream, header=text, **arrays)
    part.replace(path)
    return header["sha256"]


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `write` wrote; raises as `load`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a saved sketch or reference")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        expected, version = header.pop("sha256"), header["version"]
    except _UNREADABLE as e:
        # NumPy takes whatever it does not know for a pickle, and advises to run it.
        reason = "no file of arrays" if "pickle" in str(e) else e
        raise ValueError(f"{path}: not a readable sketch or reference file ({reason})") from e
    if content_hash(arrays, header) != expected:
        raise ValueError(f"{path}: the contents do not match their SHA-256; the file is damaged.")
    if version != VERSION:
        raise ValueError(f"{path}: version {version}; this code reads {VERSION}.")
    return arrays, {**header, "sha256": expected}


def _from_sketch(sketch: Sketch) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    hasher, counts = sketch.hasher, np.asarray(sketch.counts)
    occupied = np.flatnonzero(counts)
    arrays = {name: np.asarray(getattr(hasher, name)) for name in _HASHER_ARRAYS}
    arrays |= {"occupied": occupied, "occupied_counts": counts.ravel()[occupied]}
    arrays |= _of_rows(sketch, "")
    header = {
        "kind": "sketch", "source": hasher.source, "rows": sketch.rows,
        "spec": dataclasses.asdict(hasher.spec), "scale": hasher.scale, "width": hasher.width,
    }  # fmt: skip
    return arrays, header


def _of_rows(sketch: Sketch, prefix: str) -> dict[str, np.ndarray]:
    """Cells of every row in the smallest type that holds them, and the directory they are in."""
    arrays = {}
    if sketch.cells is not None:
        most = sketch.hasher.cells(sketch.rows) - 1
        arrays[f"{prefix}cells"] = np.asarray(sketch.cells).astype(np.min_scalar_type(most))
    if sketch.directory is not None:
        keys, listed = np.asarray(sketch.directory.keys), sketch.directory.listed
        arrays[f"{prefix}listed"] = listed
        arrays[f"{prefix}keys"] = keys[np.arange(keys.shape[1]) < listed[:, None]]
    return arrays


def _directory(
    arrays: dict[str, np.ndarray], prefix: str, hasher: Hasher, rows: int
) -> Directory | None:
    if not hasher.listed:
        return None
    listed, keys = arrays[f"{prefix}listed"], arrays[f"{prefix}keys"]
    _require("listed", listed.shape == (hasher.spec.num_tables,) and listed.sum() == len(keys))
    directory = list_keys(np.split(keys, np.cumsum(listed)[:-1]), hasher.table_size(rows))
    _require("keys", np.array_equal(directory.listed, listed))
    return directory


def _to_sketch(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Sketch:
    hasher = Hasher(
        spec=HashSpec(**header["spec"]), scale=header["scale"], width=header["width"],
        source=header["source"],
        **{name: arrays[name] for name in _HASHER_ARRAYS},
    )  # fmt: skip
    rows = header["rows"]
    check_table_memory(hasher, rows)
    counts = np.zeros((hasher.spec.num_tables, hasher.cells(rows)), np.int32)
    counts.ravel()[arrays["occupied"]] = arrays["occupied_counts"]
    cells = arrays.get("cells")
    cells = None if cells is None else jnp.asarray(cells.astype(np.int32))
    directory = _directory(arrays, "", hasher, rows)
    return Sketch(hasher, jnp.asarray(counts), cells, rows, directory)


def _from_lsh(fitted: LshReference) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    check_reference(fitted)
    arrays, header = _from_sketch(fitted.sketch)
    if fitted.second is not None:
        arrays |= _of_rows(fitted.second, "second_")
    header |= {
        "kind": "lsh", "min_count": fitted.min_count, "votes": fitted.votes,
        "ceiling": fitted.ceiling,
    }  # fmt: skip
    return arrays, header


def _to_lsh(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> LshReference:
    first, second = _to_sketch(arrays, header), None
    if "second_cells" in arrays:
        cells = arrays["second_cells"].astype(np.int32)
        directory = _directory(arrays, "second_", first.hasher, cells.shape[1])
        second = from_cells(first.hasher, jnp.asarray(cells), directory)
    return LshReference(first, header["min_count"], header["votes"], header["ceiling"], second)


def _from_knn(
    fitted: KnnReference, source: str, keep_features: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    features = _plain(fitted.features)
    arrays = {"shift": fitted.frame.shift}
    arrays |= {"nearest_sq": fitted.nearest.sq, "nearest_rows": fitted.nearest.rows}
    if keep_features:
        arrays["features"] = features
        if fitted.second is not None:
            arrays["second"] = _plain(fitted.second)
    header = {
        "kind": "knn", "source": source, "scale": fitted.frame.scale, "size": fitted.blocks.size,
        "k": fitted.k, "density_k": fitted.density_k, "inclusive": fitted.inclusive,
        "ceiling": fitted.ceiling, "features": content_hash({"features": features}, {}),
    }  # fmt: skip
    return arrays, header


def _plain(features: Array) -> np.ndarray:
    """Features as a file can hold them: float16 and bfloat16 become float32, exactly."""
    features = np.asarray(features)
    return features if features.dtype in (np.float32, np.float64) else features.astype(np.float32)


def _features_of(
    path: str | os.PathLike,
    arrays: dict[str, np.ndarray],
    header: dict[str, Any],
    features: Array | None,
) -> Array:
    """The features of a KNN reference: the file's, or those given, if they are its own."""
    features = arrays.get("features", features)
    if features is None:
        raise ValueError(f"{path}: holds radii only; give the features that they were made of.")
    if content_hash({"features": _plain(features)}, {}) != header.get("features"):
        raise ValueError(f"{path}: the radii were made of other features (SHA-256 differs).")
    return features


def _to_knn(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> KnnReference:
    features = arrays["features"]
    frame = Frame(arrays["shift"], header["scale"])
    blocks = distances.to_blocks(features, frame, header["size"], "reference")
    ceiling = header["ceiling"]
    return KnnReference(
        features, frame, blocks, Nearest(arrays["nearest_sq"], arrays["nearest_rows"]),
        header["k"], header["density_k"], header["inclusive"], ceiling and Ceiling(*ceiling),
        arrays.get("second"),
    )  # fmt: skip
