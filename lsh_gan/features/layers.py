"""Convolutions in the form that is fast on the current device, and folding of batch norms."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsh_gan.devices import on_cpu


def _depthwise_by_shifts(x, kernel, strides: int, padding: list[tuple[int, int]]):
    """Computes a depthwise convolution as a sum of shifted images times weights."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    kernel_h, kernel_w, _ = kernel.shape
    out_h = (x.shape[1] - kernel_h) // strides + 1
    out_w = (x.shape[2] - kernel_w) // strides + 1
    total = 0.0
    for i, j in np.ndindex(kernel_h, kernel_w):
        rows = slice(i, i + (out_h - 1) * strides + 1, strides)
        columns = slice(j, j + (out_w - 1) * strides + 1, strides)
        total += x[:, rows, columns] * kernel[i, j]
    return total


class Conv(nn.Module):
    """Convolution with bias, at full precision.

    On CPU, XLA's depthwise and 1×1 convolutions are several times slower than the equivalent
    shifted multiply-adds and matrix product, which replace them there.
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
        if on_cpu() and self.depthwise:
            x = _depthwise_by_shifts(x, kernel[:, :, 0], self.strides, padding)
        elif on_cpu() and self.kernel_size == strides == (1, 1) and not np.any(padding):
            x = jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0], precision=precision)
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
