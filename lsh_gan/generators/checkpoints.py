"""Generator checkpoints on disk: `generator.json` (what it is) beside `params/` (Orbax)."""

import hashlib
import json
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from lsh_gan.compression.rules import compare_shapes, join, path_of
from lsh_gan.datasets.named import PACKAGED
from lsh_gan.errors import parse_object

METADATA_FILE = "generator.json"
PARAMS_FOLDER = "params"


def quiet_libraries() -> None:
    """Keeps routine messages of JAX and Orbax out of the log; their warnings stay."""
    logging.get_absl_logger().addFilter(
        lambda record: record.levelno >= WARNING or "orbax" not in record.pathname
    )
    for library in ("jax", "fontTools"):
        getLogger(library).setLevel(WARNING)


def shipped_names() -> list[str]:
    """Names of the generators that are shipped with the package."""
    return sorted(folder.parent.name for folder in PACKAGED.glob(f"*/{METADATA_FILE}"))


def locate(name: str | Path) -> Path:
    """Finds a checkpoint: a path, or the name of one that is shipped with the package.

    Raises:
        FileNotFoundError: Neither exists; the message lists the shipped names.
    """
    path = Path(name)
    if path.exists():
        return path
    shipped = shipped_names()
    if str(name) in shipped:
        return PACKAGED / name
    raise FileNotFoundError(
        f"generator {str(name)!r}: no such checkpoint; expected a folder with {METADATA_FILE}, a "
        f"packed file, MODULE:FUNCTION, or one of the shipped generators: {', '.join(shipped)}"
    )


def content_hash(params: Any) -> str:
    """Sha256 (hex) over the paths, shapes, dtypes and values of a tree of arrays."""
    digest = hashlib.sha256()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{join(path_of(keys))}:{array.shape}:{array.dtype};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save(path: str | Path, metadata: dict[str, Any], params: Any) -> None:
    """Writes a generator checkpoint, a folder; an existing one is replaced.

    `metadata` is a JSON object with `family` and `options` (see `generators.build`) and whatever
    documents the origin; `sha256` of the parameters is added. These are Flax variables.
    """
    folder = Path(path).absolute()
    # Before anything is replaced.
    text = json.dumps({**metadata, "sha256": content_hash(params)}, indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / PARAMS_FOLDER, params, force=True)
    (folder / METADATA_FILE).write_text(text)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Reads `generator.json` of the checkpoint folder `path`.

    Raises:
        FileNotFoundError: The folder has none.
        ValueError: It is not JSON, or describes no generator.
    """
    file = Path(path) / METADATA_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {path} is not a generator checkpoint")
    metadata = parse_object(file, file.read_bytes(), "an object")
    if not isinstance(metadata.get("options"), dict) or not {"family", "sha256"} <= metadata.keys():
        raise ValueError(f"{file}: expected an object with family, options (an object) and sha256")
    return metadata


def restore(path: str | Path, abstract: Any) -> Any:
    """Reads the parameters of a checkpoint folder, onto the default device.

    `abstract` is the expected tree, of `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: Files are missing or damaged; a tensor is missing, unexpected or of another
            shape (the first one by path, with both shapes); or a value is NaN or Inf.
    """
    folder = (Path(path) / PARAMS_FOLDER).absolute()
    # To the host first, whatever devices wrote the checkpoint.
    here = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            stored = checkpointer.metadata(folder).item_metadata.tree
        except Exception as error:  # Orbax raises many types for damaged folders
            raise ValueError(
                f"{folder}: not a readable Orbax checkpoint ({_line(error)})"
            ) from error
        compare_shapes(stored, abstract, source=str(path))
        try:
            return jax.device_put(checkpointer.restore(folder, here))
        except Exception as error:
            raise ValueError(f"{folder}: damaged checkpoint ({_line(error)})") from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
