"""Uniform quantization grids, and rounding onto them.

A tensor is viewed as `[groups, group, channels]` (`to_groups`); scale and zero point broadcast
against this view. Every scheme is decoded by the same formula,

    value = scale * (code - zero_point),      code in 0 .. 2^bits - 1.

**symmetric** is the mid-rise grid: all 2^bits levels, symmetric about zero, zero point
(2^bits - 1) / 2, the outermost levels at -α and +α. At 4 bits: ±α/15, ±3α/15, ..., ±α; at 1 bit ±α.
Zero is not a level, it becomes +scale/2. So a tensor with 10 % exact zeros or more, such as a
pruned one, takes "affine" instead (`rules.plan_tensors`), see docs/compression.md.

**affine** covers [min(w, 0), max(w, 0)] after clipping, with an integer zero point, so zero is a
level and stays exact. At 1 bit it is the symmetric grid, because an integer zero point would leave
only 0 and one other level.

Codes are rounded half to even. Symmetric codes are rounded by magnitude, so the grid is also
sign symmetric at ties. On a symmetric grid of layer inputs (`activations`), and on that of "affine"
at 1 bit, codes are only rounded half to even, and 0 becomes -scale/2. The subtraction above is
exact in float32 and the product is rounded once, so decoding gives the same bits everywhere.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int32, Shaped

Array = jax.Array


class Grid(NamedTuple):
    """A uniform grid."""

    #: Float32, distance between levels, >= 0; broadcasts against the grouped tensor.
    scale: Float32[Array, "#groups 1 #channels"]
    #: Float32 of the same shape: the code of zero, an integer or halfway between two codes.
    zero_point: Float32[Array, "#groups 1 #channels"]


def num_levels(bits: Int32[Array, ""]) -> Float32[Array, ""]:
    """Returns 2^bits as float32, exactly; `bits` may be traced."""
    return jnp.left_shift(1, bits).astype(jnp.float32)


def symmetric_grid(alpha: Float32[Array, "#groups 1 #channels"], bits: Int32[Array, ""]) -> Grid:
    """Makes the mid-rise grid of 2^bits levels from -alpha to +alpha; alpha may be 0.

    >>> grid = symmetric_grid(jnp.array([[[3.0]]]), jnp.int32(2))
    >>> dequantize(jnp.arange(4).reshape(1, 4, 1), grid).ravel().tolist()
    [-3.0, -1.0, 1.0, 3.0]
    """
    half_range = (num_levels(bits) - 1) / 2
    scale = alpha / half_range
    return Grid(scale, jnp.broadcast_to(half_range, scale.shape))


def affine_grid(low: Array, high: Array, bits: Array) -> Grid:
    """Makes the grid of 2^bits levels that covers [low, high] (low <= 0 <= high), 0 included."""
    steps = num_levels(bits) - 1
    width = high - low
    scale = width / steps
    # In this order a range symmetric about zero gives exactly half, and rounds alike everywhere.
    zero_point = jnp.round(-low / jnp.where(width > 0, width, 1) * steps)
    one_bit = symmetric_grid(jnp.maximum(-low, high), bits)
    return jax.tree.map(partial(jnp.where, bits == 1), one_bit, Grid(scale, zero_point))


def clipped_grid(low: Array, high: Array, alpha: Array, bits: Array, *, scheme: str) -> Grid:
    """Makes the grid for values in [low, high] clipped to [-alpha, alpha]; one bound per range."""
    if scheme == "symmetric":
        return symmetric_grid(alpha, bits)
    low = jnp.clip(low, -alpha, 0)
    high = jnp.clip(high, 0, alpha)
    return affine_grid(low, high, bits)


def quantize(
    x: Float32[Array, "groups group channels"], grid: Grid, bits: Int32[Array, ""], *, scheme: str
) -> Float32[Array, "groups group channels"]:
    """Finds the codes of the levels nearest to x: whole float32 numbers in 0 .. 2^bits - 1.

    Values outside the grid get the outermost code. Ties go to the even code counted from the
    innermost level of the sign (symmetric) or from zero (affine).
    """
    levels = num_levels(bits)
    steps = x / jnp.where(grid.scale > 0, grid.scale, 1)
    if scheme == "symmetric":
        magnitude = jnp.clip(jnp.round(jnp.abs(steps) - 0.5), 0, levels / 2 - 1)
        return jnp.where(x >= 0, levels / 2 + magnitude, levels / 2 - 1 - magnitude)
    whole = jnp.floor(grid.zero_point)
    return jnp.clip(jnp.round(steps + (grid.zero_point - whole)) + whole, 0, levels - 1)


def dequantize(
    codes: Shaped[Array, "groups group channels"], grid: Grid
) -> Float32[Array, "groups group channels"]:
    """Decodes codes to float32 values."""
    return grid.scale * (codes.astype(jnp.float32) - grid.zero_point)


def to_groups(
    x: Float[Array, "..."], *, channel_axis: int, num_groups: int
) -> Float[Array, "groups group channels"]:
    """Views a tensor as `[groups, group, channels]`; a tensor of rank 0 or 1 has one channel.

    The output axis is moved last; the others are flattened in order and split into `num_groups`.
    """
    if x.ndim < 2:
        return x.reshape(num_groups, -1, 1)
    x = jnp.moveaxis(x, channel_axis, -1)
    return x.reshape(num_groups, -1, x.shape[-1])


def from_groups(
    x: Float[Array, "groups group channels"], *, shape: tuple[int, ...], channel_axis: int
) -> Float[Array, "..."]:
    """Undoes `to_groups` for a tensor of the given shape."""
    if len(shape) < 2:
        return x.reshape(shape)
    axis = channel_axis % len(shape)
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])
    return jnp.moveaxis(x.reshape(moved), -1, axis)


def fan_in(shape: tuple[int, ...], channel_axis: int) -> int:
    """Counts the weights that feed one output channel."""
    return math.prod(shape) // shape[channel_axis] if len(shape) > 1 else math.prod(shape)
