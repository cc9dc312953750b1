"""Convolutions in the form that is fast on the current device, and folding of batch norms."""

import math
import operator
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsh_gan.devices import on_cpu


def _shifted(x, kernel_size: tuple[int, int], strides: int, padding: list[tuple[int, int]]):
    """Returns the inputs `[n, out_h, out_w, c]` of each tap of a kernel, row by row."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    h, w = (side - k + 1 for side, k in zip(x.shape[1:3], kernel_size, strict=True))
    return [x[:, i : i + h : strides, j : j + w : strides] for i, j in np.ndindex(kernel_size)]


class Conv(nn.Module):
    """Convolution with bias, at full precision.

    On CPU, some of XLA's convolutions are several times slower than equivalent operations with
    shifted inputs, which replace them there: depthwise ones than multiply-adds, and those with 1×1
    kernels, or with strides and few inputs such as 3×3 pixels of an image, than a matrix product.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: str | int = 0  # "SAME" (as in TensorFlow), or zeros on each side
    depthwise: bool = False

    @nn.compact
    def __call__(self, x):
        """Maps `[n, h, w, c]` to `[n, out_h, out_w, features]`."""
        groups = x.shape[-1] if self.depthwise else 1
        shape = (*self.kernel_size, x.shape[-1] // groups, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        strides, padding = (self.strides, self.strides), [(self.padding, self.padding)] * 2
        if self.padding == "SAME":
            padding = lax.padtype_to_pads(x.shape[1:3], self.kernel_size, strides, "SAME")
        precision = lax.Precision.HIGHEST
        shifted = partial(_shifted, x, self.kernel_size, self.strides, padding)
        few = math.prod(shape[:3]) <= 32 and self.strides > 1  # inputs per output
        if on_cpu() and self.depthwise:
            x = sum(map(operator.mul, shifted(), kernel.reshape(-1, self.features)))
        elif on_cpu() and (few or self.kernel_size == (1, 1)):
            taps = kernel.reshape(-1, self.features)
            x = jnp.matmul(jnp.concatenate(shifted(), axis=-1), taps, precision=precision)
        else:
            x = lax.conv_general_dilated(
                x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups, precision=precision,
            )  # fmt: skip
        return x + bias


def plain_layer(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Converts a convolution of torch, whose output axis is the first, and its bias to float32."""
    kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
    bias = state[f"{name}.bias"]
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def fold_batch_norm(state: dict[str, np.ndarray], conv: str, norm: str) -> dict[str, np.ndarray]:
    """Merges a batch norm (epsilon 1e-3, as in TensorFlow) into the convolution before it."""
    names = ("weight", "bias", "running_mean", "running_var")
    weight, shift, mean, var = (state[f"{norm}.{name}"].astype(np.float64) for name in names)
    scale = weight / np.sqrt(var + 1e-3)
    kernel = state[f"{conv}.weight"].astype(np.float64).transpose(2, 3, 1, 0) * scale
    bias = shift - mean * scale
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
