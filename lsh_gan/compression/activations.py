"""Quantized activations: rounds the inputs of every layer with a kernel during the call.

`calibrate` runs a generator on some latents and adds one range per layer to the collection
`activation_ranges` of its variables. `apply`, which can replace `module.apply` everywhere, rounds
the inputs of the layers that have a range. Both use Flax's method interception.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Float32, Int

from lsh_gan.compression.quantization import Grid, dequantize, quantize
from lsh_gan.compression.rules import CompressionSpec, Params, TensorPlan, join, resolve
from lsh_gan.compression.tree import quantize_tensor

Path = tuple[str, ...]

COLLECTION = "activation_ranges"
# Names that no submodule has; a submodule of conditional norms is called "scale".
RANGE_FIELDS = ("input_scale", "input_zero_point", "input_bits")
# Thresholds are computed from this many inputs of a layer, and its exact minimum and maximum.
SAMPLE_SIZE = 2**17
BATCH = 64  # latents at a time


def apply(module: Any, variables: Params, *args: Any, **kwargs: Any) -> Any:
    """Applies a module with quantized inputs of the calibrated layers; may be jitted.

    `variables` may have the collection that `calibrate` adds; other arguments are as for
    `module.apply`. Matrix products use full float32, where a GPU would keep 10 bits by default.
    """
    with nn.intercept_methods(_quantize_input), jax.default_matmul_precision("float32"):
        return module.apply(variables, *args, **kwargs)


class Batch(NamedTuple):
    """Inputs of a generator: latents `[n, latent_size]`, and classes `[n]` or None."""

    latents: Float32[jax.Array, "n latent"]
    labels: Int[jax.Array, " n"] | None = None


def _quantize_input(call, args, kwargs, context):
    ranges = context.module.variables.get(COLLECTION, {})
    if context.method_name != "__call__" or "input_scale" not in ranges:
        return call(*args, **kwargs)
    grid = Grid(ranges["input_scale"], ranges["input_zero_point"])
    bits = ranges["input_bits"].astype(jnp.int32)
    # Affine rounding also handles symmetric grids, whose zero point ends in one half.
    rounded = dequantize(quantize(args[0], grid, bits, scheme="affine"), grid)
    return call(rounded, *args[1:], **kwargs)


def unrolled(module: nn.Module) -> nn.Module:
    """Returns the module with its scan unrolled: values inside a scan cannot be recorded."""
    return module.clone(unroll=True) if hasattr(module, "unroll") else module


def record(
    module: nn.Module,
    variables: Params,
    batch: Batch,
    choose: Callable[[nn.Module, jax.Array, jax.Array], jax.Array | None],
) -> dict[Path, list[jax.Array]]:
    """Runs a generator and records what `choose` returns for each call of a submodule.

    `choose` gets (submodule, its input, its output); None is not recorded. Paths are like
    ("block_0", "conv_1"), in the order of their first call.
    """
    kept: dict[Path, list[jax.Array]] = {}

    def intercept(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            chosen = choose(context.module, args[0], output)
            if chosen is not None:
                kept.setdefault(context.module.path, []).append(chosen)
        return output

    given = {} if batch.labels is None else {"labels": batch.labels}
    with nn.intercept_methods(intercept):
        apply(unrolled(module), variables, batch.latents, **given)
    return kept


def _kernel_input(module: nn.Module, x: jax.Array, _: jax.Array) -> jax.Array | None:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return x if floating and "kernel" in module.variables.get("params", {}) else None


@partial(jax.jit, static_argnames=("module", "size"))
def _sample_inputs(
    module: nn.Module, variables: Params, batch: Batch, *, size: int
) -> dict[Path, jax.Array]:
    """Draws at most `size` input values per layer, and appends their minimum and maximum."""
    samples = {}
    for path, inputs in record(module, variables, batch, _kernel_input).items():
        x = jnp.concatenate([x.reshape(-1) for x in inputs]).astype(jnp.float32)
        indices = np.random.default_rng(0).integers(0, x.size, min(size, x.size))
        samples[path] = jnp.concatenate([x[indices], jnp.stack([x.min(), x.max()])])
    return samples


def batches(latents: jax.Array, labels: jax.Array | None) -> list[Batch]:
    """Checks latents and classes and splits them into batches; the last may be smaller."""
    if latents.ndim != 2 or len(latents) < 1:
        raise ValueError(f"latents of shape {tuple(latents.shape)}; expected [n, latent_size].")
    if labels is not None and len(labels) != len(latents):
        raise ValueError(f"{len(labels)} labels for {len(latents)} latents.")
    cuts = [slice(i, i + BATCH) for i in range(0, len(latents), BATCH)]
    return [Batch(latents[cut], None if labels is None else labels[cut]) for cut in cuts]


def calibrate(
    module: nn.Module,
    variables: Params,
    latents: Float32[jax.Array, "n latent"],
    spec: CompressionSpec,
    *,
    labels: Int[jax.Array, " n"] | None = None,
) -> dict[str, Any]:
    """Adds the input range of every layer with a kernel to the variables, as `activation_ranges`.

    With compressed weights, the ranges are those of the compressed generator. Thresholds come from
    2^17 random inputs of a layer, and its exact minimum and maximum. A few hundred latents are
    enough; `labels` are their classes. The granularity of `spec` must be "per_tensor"; patterns
    of its rules match module paths ("block_0/conv_1"). The scheme "affine" suits inputs after a
    ReLU. With `bits=None` and no rules, the variables get no ranges.

    Raises:
        ValueError: Bad latents, another granularity, no layer with a kernel, a rule without a
            match, a threshold of 0, or NaN or Inf in the inputs of a layer (its path).
    """
    if spec.granularity != "per_tensor":
        raise ValueError(
            f"granularity = {spec.granularity!r}: activations are quantized 'per_tensor'."
        )
    plain = {name: value for name, value in variables.items() if name != COLLECTION}
    drawn = []
    for part in batches(latents, labels):
        # Every latent has the same share, also if the last batch is smaller.
        size = SAMPLE_SIZE * len(part.latents) // len(latents)
        drawn.append(_sample_inputs(module, plain, part, size=size))
    paths = list(drawn[0])
    if not paths:
        raise ValueError(f"{type(module).__name__} has no layer with a kernel.")
    ranges: dict[Path, jax.Array] = {}
    resolved = resolve([join(path) for path in paths], spec, [True] * len(paths))
    for path, (own_spec, rule) in zip(paths, resolved, strict=True):
        if own_spec.bits is None:
            continue
        sample = jnp.concatenate([part[path] for part in drawn])
        if not jnp.isfinite(sample).all():
            raise ValueError(f"{join(path)}: its inputs hold NaN or Inf.")
        grid = quantize_tensor(sample, TensorPlan(path, own_spec, 0, rule)).grid
        values = (*map(jnp.squeeze, grid), jnp.float32(own_spec.bits))
        ranges |= {(*path, name): x for name, x in zip(RANGE_FIELDS, values, strict=True)}
    return {**plain, COLLECTION: traverse_util.unflatten_dict(ranges)} if ranges else plain
