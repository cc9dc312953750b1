"""Converts other people's checkpoints of generators.

    python -m checkpoints_tools.convert --source=auto --input=ffhq.pkl --output=checkpoints/ffhq

No code in the input is run. `generator.json` of the output records the source, the version of its
map of names, and the sha256 of the input.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from absl import logging

from checkpoints_tools.converters import SOURCES, convert_state
from checkpoints_tools.converters.files import find, tensor_file
from lsh_gan import generators
from lsh_gan.generators import checkpoints


def convert(
    path: str | Path,
    output: str | Path,
    *,
    source: str = "auto",
    settings: dict[str, Any] | None = None,
    part: str | None = None,
) -> dict[str, Any]:
    """Converts the generator in a file and writes it as a checkpoint.

    Args:
        path: The file, or a folder with one.
        output: The checkpoint folder; replaced if it exists.
        source: Key of `SOURCES`, or "auto".
        settings: Settings that the file does not record; they override recorded ones.
        part: Where in the file the generator is; None searches for it.

    Returns:
        The metadata that was written.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, holds no such generator, or its tensors do not fit (all
            missing and unexpected ones are listed, with the nearest names); or `output` is a file.
    """
    if Path(output).exists() and not Path(output).is_dir():
        raise ValueError(f"--output={output}: is a file; expected a folder")
    found = find(path, SOURCES, source, part)
    file = tensor_file(path)
    try:
        given = {**found.settings, **(settings or {})}
        converted = convert_state(found.state, found.source, given)
    except ValueError as error:
        raise ValueError(f"{file}: source {found.source.name!r}: {error}") from error
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    metadata = {
        "name": Path(output).absolute().name,
        "family": converted.family,
        "options": converted.options,
        "source": found.source.name,
        "source_title": found.source.title,
        "key_map_version": found.source.version,
        "input_file": file.name,
        "input_sha256": sha256,
        "input_prefix": found.prefix,
        "buffers_of": found.state.buffers_of,
        "other_prefixes": list(found.others),
        "left_out": [*found.left_out, *converted.left_out],
        "recorded": found.settings,
        "set": settings or {},
        "assumed": converted.assumed,
    }
    _warn_of_another(output, metadata)
    checkpoints.save(output, metadata, converted.variables)
    return metadata


def _warn_of_another(output: str | Path, metadata: dict[str, Any]) -> None:
    """Warns if the output replaces a checkpoint that was made from another file."""
    try:
        former = checkpoints.read_metadata(output)
    except (OSError, ValueError):
        return
    if former.get("input_sha256") != metadata["input_sha256"]:
        logging.warning(
            "%s held %s, made of %s; replaced",
            output, former.get("family", "another generator"), former.get("input_file", "?"),
        )  # fmt: skip


def parse_setting(setting: str) -> tuple[str, Any]:
    """Splits NAME=VALUE, where the value is JSON; raises ValueError for any other form."""
    name, equals, value = setting.partition("=")
    try:
        if not equals:
            raise ValueError("no '='")
        return name, json.loads(value)
    except ValueError as error:
        raise ValueError(
            f"--set={setting}: expected NAME=VALUE in JSON, texts in double quotes: "
            f"--set='output=\"tanh\"' ({error})"
        ) from error


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add, home = parser.add_argument, os.path.expanduser  # shells leave --input=~/x as it is
    add("--input", type=home, required=True, help="The file, or a folder with one.")
    add("--output", type=home, required=True, help="Folder for the converted generator.")
    add("--source", default="auto", help=f"Kind of checkpoint: auto, or {', '.join(SOURCES)}.")
    add("--part", help="Where in the file the generator is (G_ema), whatever lies beside it.")
    add(
        "--set", default=[], action="append", metavar="NAME=VALUE",
        help="A setting that the file does not record, in JSON: conv_clamp=256.",
    )  # fmt: skip
    given = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    try:
        settings = dict(map(parse_setting, given.set))
        metadata = convert(
            given.input, given.output, source=given.source, settings=settings, part=given.part
        )
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    if metadata["other_prefixes"]:
        others = ", ".join(map(repr, metadata["other_prefixes"]))
        print(f"taken: {metadata['input_prefix']!r}; the file has other generators: {others}")
    if metadata["buffers_of"] is not None:
        print(f"averages of parameters alone; statistics and buffers: {metadata['buffers_of']!r}")
    if metadata["left_out"]:
        print(f"left out: {', '.join(metadata['left_out'])}")
    for name, value in metadata["assumed"].items():
        text = json.dumps(value)
        if (name, value) == ("slope", 1.0):
            text += ", no activation where none is among the modules; 0 is ReLU"
        print(f"not in the file, taken as usual: {name} = {text} (--set={name}=...)")
    made = generators.abstract(*(metadata[name] for name in ("name", "family", "options")))
    size = "×".join(map(str, made.image_shape))
    size += f" of {made.num_classes} classes" if made.num_classes else ""
    print(f"{given.output}: {made.family} from {metadata['source']} checkpoint, images {size}")


if __name__ == "__main__":
    main()
