"""Measures the seconds to compress 30 million parameters, shaped like a StyleGAN2 generator.

    python -m benchmarks.compression_speed [--channels=512] [--bits=4]

For each clipping method, per channel: the first call (with compilation), a second call at another
width (without compilation), packing to a file, and loading.
"""

import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import machine, options
from lsh_gan.compression import (
    METHODS,
    CompressionSpec,
    compress,
    load_packed,
    pack,
    save_packed,
    unpack,
)


def stylegan2_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    """Lists kernel shapes of a 512×512 generator: mapping; per side, two convolutions and RGB."""
    widths = [channels] * 5 + [channels // 2, channels // 4, channels // 8]
    shapes = {f"mapping/fc{i}": (channels, channels) for i in range(8)}
    previous = channels
    for level, width in enumerate(widths):
        block = f"b{4 * 2**level}"
        for i, inputs in enumerate((previous, width) if level else (width,)):
            shapes[f"{block}/conv{i}"] = (3, 3, inputs, width)
            shapes[f"{block}/conv{i}/affine"] = (channels, inputs)
        shapes[f"{block}/torgb"] = (1, 1, width, 3)
        shapes[f"{block}/torgb/affine"] = (channels, width)
        previous = width
    return shapes


def make_tree(channels: int) -> dict[str, dict[str, np.ndarray]]:
    """Draws random kernels with slightly heavy tails."""
    rng = np.random.default_rng(0)
    return {
        path.replace("/", "_"): {"kernel": rng.standard_t(8, shape).astype(np.float32)}
        for path, shape in stylegan2_shapes(channels).items()
    }


def seconds(function, *args, **kwargs) -> float:
    """Measures the wall time of one call, with its work on the device."""
    start = time.perf_counter()
    jax.block_until_ready(function(*args, **kwargs))
    return time.perf_counter() - start


def compress_tree(params, **fields):
    """Returns the compressed tree, without the report."""
    return compress(params, CompressionSpec(**fields))[0]


def measure(params, clipping: str, bits: int) -> list[float]:
    """Measures the seconds of the first call, a call at another width, packing and loading."""
    first = seconds(compress_tree, params, bits=bits, clipping=clipping)
    other = seconds(compress_tree, params, bits=bits + 1, clipping=clipping)
    spec = CompressionSpec(bits=bits, clipping=clipping)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.packed"
        packing = seconds(lambda: save_packed(path, pack(params, spec)))
        loading = seconds(lambda: unpack(load_packed(path)))
    return [first, other, packing, loading]


def main():
    """Prints the table."""
    args = options.parse(__doc__, channels=512, bits=4, clipping=",".join(METHODS))
    methods = options.names("--clipping", args.clipping, METHODS)
    params = make_tree(args.channels)
    size = sum(x.size for x in jax.tree.leaves(params))
    print(f"{machine.describe('numpy')}; load {os.getloadavg()[0]:.1f}")
    print(f"{size:,} parameters, {args.bits} bits, per channel, symmetric; seconds\n")
    print(f"{'clipping':<14}{'first call':>12}{'next width':>12}{'pack, save':>12}{'load':>12}")
    for clipping in methods:
        taken = measure(params, clipping, args.bits)
        print(f"{clipping:<14}" + "".join(f"{s:>12.2f}" for s in taken), flush=True)


if __name__ == "__main__":
    main()
