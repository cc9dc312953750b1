"""Fitted references on disk: one file each, checked by content.

A file is an npz archive without pickles: arrays and a JSON header. The header holds a SHA-256 over
everything else, and `source`, which says what made the features; a reference of another source, or
of another version of this format, is refused, whatever the file is called.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics import distances
from lsh_gan.metrics.distances import Frame
from lsh_gan.metrics.hashing import Hasher, HashSpec
from lsh_gan.metrics.knn import KnnReference
from lsh_gan.metrics.sketch import Sketch

VERSION = 1  # also counts the ways that codes are made: bump it when a hash of equal arrays changes
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError,
    RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_HASHER_ARRAYS = ("digits", "shift", "directions", "members", "thresholds", "radius_edges")


def content_hash(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    """SHA-256 (hex) over names, shapes, dtypes and values of arrays, and over a JSON header."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save(path: str | os.PathLike, fitted: Sketch | KnnReference, *, source: str = "") -> str:
    """Writes a sketch, or a KNN reference with its features and radii.

    Args:
        path: The file.
        fitted: What to write.
        source: Says what made the features of a KNN reference; a sketch has its hasher's.

    Returns:
        The content hash, hex.
    """
    if isinstance(fitted, Sketch):
        arrays, header = _from_sketch(fitted)
    elif isinstance(fitted, KnnReference):
        arrays, header = _from_knn(fitted, source)
    else:
        raise TypeError(f"Cannot save a {type(fitted).__name__}; expected Sketch or KnnReference.")
    header = {**header, "version": VERSION}
    header["sha256"] = content_hash(arrays, header)
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    part = Path(path).with_name(Path(path).name + ".part")
    with part.open("wb") as stream:
        np.savez_compressed(stream, header=text, **arrays)
    part.replace(path)
    return header["sha256"]


def load(path: str | os.PathLike, *, source: str | None = None) -> Sketch | KnnReference:
    """Reads what `save` wrote.

    Args:
        path: The file.
        source: What the features must come from; None accepts any.

    Returns:
        The sketch or reference.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a file, is damaged, has another version, or another source.
    """
    arrays, header = _read(Path(path))
    if header["version"] != VERSION:
        raise ValueError(f"{path}: version {header['version']}; this code reads {VERSION}.")
    if source is not None and header["source"] != source:
        raise ValueError(f"{path}: fitted on features of {header['source']!r}, not of {source!r}.")
    return {"sketch": _to_sketch, "knn": _to_knn}[header["kind"]](arrays, header)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a saved sketch or reference")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        expected = header.pop("sha256")
    except _UNREADABLE as e:
        raise ValueError(f"{path}: not a readable sketch or reference file ({e})") from e
    if content_hash(arrays, header) != expected:
        raise ValueError(f"{path}: the contents do not match their SHA-256; the file is damaged")
    return arrays, header


def _from_sketch(sketch: Sketch) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    hasher, counts = sketch.hasher, np.asarray(sketch.counts)
    occupied = np.flatnonzero(counts)
    arrays = {name: np.asarray(getattr(hasher, name)) for name in _HASHER_ARRAYS}
    arrays |= {"occupied": occupied, "occupied_counts": counts.ravel()[occupied]}
    if sketch.cells is not None:
        cells = np.asarray(sketch.cells)
        arrays["cells"] = cells.astype(np.min_scalar_type(max(0, hasher.cells - 1)))
    header = {
        "kind": "sketch", "source": hasher.source, "rows": sketch.rows,
        "spec": dataclasses.asdict(hasher.spec), "scale": hasher.scale, "width": hasher.width,
        "hasher_rows": hasher.rows,
    }  # fmt: skip
    return arrays, header


def _to_sketch(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Sketch:
    hasher = Hasher(
        spec=HashSpec(**header["spec"]), scale=header["scale"], width=header["width"],
        source=header["source"], rows=header["hasher_rows"],
        **{name: arrays[name] for name in _HASHER_ARRAYS},
    )  # fmt: skip
    counts = np.zeros((hasher.spec.num_tables, hasher.cells), np.int32)
    counts.ravel()[arrays["occupied"]] = arrays["occupied_counts"]
    cells = arrays.get("cells")
    cells = None if cells is None else jnp.asarray(cells.astype(np.int32))
    return Sketch(hasher, jnp.asarray(counts), cells, header["rows"])


def _from_knn(fitted: KnnReference, source: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    features = np.asarray(fitted.features)
    wide = features.dtype in (np.float32, np.float64)
    arrays = {
        "features": features if wide else features.astype(np.float32),
        "shift": fitted.frame.shift,
        "sq_radii": fitted.sq_radii,
    }
    if fitted.sq_density_radii is not None:
        arrays["sq_density_radii"] = fitted.sq_density_radii
    header = {
        "kind": "knn", "source": source, "scale": fitted.frame.scale, "size": fitted.blocks.size,
        "k": fitted.k, "density_k": fitted.density_k, "inclusive": fitted.inclusive,
        "ceiling": fitted.ceiling,
    }  # fmt: skip
    return arrays, header


def _to_knn(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> KnnReference:
    frame = Frame(arrays["shift"], header["scale"])
    blocks = distances.to_blocks(arrays["features"], frame, header["size"], "reference")
    ceiling = header["ceiling"]
    return KnnReference(
        arrays["features"], frame, blocks, arrays["sq_radii"], arrays.get("sq_density_radii"),
        header["k"], header["density_k"], header["inclusive"], ceiling and tuple(ceiling),
    )  # fmt: skip
