"""Generator checkpoints: a folder with `generator.json` (metadata) and `params/` (Orbax)."""

import json
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from lsh_gan.compression.rules import compare_shapes
from lsh_gan.datasets.named import PACKAGED
from lsh_gan.errors import parse_object
from lsh_gan.identity import content_hash

METADATA_FILE = "generator.json"
PARAMS_FOLDER = "params"


def quiet_libraries() -> None:
    """Removes routine messages of JAX and Orbax from the log, but keeps their warnings."""
    logging.get_absl_logger().addFilter(
        lambda record: record.levelno >= WARNING or "orbax" not in record.pathname
    )
    for library in ("jax", "fontTools"):
        getLogger(library).setLevel(WARNING)


def shipped_names() -> list[str]:
    """Lists the names of the generators that are shipped with the package."""
    return sorted(folder.parent.name for folder in PACKAGED.glob(f"*/{METADATA_FILE}"))


def locate(name: str | Path) -> Path:
    """Finds a checkpoint by its path, or by its name if it is shipped with the package.

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


def save(path: str | Path, metadata: dict[str, Any], params: Any) -> None:
    """Writes a generator checkpoint folder; replaces an existing one.

    `metadata` is a JSON object with `family` and `options` (see `generators.build`) and anything
    that documents the origin; the `sha256` of `params` is added. `params` are Flax variables.
    """
    folder = Path(path).absolute()
    # First, so that metadata which is not JSON replaces nothing.
    text = json.dumps({**metadata, "sha256": content_hash(params)}, indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / PARAMS_FOLDER, params, force=True)
    (folder / METADATA_FILE).write_text(text)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Reads `generator.json` of the checkpoint folder `path`.

    Raises:
        FileNotFoundError: The folder has no such file.
        ValueError: The file is not JSON, or does not describe a generator.
    """
    file = Path(path) / METADATA_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; {path} is not a generator checkpoint")
    metadata = parse_object(file, file.read_bytes(), "an object")
    if not isinstance(metadata.get("options"), dict) or not {"family", "sha256"} <= metadata.keys():
        raise ValueError(f"{file}: expected an object with family, options (an object) and sha256")
    return metadata


def restore(path: str | Path, abstract: Any) -> Any:
    """Reads the parameters of a checkpoint folder onto the default device.

    `abstract` is the expected tree; its leaves are `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: Files are missing or damaged; or a tensor is missing, unexpected or of another
            shape (the first such tensor by path, with both shapes).
    """
    folder = (Path(path) / PARAMS_FOLDER).absolute()
    # Restores to the host first, so that the devices that wrote the checkpoint do not matter.
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
