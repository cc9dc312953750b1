"""Settings of a generator with a width of its own for each layer, and what they keep."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from lsh_gan.compression import CompressionSpec, GeneratorSpec, Rule
from lsh_gan.compression.rules import TensorPlan, flatten, join, plan_tensors
from lsh_gan.generators import Generator
from lsh_gan.results.labels import SCORES
from lsh_gan.results.store import Row

Widths = Mapping[str, int]  # path of a tensor -> bits
METRIC = "lsh"


@dataclasses.dataclass(frozen=True)
class Judge:
    """Measures settings of one generator by LSH.

    Attributes:
        base: What all settings have in common; its width and rules are replaced.
        options: Widths to choose from, rising.
        layers: Paths of the tensors whose width is free.
        fixed: Rules of the tensors whose treatment the user has fixed.
        own: Treatment of free tensors that differs from `base` in more than the width.
        measure: Row of a setting.
    """

    base: GeneratorSpec
    options: tuple[int, ...]
    layers: tuple[str, ...]
    fixed: tuple[Rule, ...]
    own: Mapping[str, Mapping[str, Any]]
    measure: Callable[[GeneratorSpec], Row]

    @property
    def full(self) -> GeneratorSpec:
        """The setting that compresses nothing."""
        return GeneratorSpec(weights=CompressionSpec(bits=None))

    def uniform(self, bits: int) -> Widths:
        """The same width for all free tensors."""
        return dict.fromkeys(self.layers, bits)

    def spec(self, widths: Widths) -> GeneratorSpec:
        """The setting of given widths; equal widths give equal settings."""
        top = max(widths.values())
        rules = tuple(
            Rule(pattern=re.escape(layer), bits=bits, **self.own[layer])
            for layer, bits in widths.items()
            if bits != top or self.own[layer]
        )
        weights = dataclasses.replace(self.base.weights, bits=top, rules=(*rules, *self.fixed))
        return dataclasses.replace(self.base, weights=weights)

    def alone(self, layer: str, bits: int) -> GeneratorSpec:
        """The setting that compresses one tensor and keeps all others."""
        rule = Rule(pattern=re.escape(layer), bits=bits, **self.own[layer])
        rules = (rule, Rule(pattern=".*", skip=True))
        weights = dataclasses.replace(self.base.weights, bits=bits, rules=rules)
        return dataclasses.replace(self.base, weights=weights)

    def kept(self, widths: Widths) -> float:
        """Share of the scores at full precision that is kept, the worse of precision and recall."""
        return self._kept(self.spec(widths))

    def kept_alone(self, layer: str, bits: int) -> float:
        """As `kept`, where only one tensor is compressed."""
        return self._kept(self.alone(layer, bits))

    def _kept(self, spec: GeneratorSpec) -> float:
        full, row = self.measure(self.full), self.measure(spec)
        fields = [f"{METRIC}_{score}" for score in SCORES]
        for field in fields:
            if not full[field]:
                raise ValueError(
                    f"{full['generator']}: {field} is 0 at full precision; there is nothing to keep"
                )
        return min(row[field] / full[field] for field in fields)

    def size(self, widths: Widths) -> int:
        """Bytes of the free tensors in the packed file; the rest is the same in all settings."""
        return sum(self.bytes_of(layer, bits) for layer, bits in widths.items())

    def bytes_of(self, layer: str, bits: int) -> int:
        """Bytes of one tensor in the packed file."""
        tensors = self.measure(self.spec(self.uniform(bits)))["tensors"]
        return next(tensor["bytes"] for tensor in tensors if tensor["path"] == layer)


def make_judge(
    generator: Generator,
    base: GeneratorSpec,
    options: tuple[int, ...],
    measure: Callable[[GeneratorSpec], Row],
) -> Judge:
    """The judge of a generator; tensors whose width a rule of `base` sets are not free.

    Args:
        generator: What is compressed.
        base: What all settings have in common; its rules are kept.
        options: Widths to choose from, two or more.
        measure: Row of a setting.

    Raises:
        ValueError: Bad rules, or no tensor is free.
    """
    options = tuple(sorted(set(options)))
    narrow, wide = (_plans(generator, base, bits) for bits in (options[0], options[-1]))
    free = [plan for plan, other in zip(wide, narrow, strict=True) if plan.spec != other.spec]
    if not free:
        raise ValueError(f"{generator.name}: compression.rules leave no tensor for the search")
    ruled = [plan for plan in wide if plan.rule != "default"]
    fixed = tuple(
        Rule(pattern=re.escape(join(plan.path)), **_treatment(plan))
        for plan in ruled
        if plan not in free
    )
    own = {}
    for plan in free:
        treatment = _treatment(plan) if plan in ruled else {}
        own[join(plan.path)] = {k: v for k, v in treatment.items() if k != "bits"}
    return Judge(base, options, tuple(own), fixed, own, measure)


def _plans(generator: Generator, base: GeneratorSpec, bits: int) -> list[TensorPlan]:
    weights = dataclasses.replace(base.weights, bits=bits)
    return plan_tensors(flatten(generator.params)[0], weights, generator.channel_axes)


def _treatment(plan: TensorPlan) -> dict[str, Any]:
    """The fields of a rule that treats one tensor as planned."""
    if plan.spec.bits is None:
        return {"skip": True}
    names = ("bits", "clipping", "granularity", "scheme", "group_size")
    return {name: getattr(plan.spec, name) for name in names}
