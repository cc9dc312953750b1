"""Everything that is done to one generator after training, in its order."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lsh_gan.compression.activations import COLLECTION, calibrate
from lsh_gan.compression.corrections import correct_biases, reestimate_batch_norms
from lsh_gan.compression.packing import PackedTree, empty_subtrees, pack_quantized, unpack, update
from lsh_gan.compression.report import CompressionReport, report_quantized
from lsh_gan.compression.rules import Params, TensorPlan, flatten, join, plan_tensors
from lsh_gan.compression.spec import CompressionSpec
from lsh_gan.compression.tree import quantize_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """One compression of a generator: weights, then activations, then corrections."""

    weights: CompressionSpec  #: what happens to the parameters
    #: What happens to the inputs of layers, "per_tensor"; None leaves them alone.
    activations: CompressionSpec | None = None
    correct_biases: bool = False  #: whether biases are shifted, see `correct_biases`
    #: Whether statistics are replaced, see `reestimate_batch_norms`.
    reestimate_batch_norms: bool = False

    @property
    def needs_latents(self) -> bool:
        """Whether the generator has to be run."""
        return bool(self.activations or self.correct_biases or self.reestimate_batch_norms)


def check_corrections(module: Any, plans: list[TensorPlan], spec: GeneratorSpec) -> None:
    """Checks that what is done to a generator beside its weights can be done.

    Raises:
        ValueError: A rule quantizes a bias or statistic that a correction would replace by float32;
            or layers have to be found in a generator that is no Linen module.
    """
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
) -> tuple[PackedTree, CompressionReport]:
    """Compresses a generator.

    Ranges of activations are those of the compressed weights. Statistics of batch norms are
    re-estimated before biases are corrected, because they move the means that biases put right.

    Args:
        module: The generator, a Linen module if `spec.needs_latents`.
        variables: Its variables in full precision; activation ranges among them are left out.
        spec: What to do.
        latents: float32 `[n, latent_size]`, a few hundred, none of them measured later; needed if
            `spec.needs_latents`.
        labels: Classes that go with them, for a conditional generator.
        channel_axes: As in `pack`.
        metadata: As in `pack`.

    Returns:
        The packed generator, with activation ranges if it has any, and the report on its weights.

    Raises:
        ValueError, TypeError: As `compress`, `calibrate` and `check_corrections`.
    """
    # Ranges of a generator that was packed with some belong to that compression, not to this one.
    if isinstance(module, nn.Module):
        variables = {name: tree for name, tree in variables.items() if name != COLLECTION}
    check_corrections(module, plan_tensors(flatten(variables)[0], spec.weights, channel_axes), spec)
    quantized, _ = quantize_tree(variables, spec.weights, channel_axes)
    empty = empty_subtrees(variables)
    packed = pack_quantized(quantized, empty, metadata)
    report = report_quantized(quantized, empty)
    if not spec.needs_latents:
        return packed, report
    if latents is None:
        raise ValueError("latents: none, but ranges, statistics or biases are asked for")
    changed: Params = unpack(packed)
    if spec.activations:
        changed = calibrate(module, changed, latents, spec.activations, labels=labels)
    if spec.reestimate_batch_norms:
        changed = reestimate_batch_norms(module, changed, latents, labels=labels)
    if spec.correct_biases:
        changed = correct_biases(module, variables, changed, latents, labels=labels)
    return update(packed, changed), report
