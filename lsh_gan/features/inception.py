"""Inception-v3 as the Fréchet Inception Distance uses it: 2048 pooled features per image.

This is the network of Szegedy et al. 2015 (arXiv:1512.00567) as published for TensorFlow in 2015,
which Heusel et al. 2017 (arXiv:1706.08500) used for FID. It differs from torchvision's: average
pools exclude the padding from the mean, and the last block has a max pool. Convolutions are named
as in the PyTorch weight files.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from lsh_gan.features.layers import Conv, fold_batch_norm

DIM = 2048


def _conv(x, name: str, features: int, size=(1, 1), *, strides: int = 1, padding="SAME"):
    return nn.relu(Conv(features, size, strides, padding, name=name)(x))


def _reduce(x, name: str, features: int):
    """Halves the image by a 3×3 convolution without padding."""
    return _conv(x, name, features, (3, 3), strides=2, padding=0)


def _chain(x, name: str, *layers):
    """Applies convolutions of given (features, window size), whose names are numbered from 1."""
    for i, (features, size) in enumerate(layers, 1):
        x = _conv(x, f"{name}_{i}", features, size)
    return x


def _halving_pool(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _average_pool(x):
    return nn.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


class InceptionV3(nn.Module):
    """The network up to global average pooling."""

    @nn.compact
    def __call__(self, x):
        """Maps preprocessed images `[n, 299, 299, 3]` to `[n, 2048]`."""
        x = _reduce(x, "Conv2d_1a_3x3", 32)
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), padding=0)
        x = _halving_pool(_conv(x, "Conv2d_2b_3x3", 64, (3, 3)))
        x = _conv(x, "Conv2d_3b_1x1", 80)
        x = _halving_pool(_conv(x, "Conv2d_4a_3x3", 192, (3, 3), padding=0))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = Mixed(partial(_mixed_5, pooled=pooled), name=name)(x)
        x = Mixed(_mixed_6a, name="Mixed_6a")(x)
        for name, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = Mixed(partial(_mixed_6, width=width), name=f"Mixed_6{name}")(x)
        x = Mixed(_mixed_7a, name="Mixed_7a")(x)
        x = Mixed(partial(_mixed_7, pool=_average_pool), name="Mixed_7b")(x)
        max_pool = partial(nn.max_pool, window_shape=(3, 3), padding="SAME")
        x = Mixed(partial(_mixed_7, pool=max_pool), name="Mixed_7c")(x)
        return jnp.mean(x, axis=(1, 2))


class Mixed(nn.Module):
    """A block of parallel branches, whose features are concatenated."""

    branches: Callable  # maps the input to the outputs of the branches, in order

    @nn.compact
    def __call__(self, x):
        """Maps `[n, h, w, c]` to `[n, h', w', sum of the branches' features]`."""
        return jnp.concatenate(self.branches(x), axis=-1)


def _mixed_5(x, pooled: int):
    """Branches 1×1, 5×5, two 3×3, and pool: `[n, 35, 35, 224 + pooled]`."""
    return [
        _conv(x, "branch1x1", 64),
        _chain(x, "branch5x5", (48, (1, 1)), (64, (5, 5))),
        _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
        _conv(_average_pool(x), "branch_pool", pooled),
    ]


def _mixed_6a(x):
    """Halves the image: `[n, 17, 17, 768]`."""
    twice = _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)))
    return [_reduce(x, "branch3x3", 384), _reduce(twice, "branch3x3dbl_3", 96), _halving_pool(x)]


def _mixed_6(x, width: int):
    """Branches 1×1, 7×7, two 7×7 (as 1×7 and 7×1, `width` inside), pool: `[n, 17, 17, 768]`."""
    start, row, column = ((width, size) for size in ((1, 1), (1, 7), (7, 1)))
    return [
        _conv(x, "branch1x1", 192),
        _chain(x, "branch7x7", start, row, (192, (7, 1))),
        _chain(x, "branch7x7dbl", start, column, row, column, (192, (1, 7))),
        _conv(_average_pool(x), "branch_pool", 192),
    ]


def _mixed_7a(x):
    """Halves the image: `[n, 8, 8, 1280]`."""
    three = _conv(x, "branch3x3_1", 192)
    seven = _chain(x, "branch7x7x3", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)))
    return [
        _reduce(three, "branch3x3_2", 320),
        _reduce(seven, "branch7x7x3_4", 192),
        _halving_pool(x),
    ]


def _mixed_7(x, pool: Callable):
    """Branches 1×1, two that end in parallel 1×3 and 3×1, and pool: `[n, 8, 8, 2048]`."""
    once = _conv(x, "branch3x3_1", 384)
    twice = _chain(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
    return [
        _conv(x, "branch1x1", 320),
        _conv(once, "branch3x3_2a", 384, (1, 3)),
        _conv(once, "branch3x3_2b", 384, (3, 1)),
        _conv(twice, "branch3x3dbl_3a", 384, (1, 3)),
        _conv(twice, "branch3x3dbl_3b", 384, (3, 1)),
        _conv(pool(x), "branch_pool", 192),
    ]


def convert(state: dict, path: tuple[str, ...]) -> dict:
    """Returns the weights of the layer at a path, from those of pytorch-fid or torch-fidelity."""
    name = ".".join(path)
    return fold_batch_norm(state, f"{name}.conv", f"{name}.bn")
