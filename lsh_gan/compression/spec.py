"""What to do to a generator's tensors: the frozen, hashable specification of one compression."""

import dataclasses
import math
import re
from typing import Any

from lsh_gan.compression.clipping import METHODS
from lsh_gan.errors import check_int, choose

MAX_BITS = 16
GRANULARITIES = dict.fromkeys(("per_tensor", "per_channel", "per_group"))
SCHEMES = dict.fromkeys(("symmetric", "affine"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Overrides the specification for the tensors whose path matches a pattern.

    Attributes:
        pattern: Regular expression that must match the whole path, keys joined by "/"
            ("params/Conv_0/kernel"). Rules are tried in order and the first match wins.
        bits, clipping, granularity, scheme, group_size: Replace the fields of the same name of
            `CompressionSpec`; None keeps them.
        skip: Leave the tensor in float32.

    Raises:
        ValueError: A malformed pattern, a width outside 1..16, an unknown name, or `skip` together
            with what to do.
    """

    pattern: str
    bits: int | None = None
    clipping: str | None = None
    granularity: str | None = None
    scheme: str | None = None
    group_size: int | None = None
    skip: bool = False

    def __post_init__(self):
        try:
            re.compile(self.pattern)
            CompressionSpec(**{"bits": None, **self.overrides()})
        except (re.error, ValueError) as error:
            raise ValueError(f"rule {self.pattern!r}: {error}") from None
        if self.skip and self.overrides():
            fields = ", ".join(self.overrides())
            raise ValueError(f"rule {self.pattern!r}: skip and {fields}; expected one or the other")

    def overrides(self) -> dict[str, Any]:
        """The fields of `CompressionSpec` that this rule replaces."""
        fields = ("bits", "clipping", "granularity", "scheme", "group_size")
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressionSpec:
    """One post-training compression of a parameter tree.

    Attributes:
        bits: Width of a code, 1 to 16; None keeps full precision (float32, an identity).
        clipping: How the threshold α is chosen, a key of `clipping.METHODS`.
        granularity: What shares one α and scale: "per_tensor", "per_channel" (each output
            channel) or "per_group" (`group_size` consecutive inputs of an output channel, counted
            along the flattened fan-in, e.g. height, width, input channel).
        scheme: "symmetric" (2^bits levels mirrored about 0, 0 is not a level; pruned tensors take
            "affine") or "affine" (integer zero point, 0 is a level); see `quantization`.
        group_size: Inputs in a group; must divide the fan-in. Only for "per_group".
        percentile: For clipping "percentile": α is this percentile of `|w|`, in (0, 100].
        num_stds: For clipping "std": α is this many standard deviations, above 0.
        rules: Overrides by path; tensors that no rule matches follow the default: kernels (last key
            "kernel", or where none is called so "weight", or "w"; two axes or more) are quantized,
            all else stays float32. In a tree without such names all of two axes or more are.

    Raises:
        ValueError: A field outside its range or an unknown name; the message gives the nearest.
        TypeError: `rules` holds something that is not a `Rule`.
    """

    bits: int | None
    clipping: str = "none"
    granularity: str = "per_channel"
    scheme: str = "symmetric"
    group_size: int | None = None
    percentile: float = 99.99
    num_stds: float = 3.0
    rules: tuple[Rule, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"rules must hold Rule objects, got {rule!r}.")
        if self.bits is not None:
            object.__setattr__(self, "bits", check_int("bits", self.bits, 1, MAX_BITS))
        if self.group_size is not None:
            check_int("group_size", self.group_size, 1, math.inf)
        choose("clipping method", self.clipping, METHODS)
        choose("granularity", self.granularity, GRANULARITIES)
        choose("scheme", self.scheme, SCHEMES)
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile = {self.percentile} is outside (0, 100].")
        if not 0 < self.num_stds < math.inf:
            raise ValueError(f"num_stds = {self.num_stds} is not positive and finite.")

    def without_width(self) -> "CompressionSpec":
        """What is static of it in a compiled function; the width is an argument of its own."""
        return dataclasses.replace(self, bits=None, group_size=None, rules=())
