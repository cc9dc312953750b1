"""Compression of a whole parameter tree, tensor by tensor."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt16

from lsh_gan.compression.clipping import Values, threshold
from lsh_gan.compression.quantization import (
    Grid,
    clipped_grid,
    dequantize,
    fan_in,
    from_groups,
    quantize,
    to_groups,
)
from lsh_gan.compression.rules import Params, TensorPlan, flatten, join, plan_tensors
from lsh_gan.compression.spec import CompressionSpec


class QuantizedTensor(NamedTuple):
    """One tensor as codes, with what its report needs.

    All but the codes are float32 and broadcast against them. Sums are over columns (axis 1), for
    the report to add up in float64, and in units of max `|w|` squared.
    """

    codes: UInt16[jax.Array, "groups group channels"]
    grid: Grid  # scale and zero point
    # Clipping threshold.
    alpha: Float32[jax.Array, "#groups 1 #channels"]
    # Max `|w|` of what shares a threshold.
    max_abs: Float32[jax.Array, "#groups 1 #channels"]
    num_clipped: Float32[jax.Array, "groups 1 channels"]  # number of values with `|w|` > alpha
    signal: Float32[jax.Array, "groups 1 channels"]  # sum of squared values
    noise: Float32[jax.Array, "groups 1 channels"]  # sum of squared errors


@functools.partial(jax.jit, static_argnames=("spec", "channel_axis", "num_groups"))
def _quantize_tensor(
    x: jax.Array, bits: jax.Array, *, spec: CompressionSpec, channel_axis: int, num_groups: int
) -> QuantizedTensor:
    axes = (0, 1, 2) if spec.granularity == "per_tensor" else (1,)
    values = Values(to_groups(x, channel_axis=channel_axis, num_groups=num_groups), bits, axes)
    alpha = threshold(values, spec)
    low, high = values.limits()
    grid = clipped_grid(low, high, alpha, bits, scheme=spec.scheme)
    codes = quantize(values.x, grid, bits, scheme=spec.scheme)
    max_abs = values.max_abs()
    per_unit = 1 / jnp.where(max_abs > 0, max_abs, 1)
    errors = dequantize(codes, grid) - values.x
    clipped = (jnp.abs(values.x) > alpha).astype(jnp.float32)
    columns = functools.partial(jnp.sum, axis=1, keepdims=True)
    return QuantizedTensor(
        codes=codes.astype(jnp.uint16),
        grid=grid,
        alpha=alpha,
        max_abs=max_abs,
        num_clipped=columns(clipped),
        signal=columns((values.x * per_unit) ** 2),
        noise=columns((errors * per_unit) ** 2),
    )


def quantize_tensor(x: jax.Array, plan: TensorPlan) -> QuantizedTensor:
    """Quantizes one tensor; compiled once per shape and method, whatever the width.

    Raises:
        ValueError: The clipping method gives threshold 0 for values that are not all zero.
    """
    spec = plan.spec
    group_size = spec.group_size if spec.granularity == "per_group" else None
    result = _quantize_tensor(
        x,
        jnp.int32(spec.bits),
        spec=spec.without_width(),
        channel_axis=plan.channel_axis,
        num_groups=fan_in(x.shape, plan.channel_axis) // group_size if group_size else 1,
    )
    if isinstance(x, jax.core.Tracer):
        return result
    lost = (np.asarray(result.alpha) <= 0) & (np.asarray(result.max_abs) > 0)
    if lost.any():
        raise ValueError(
            f"{join(plan.path)}: clipping {spec.clipping!r} gives threshold 0 in {lost.sum()} of"
            f" {lost.size} {spec.granularity} ranges whose values are not all zero; use a higher"
            " percentile, a coarser granularity or another method."
        )
    return result


@functools.partial(jax.jit, static_argnames=("shape", "channel_axis"))
def dequantize_tensor(
    codes: jax.Array, grid: Grid, *, shape: tuple[int, ...], channel_axis: int
) -> jax.Array:
    """The float32 tensor of the given shape that codes `[groups, group, channels]` stand for."""
    return from_groups(dequantize(codes, grid), shape=shape, channel_axis=channel_axis)


def quantize_tree(
    params: Params, spec: CompressionSpec, channel_axes: Mapping[str, int] | None
) -> tuple[list[tuple[TensorPlan, jax.Array, QuantizedTensor | None]], object]:
    """Plans and quantizes every tensor: (plan, float32 tensor, codes or None) and the tree.

    Tensors of one shape go one after the other, different shapes side by side: the time of a first
    call is that of compiling, which uses one core a shape.
    """
    leaves, treedef = flatten(params)
    plans = plan_tensors(leaves, spec, channel_axes)
    alike: dict[tuple, list[int]] = {}
    for i, (plan, (_, leaf)) in enumerate(zip(plans, leaves, strict=True)):
        if plan.spec.bits is not None:
            static = dataclasses.replace(plan.spec, bits=None)
            alike.setdefault((leaf.shape, plan.channel_axis, static), []).append(i)

    def run(indices: list[int]) -> list[tuple[int, QuantizedTensor]]:
        return [(i, quantize_tensor(leaves[i][1], plans[i])) for i in indices]

    if any(isinstance(leaf, jax.core.Tracer) for _, leaf in leaves):  # belong to this thread
        done = dict(itertools.chain.from_iterable(map(run, alike.values())))
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = dict(itertools.chain.from_iterable(pool.map(run, alike.values())))
    items = [
        (plan, leaf, done.get(i))
        for i, (plan, (_, leaf)) in enumerate(zip(plans, leaves, strict=True))
    ]
    return items, treedef
