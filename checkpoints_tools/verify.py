"""Checks a converted generator: its hash, its values, its images.

    python -m checkpoints_tools.verify checkpoints/ffhq [--golden=images.npz]

The golden file holds inputs and outputs of the original network: `z` [n, latent_size], `images`
[n, h, w, c] (or [n, c, h, w]), and optionally `labels`, `truncation_psi` and `tolerance` (largest
allowed difference, as a share of the largest value; 1e-5 by default).
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from lsh_gan import generators
from lsh_gan.tensor_files import read

_TOLERANCE = 1e-5


def verify(path: str | Path, golden: str | Path | None = None) -> str:
    """Loads a checkpoint, generates images, and compares them with the golden file.

    Returns:
        One line: what was checked, and the difference that was found.

    Raises:
        FileNotFoundError: No such checkpoint or golden.
        ValueError: The checkpoint is damaged or its hash differs from the recorded one; an image
            holds NaN or Inf; or images differ by more than the tolerance.
    """
    generator = generators.load(path)
    if golden is None:
        z, labels = generator.draw(jax.random.key(0), jnp.arange(2))
        arrays = {"z": z, "labels": labels}
    else:
        _check(arrays := read(golden), golden)
    labels = arrays.get("labels")
    labels = None if labels is None else jnp.asarray(labels)
    psi = float(arrays.get("truncation_psi", 1.0))
    z = jnp.asarray(arrays["z"], jnp.float32)
    generator.check_labels(labels, len(z))  # in a program their values are not known
    generate = jax.jit(partial(generator, truncation_psi=psi))

    def image(i: int) -> jax.Array:  # one at a time, since layers may be large
        given = {} if labels is None else {"labels": labels[i : i + 1]}
        return generate(generator.params, z[i : i + 1], **given)

    images = np.concatenate([image(i) for i in range(len(z))])
    if not np.isfinite(images).all():
        raise ValueError(f"{path}: an image holds NaN or Inf")
    done = f"{path}: {generator.family}, sha256 as recorded, images {images.shape} finite"
    return done if golden is None else f"{done}; {_compare(images, arrays, golden)}"


def _check(arrays: Any, golden: str | Path) -> None:
    if not isinstance(arrays, dict):
        raise ValueError(f"{golden}: holds a {type(arrays).__name__}; expected an npz of arrays")
    for name in ("z", "images"):
        if name not in arrays:
            raise ValueError(f"{golden}: lacks the array {name!r}; it has {', '.join(arrays)}")


def _compare(images: np.ndarray, arrays: dict[str, np.ndarray], golden: str | Path) -> str:
    expected = arrays["images"]
    if expected.shape != images.shape and expected.ndim == 4:
        expected = expected.transpose(0, 2, 3, 1)
    if expected.shape != images.shape:
        shape = arrays["images"].shape
        raise ValueError(f"{golden}: images of shape {shape}; the generator gives {images.shape}")
    tolerance = float(arrays.get("tolerance", _TOLERANCE))
    difference = float(np.abs(images - expected).max() / np.abs(expected).max())
    if not difference <= tolerance:
        raise ValueError(
            f"{golden}: images differ by {difference:.2e} of the largest value; "
            f"allowed is {tolerance:.0e}"
        )
    return (
        f"differ from {golden} by {difference:.2e} of the largest value (at most {tolerance:.0e})"
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add, home = parser.add_argument, os.path.expanduser  # shells leave --golden=~/x as it is
    add("checkpoint", help="The checkpoint folder, or a packed file.")
    add("--golden", type=home, help="npz with inputs and images of the original network.")
    arguments = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    try:
        print(verify(arguments.checkpoint, arguments.golden))
    except (OSError, TypeError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
