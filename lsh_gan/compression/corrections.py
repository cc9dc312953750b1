"""Corrections after quantization that need no training, only samples of the generator itself.

Both correct the layers in the order in which they are called, each one after the corrections before
it, so that a layer gets the inputs that it will really have. That takes one run over the latents
for each layer; all runs share one compilation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util
from jaxtyping import Float32, Int

from lsh_gan.compression.activations import Batch, Path, batches, own_variables, record
from lsh_gan.compression.rules import Params, join


class Moments(NamedTuple):
    """Mean and population variance of a layer's values, one a parameter of the layer."""

    mean: Any  # of the device, or float64
    var: Any


def _biased_output(module: nn.Module, _: jax.Array, y: jax.Array) -> jax.Array | None:
    bias = own_variables(module, "params").get("bias")
    # A conditional norm has a table of biases, and a layer may end with its activation.
    shape = getattr(bias, "shape", None)
    if shape is None or not getattr(module, "bias_is_last", True):
        return None
    return y.reshape(-1, *shape)


def _normalised_input(module: nn.Module, x: jax.Array, _: jax.Array) -> jax.Array | None:
    statistics = own_variables(module, "batch_stats")
    return x.reshape(-1, x.shape[-1]) if "mean" in statistics else None


@partial(jax.jit, static_argnames=("module", "choose"))
def _batch_moments(
    module: nn.Module, variables: Params, batch: Batch, *, choose: Callable
) -> dict[Path, Moments]:
    recorded = record(module, variables, batch, choose)
    rows = {path: jnp.concatenate(arrays) for path, arrays in recorded.items()}
    return {path: Moments(x.mean(axis=0), x.var(axis=0)) for path, x in rows.items()}


def _moments(
    module: nn.Module, variables: Params, parts: list[Batch], choose: Callable
) -> dict[Path, Moments]:
    """Computes moments over all batches, summed in float64."""
    found = [_batch_moments(module, variables, part, choose=choose) for part in parts]
    weights = np.array([len(part.latents) for part in parts], np.float64)
    weights /= weights.sum()
    combined = {}
    for path in found[0]:
        means, variances = (
            np.stack([np.asarray(part[path][i], np.float64) for part in found]) for i in (0, 1)
        )
        mean = np.tensordot(weights, means, 1)
        var = np.tensordot(weights, variances + (means - mean) ** 2, 1)
        if not np.isfinite(var).all():
            raise ValueError(f"{join(path)}: NaN or Inf in the layer's values.")
        combined[path] = Moments(mean, var)
    return combined


def _call_order(module: nn.Module, variables: Params, batch: Batch, choose: Callable) -> list[Path]:
    order: list[Path] = []

    def run(variables, batch):
        order.extend(record(module, variables, batch, choose))

    jax.eval_shape(run, variables, batch)
    if not order:
        logging.warning("%s has no layer that %s corrects.", module, choose.__name__)
    return order


def _replace(variables: Params, values: dict[Path, np.ndarray]) -> Params:
    flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
    flat.update({path: jnp.asarray(value, jnp.float32) for path, value in values.items()})
    return traverse_util.unflatten_dict(flat)


def correct_biases(
    module: nn.Module,
    original: Params,
    variables: Params,
    latents: Float32[jax.Array, "n latent"],
    *,
    labels: Int[jax.Array, " n"] | None = None,
    batch_size: int = 64,
) -> Params:
    """Shifts biases so that every layer's mean output is that of full precision.

    Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2): rounding a kernel
    shifts the mean of its outputs; the shift is measured and taken from the bias. Every layer with
    a bias is corrected, batch norms included, which stand in for convolutions without one; not so
    layers that end with their activation (`bias_is_last = False`) and tables of biases by class.

    Args:
        module: The generator.
        original: Its variables in full precision.
        variables: Its compressed variables, with or without activation ranges.
        latents: float32 `[n, latent_size]`, a few hundred.
        labels: Classes that go with them, for a conditional generator.
        batch_size: Latents at a time.

    Returns:
        `variables` with other biases (float32); unchanged where no layer has one, with a warning.

    Raises:
        ValueError: Bad latents, or NaN or Inf in a layer's outputs (its path).
    """
    parts = batches(latents, labels, batch_size)
    targets = _moments(module, original, parts, _biased_output)
    for path in _call_order(module, variables, parts[0], _biased_output):
        shift = targets[path].mean - _moments(module, variables, parts, _biased_output)[path].mean
        bias_path = ("params", *path, "bias")
        bias = traverse_util.flatten_dict(variables)[bias_path]
        variables = _replace(variables, {bias_path: bias + shift})
    return variables


def reestimate_batch_norms(
    module: nn.Module,
    variables: Params,
    latents: Float32[jax.Array, "n latent"],
    *,
    labels: Int[jax.Array, " n"] | None = None,
    batch_size: int = 64,
) -> Params:
    """Replaces the running statistics of batch norms by those of the generator's own samples.

    Args:
        module: The generator; a batch norm is a layer with `mean` and `var` in `batch_stats`.
        variables: Its compressed variables, with or without activation ranges.
        latents: float32 `[n, latent_size]`, a few hundred.
        labels: Classes that go with them, for a conditional generator.
        batch_size: Latents at a time; the statistics are those of all latents, whatever it is.

    Returns:
        `variables` with other `batch_stats` (mean and population variance of each batch norm's
        inputs); unchanged where there is no batch norm, with a warning.

    Raises:
        ValueError: Bad latents, or NaN or Inf in a layer's inputs (its path).
    """
    parts = batches(latents, labels, batch_size)
    for path in _call_order(module, variables, parts[0], _normalised_input):
        found = _moments(module, variables, parts, _normalised_input)[path]._asdict()
        flat = traverse_util.flatten_dict(variables)
        statistics = {name: ("batch_stats", *path, name) for name in found}
        variables = _replace(
            variables, {key: _last_row(flat[key], found[name]) for name, key in statistics.items()}
        )
    return variables


def _last_row(stored: jax.Array, new: np.ndarray) -> np.ndarray:
    """Puts `new [c]` in place of `stored [c]`, or of the last row of `stored [rows, c]`.

    Where there is a row for each truncation the last belongs to none, which is what is sampled.
    """
    return new if stored.ndim == 1 else np.concatenate([stored[:-1], new[None]])
