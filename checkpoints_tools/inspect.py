"""Says what is inside a tensor file, and runs nothing in it.

python -m checkpoints_tools.inspect FILE
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from checkpoints_tools.converters import SOURCES
from checkpoints_tools.converters.files import find, tensor_file
from lsh_gan import tensor_files


def describe(path: str | Path) -> list[str]:
    """Returns the lines to print: source, tensors with shapes and types, and totals.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A damaged or malicious file, or a format that is not read.
    """
    file = tensor_file(path)
    state = tensor_files.state_dict(tensor_files.read(file))
    lines = [f"{file}: {file.stat().st_size:,} bytes"]
    try:
        found = find(path, SOURCES)
        where = f" under {found.prefix!r}" if found.prefix else ""
        lines.append(f"source: {found.source.name} ({found.source.title}){where}")
        lines += [f"  {name} = {value!r}" for name, value in found.settings.items()]
    except ValueError as error:
        lines.append(f"source: unknown; {error}")
    width = max(map(len, state), default=0)
    for name, array in state.items():
        lines.append(f"{name:{width}}  {array.dtype.name:8}  {list(array.shape)}")
    types = Counter(array.dtype.name for array in state.values())
    values = sum(array.size for array in state.values())
    size = sum(array.nbytes for array in state.values())
    counts = ", ".join(f"{count} {dtype}" for dtype, count in types.most_common())
    lines.append(f"{len(state)} tensors ({counts}): {values:,} values, {size:,} bytes")
    return lines


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", help="The file, or a folder with one.")
    try:
        print("\n".join(describe(parser.parse_args().file)))
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
