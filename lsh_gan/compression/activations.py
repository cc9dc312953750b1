"""Quantized activations: the inputs of every layer with a kernel, rounded as they pass.

`calibrate` watches a generator on some latents and writes one range a layer into the collection
`activation_ranges` of its variables; `apply` rounds the inputs of the layers that have one. The
generator's code is not touched: both go through Flax's method interception. Variables without that
collection run as they are, so `apply` can stand in for `module.apply` everywhere.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lsh_gan.compression.clipping import Values, threshold
from lsh_gan.compression.quantization import Grid, clipped_grid, dequantize, quantize
from lsh_gan.compression.rules import Params, join, resolve
from lsh_gan.compression.spec import CompressionSpec

Path = tuple[str, ...]

COLLECTION = "activation_ranges"
# Values of a layer that thresholds are computed from, besides its exact minimum and maximum.
SAMPLE_SIZE = 2**17


def apply(module: nn.Module, variables: Params, *args: Any, **kwargs: Any) -> Any:
    """`module.apply` with the inputs of calibrated layers quantized; may be jitted.

    Args:
        module: The generator.
        variables: Its variables, with or without the collection of `calibrate`.
        *args: As for `module.apply`.
        **kwargs: As for `module.apply`.
    """
    with nn.intercept_methods(_quantize_input):
        return module.apply(variables, *args, **kwargs)


def own_variables(module: nn.Module, collection: str) -> Params:
    """A bound module's variables in a collection, submodules included."""
    return module.variables.get(collection, {})


def _quantize_input(call, args, kwargs, context):
    ranges = own_variables(context.module, COLLECTION)
    if context.method_name != "__call__" or "scale" not in ranges:
        return call(*args, **kwargs)
    grid = Grid(ranges["scale"], ranges["zero_point"])
    bits = ranges["bits"].astype(jnp.int32)
    # The affine rounding covers symmetric grids too, whose zero point is half a code.
    rounded = dequantize(quantize(args[0], grid, bits, scheme="affine"), grid)
    return call(rounded, *args[1:], **kwargs)


def record(
    module: nn.Module,
    variables: Params,
    latents: jax.Array,
    choose: Callable[[nn.Module, jax.Array, jax.Array], jax.Array | None],
) -> dict[Path, list[jax.Array]]:
    """Runs a generator and keeps an array of each submodule, in the order of their first call.

    Args:
        module: The generator.
        variables: Its variables.
        latents: float32 `[n, latent_size]`.
        choose: Called with (submodule, its input, its output); what it returns is kept, unless
            None.

    Returns:
        Module path (("block_0", "conv_1")) -> what was kept, one array a call.
    """
    kept: dict[Path, list[jax.Array]] = {}

    def intercept(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            chosen = choose(context.module, args[0], output)
            if chosen is not None:
                kept.setdefault(context.module.path, []).append(chosen)
        return output

    with nn.intercept_methods(intercept):
        apply(module, variables, latents)
    return kept


def _kernel_input(module: nn.Module, x: jax.Array, _: jax.Array) -> jax.Array | None:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return x if floating and "kernel" in own_variables(module, "params") else None


@partial(jax.jit, static_argnames=("module", "size"))
def _sample_inputs(
    module: nn.Module, variables: Params, latents: jax.Array, *, size: int
) -> dict[Path, jax.Array]:
    """At most `size` input values of each layer, drawn at random, then minimum and maximum."""
    samples = {}
    for path, inputs in record(module, variables, latents, _kernel_input).items():
        x = jnp.concatenate([x.reshape(-1) for x in inputs]).astype(jnp.float32)
        indices = np.random.default_rng(0).integers(0, x.size, min(size, x.size))
        samples[path] = jnp.concatenate([x[indices], jnp.stack([x.min(), x.max()])])
    return samples


def batches(latents: jax.Array, batch_size: int) -> Iterator[jax.Array]:
    """Checks latents and cuts them into batches; the last may be smaller.

    Raises:
        ValueError: Not `[n, latent_size]` with n >= 1, or NaN or Inf among them.
    """
    if latents.ndim != 2 or len(latents) < 1 or batch_size < 1:
        raise ValueError(
            f"expected latents [n, latent_size] with n >= 1 and batch_size >= 1, got shape"
            f" {tuple(latents.shape)} and batch_size = {batch_size}."
        )
    if not np.isfinite(np.asarray(latents)).all():
        raise ValueError("the latents hold NaN or Inf.")
    return (latents[i : i + batch_size] for i in range(0, len(latents), batch_size))


@partial(jax.jit, static_argnames="spec")
def _grid(sample: jax.Array, bits: jax.Array, *, spec: CompressionSpec) -> tuple[Grid, jax.Array]:
    values = Values(sample.reshape(1, -1, 1), bits, (0, 1, 2))
    alpha = threshold(values, spec)
    grid = clipped_grid(*values.limits(), alpha, bits, scheme=spec.scheme)
    lost = (alpha <= 0) & (values.max_abs() > 0)
    return jax.tree.map(jnp.squeeze, grid), lost.squeeze()


def _range(path: str, sample: np.ndarray, spec: CompressionSpec) -> dict[str, jax.Array]:
    if not np.isfinite(sample).all():
        raise ValueError(f"{path}: its inputs hold NaN or Inf.")
    bits = jnp.int32(spec.bits)
    grid, lost = _grid(jnp.asarray(sample), bits, spec=spec.without_width())
    if lost:
        raise ValueError(f"{path}: clipping {spec.clipping!r} gives threshold 0 for its inputs.")
    return {"scale": grid.scale, "zero_point": grid.zero_point, "bits": jnp.float32(spec.bits)}


def calibrate(
    module: nn.Module,
    variables: Params,
    latents: jax.Array,
    spec: CompressionSpec,
    *,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Adds to variables the input range of every layer with a kernel.

    Calibrate before the weights are compressed, or after, to see what the compressed layers see.
    Thresholds come from 2^17 random inputs of a layer and its exact minimum and maximum.

    Args:
        module: The generator; `module.apply(variables, latents)` must run it.
        variables: Its variables, whatever their weights.
        latents: float32 `[n, latent_size]`, a few hundred.
        spec: Width, clipping and scheme; granularity must be "per_tensor", patterns of rules match
            module paths ("block_0/conv_1"). "affine" suits inputs after a ReLU.
        batch_size: Latents at a time.

    Returns:
        The variables with the collection `activation_ranges`, for `apply`; unchanged at
        `bits=None` without rules.

    Raises:
        ValueError: Bad latents, another granularity, no layer with a kernel, a rule that matches
            none, a threshold of 0, or NaN or Inf in a layer's inputs (its path).
    """
    if spec.granularity != "per_tensor":
        raise ValueError(
            f"granularity = {spec.granularity!r}: activations are quantized 'per_tensor'."
        )
    parts = list(batches(latents, batch_size))
    plain = {name: value for name, value in variables.items() if name != COLLECTION}
    size = SAMPLE_SIZE // len(parts)
    drawn = [_sample_inputs(module, plain, part, size=size) for part in parts]
    paths = list(drawn[0])
    if not paths:
        raise ValueError(f"{type(module).__name__} has no layer with a kernel.")
    ranges = {}
    resolved = resolve([join(path) for path in paths], spec, [True] * len(paths))
    for path, (own_spec, _) in zip(paths, resolved, strict=True):
        if own_spec.bits is not None:
            sample = np.concatenate([np.asarray(part[path]) for part in drawn])
            own_range = _range(join(path), sample, own_spec)
            ranges.update({(*path, name): value for name, value in own_range.items()})
    return {**plain, COLLECTION: traverse_util.unflatten_dict(ranges)} if ranges else plain
