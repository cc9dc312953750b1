"""The whole compression of one generator: weights, then activations, then corrections.

Corrections after quantization need no training, only samples of the generator itself. Both correct
the layers in the order in which they are called. Each layer is measured after the layers before it
are corrected, so a correction runs over the latents once per layer. All runs share one compilation.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util
from jaxtyping import Float32, Int

from lsh_gan.compression import activations, rules, tree
from lsh_gan.compression.activations import Batch, Path, record
from lsh_gan.compression.packing import Layout, PackedTree, file_bytes
from lsh_gan.compression.rules import CompressionSpec, Params, TensorPlan, join

Moments = dict[str, Any]  # "mean" and population "var" of a layer's values, one per parameter


def _biased_output(module: nn.Module, _: jax.Array, y: jax.Array) -> jax.Array | None:
    # Excluded: conditional norms, whose bias is a table; layers that end with an activation.
    shape = getattr(module.variables.get("params", {}).get("bias"), "shape", None)
    if shape is None or not getattr(module, "bias_is_last", True):
        return None
    return y.reshape(-1, *shape)


def _normalised_input(module: nn.Module, x: jax.Array, _: jax.Array) -> jax.Array | None:
    statistics = module.variables.get("batch_stats", {})
    return x.reshape(-1, x.shape[-1]) if "mean" in statistics else None


@partial(jax.jit, static_argnames=("module", "choose"))
def _batch_moments(
    module: nn.Module, variables: Params, batch: Batch, *, choose: Callable
) -> dict[Path, Moments]:
    recorded = record(module, variables, batch, choose)
    rows = {path: jnp.concatenate(arrays) for path, arrays in recorded.items()}
    return {path: {"mean": x.mean(axis=0), "var": x.var(axis=0)} for path, x in rows.items()}


def _moments(
    module: nn.Module, variables: Params, parts: list[Batch], choose: Callable
) -> dict[Path, Moments]:
    """Computes moments over all batches; batches are combined in float64."""
    found = [_batch_moments(module, variables, part, choose=choose) for part in parts]
    stacked = jax.tree.map(lambda *x: np.stack(x).astype(np.float64), *found)
    weights = np.array([len(part.latents) for part in parts], np.float64)
    weights /= weights.sum()
    combined = {}
    for path, each in stacked.items():
        mean = np.tensordot(weights, each["mean"], 1)
        var = np.tensordot(weights, each["var"] + (each["mean"] - mean) ** 2, 1)
        if not np.isfinite(var).all():
            raise ValueError(f"{join(path)}: NaN or Inf in the layer's values.")
        combined[path] = {"mean": mean, "var": var}
    return combined


def _call_order(
    module: nn.Module, variables: Params, batch: Batch, choose: Callable, kind: str
) -> list[Path]:
    """Lists the chosen layers in the order of calls; warns if there are none of this `kind`."""
    order: list[Path] = []

    def run(variables, batch):
        order.extend(record(module, variables, batch, choose))

    jax.eval_shape(run, variables, batch)
    if not order:
        logging.warning("%s has no %s to correct.", type(module).__name__, kind)
    return order


def correct_biases(
    module: nn.Module,
    original: Params,
    variables: Params,
    latents: Float32[jax.Array, "n latent"],
    *,
    labels: Int[jax.Array, " n"] | None = None,
) -> Params:
    """Shifts biases so that the mean output of every layer is that of full precision.

    Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2): rounding a kernel
    shifts the mean of its outputs. The shift is measured and subtracted from the bias. Every layer
    with a bias is corrected, also batch norms. Exceptions: layers that end with their activation
    (`bias_is_last = False`), and tables of biases per class. Layers that are called again after
    later ones, as in the steps of a diffusion model, keep a part of their shift.

    `original` are the variables in full precision and `variables` the compressed ones, with or
    without activation ranges; other arguments are as in `calibrate`. Returns `variables` with
    corrected biases (float32). If no layer has a bias, it warns and changes nothing.

    Raises:
        ValueError: Bad latents, or NaN or Inf in the outputs of a layer (its path).
    """
    parts = activations.batches(latents, labels)
    targets = _moments(module, original, parts, _biased_output)
    flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
    for path in _call_order(module, variables, parts[0], _biased_output, "layer with a bias"):
        found = _moments(module, traverse_util.unflatten_dict(flat), parts, _biased_output)
        bias, shift = ("params", *path, "bias"), targets[path]["mean"] - found[path]["mean"]
        flat[bias] = jnp.add(shift, flat[bias]).astype(jnp.float32)
    return traverse_util.unflatten_dict(flat)


def reestimate_batch_norms(
    module: nn.Module,
    variables: Params,
    latents: Float32[jax.Array, "n latent"],
    *,
    labels: Int[jax.Array, " n"] | None = None,
) -> Params:
    """Replaces the running statistics of batch norms by those of the generator's own samples.

    A batch norm is a layer with `mean` and `var` in `batch_stats`. They become the moments of its
    inputs over all latents. If there is one row of statistics per truncation, only the last row,
    for no truncation, is replaced. Arguments, warnings and errors are as in `correct_biases`.
    """
    parts = activations.batches(latents, labels)
    flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
    for path in _call_order(module, variables, parts[0], _normalised_input, "batch norm"):
        found = _moments(module, traverse_util.unflatten_dict(flat), parts, _normalised_input)
        for name, new in found[path].items():
            stored = flat["batch_stats", *path, name]
            rows = new if stored.ndim == 1 else np.concatenate([stored[:-1], new[None]])
            flat["batch_stats", *path, name] = jnp.asarray(rows, jnp.float32)
    return traverse_util.unflatten_dict(flat)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """One compression of a generator: weights, then activations, then corrections."""

    weights: CompressionSpec  #: compression of the parameters
    #: Quantization of the inputs of layers, "per_tensor"; None keeps them in float32.
    activations: CompressionSpec | None = None
    correct_biases: bool = False  #: whether to shift biases, see `correct_biases`
    #: Whether to replace statistics, see `reestimate_batch_norms`.
    reestimate_batch_norms: bool = False

    @property
    def needs_latents(self) -> bool:
        """Whether the generator must be run on latents."""
        return bool(self.activations or self.correct_biases or self.reestimate_batch_norms)


def check_corrections(module: Any, plans: list[TensorPlan], spec: GeneratorSpec) -> None:
    """Refuses steps that need a Linen module if there is none, and rules that corrections undo."""
    if spec.needs_latents and not isinstance(module, nn.Module):
        raise ValueError(
            "activation_bits, correct_biases and reestimate_batch_norms find layers in Flax Linen "
            f"modules; this generator is a {type(module).__name__}: expected weights alone"
        )
    for plan in plans:
        corrections = {
            "correct_biases": spec.correct_biases and plan.path[-1] == "bias",
            "reestimate_batch_norms": spec.reestimate_batch_norms and plan.path[0] == "batch_stats",
        }
        for name, corrected in corrections.items():
            if corrected and plan.spec.bits is not None:
                raise ValueError(
                    f"{join(plan.path)}: the rule {plan.rule!r} gives it {plan.spec.bits} bits, "
                    f"and {name} would replace it by float32; expected one of the two"
                )


def pack_generator(
    module: Any,
    variables: Params,
    spec: GeneratorSpec,
    *,
    latents: jax.Array | None = None,
    labels: jax.Array | None = None,
    channel_axes: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[PackedTree, tree.CompressionReport]:
    """Compresses a generator, whose `variables` are in full precision.

    Activation ranges are computed with the compressed weights; ranges among `variables` are
    dropped. Statistics of batch norms are re-estimated before biases are corrected, because they
    change the means that biases correct. If `spec.needs_latents`, the module must be a Linen
    module, and a few hundred latents are needed; measure none of them later. `latents` and `labels`
    are as in `calibrate`, `channel_axes` and `metadata` as in `pack`.

    Returns:
        The packed generator, with activation ranges if it has any, and the report on its weights.

    Raises:
        ValueError, TypeError: As in `compress`, `calibrate` and `check_corrections`.
    """
    # Activation ranges of an earlier compression do not apply to this one.
    if isinstance(module, nn.Module):
        variables = {k: v for k, v in variables.items() if k != activations.COLLECTION}
    if spec.needs_latents and latents is None:
        raise ValueError("latents: none, but ranges, statistics or biases are asked for")

    quantized = tree.quantize_tree(variables, spec.weights, channel_axes)
    check_corrections(module, [plan for plan, *_ in quantized.tensors], spec)
    packed, report = tree.pack_quantized(quantized, metadata), tree.report_quantized(quantized)
    if not spec.needs_latents or latents is None:
        return packed, report
    changed: Params = tree.unpack(packed)
    if spec.activations:
        changed = activations.calibrate(module, changed, latents, spec.activations, labels=labels)
    if spec.reestimate_batch_norms:
        changed = reestimate_batch_norms(module, changed, latents, labels=labels)
    if spec.correct_biases:
        changed = correct_biases(module, variables, changed, latents, labels=labels)
    return tree.update(packed, changed), report


def packed_size(
    module: Any,
    variables: Params,
    spec: GeneratorSpec,
    *,
    channel_axes: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """Computes the file size of a packed generator in bytes, and how many tensors are quantized.

    Shapes are enough. Arguments and errors are those of `pack_generator`.

    >>> shapes = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
    >>> size, tensors = packed_size(None, shapes, GeneratorSpec(weights=CompressionSpec(bits=4)))
    >>> 64 * 64 / 2 < size < 3000, tensors
    (True, 1)
    """
    leaves = [(rules.path_of(k), x) for k, x in jax.tree_util.tree_leaves_with_path(variables)]
    leaves = [(path, leaf) for path, leaf in leaves if path[0] != activations.COLLECTION]
    plans = rules.plan_tensors(leaves, spec.weights, channel_axes)
    check_corrections(module, plans, spec)
    layouts = [
        tree.layout_of(plan, leaf.shape) for plan, (_, leaf) in zip(plans, leaves, strict=True)
    ]
    if spec.activations:
        layers = [path[1:-1] for path, _ in leaves if path[0] == "params" and path[-1] == "kernel"]
        fields = activations.RANGE_FIELDS
        ranges = [(activations.COLLECTION, *layer, field) for layer in layers for field in fields]
        layouts += [Layout(path, (), None) for path in ranges]
    size = file_bytes(layouts, tree.empty_subtrees(variables), dict(metadata or {}))
    return size, sum(layout.bits is not None for layout in layouts)
