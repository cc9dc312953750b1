"""How each tensor is compressed: the frozen specification, and its rules applied to a tree."""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from lsh_gan import devices
from lsh_gan.compression.clipping import METHODS
from lsh_gan.compression.quantization import fan_in
from lsh_gan.errors import check_int, choose, few, nearest

Params = Any  # a tree of arrays; Flax variables are nested dicts
# Equinox and torch have output channels first, under this name; state dicts join names by dots.
OUTPUTS_FIRST = r"(.*[/.])?weight(_orig)?"
# Names of kernels in Flax, in Equinox and torch, and in Haiku.
KERNELS = (r"(.*[/.])?kernel", OUTPUTS_FIRST, r"(.*[/.])?w")
PRUNED = 0.1  # from this share of exact zeros on, a grid with a level at 0 loses less
MAX_BITS = 16
GRANULARITIES = dict.fromkeys(("per_tensor", "per_channel", "per_group"))
SCHEMES = dict.fromkeys(("symmetric", "affine"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Overrides the specification for the tensors whose path matches a pattern.

    Rules are tried in order and the first match wins.

    Raises:
        ValueError: A malformed pattern, a width outside 1..16, an unknown name, or `skip` together
            with another field.
    """

    #: Regular expression that matches the whole path, keys joined by "/" ("params/Conv_0/kernel").
    pattern: str
    bits: int | None = None  #: replaces the field of `CompressionSpec`; None keeps it
    clipping: str | None = None  #: likewise
    granularity: str | None = None  #: likewise
    scheme: str | None = None  #: likewise
    group_size: int | None = None  #: likewise
    skip: bool = False  #: leave the tensor in float32

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
        """Returns the fields of `CompressionSpec` that this rule replaces."""
        fields = ("bits", "clipping", "granularity", "scheme", "group_size")
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressionSpec:
    """One post-training compression of a parameter tree.

    Raises:
        ValueError: A field outside its range, or an unknown name (the message suggests the
            nearest).
        TypeError: `rules` holds something that is not a `Rule`.
    """

    bits: int | None  #: width of a code, 1 to 16; None keeps full precision (an identity)
    clipping: str = "none"  #: how the threshold α is chosen, a key of `clipping.METHODS`
    #: Which values share one α and scale: "per_tensor", "per_channel" (those of an output channel)
    #: or "per_group" (`group_size` consecutive inputs of an output channel, counted along the
    #: flattened fan-in, e.g. height, width, input channel).
    granularity: str = "per_channel"
    #: "symmetric" (2^bits levels symmetric about 0, without 0; pruned tensors get "affine") or
    #: "affine" (integer zero point, 0 is a level); see `quantization`.
    scheme: str = "symmetric"
    group_size: int | None = None  #: inputs per group, for "per_group"; must divide the fan-in
    percentile: float = 99.99  #: of `|w|`, in (0, 100]: α of clipping "percentile"
    num_stds: float = 3.0  #: standard deviations, above 0: α of clipping "std"
    #: Overrides by path. Without a matching rule, kernels are quantized and other tensors stay
    #: float32. Kernels are the tensors of two axes or more whose last name is "kernel", or, in a
    #: tree without such, "weight", or "w"; in a tree without such names, all of two axes or more.
    rules: tuple[Rule, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise TypeError(
                    f"rules must hold Rule objects, such as Rule(pattern='.*kernel', bits=8), got "
                    f"{rule!r}."
                )
        if self.bits is not None:
            object.__setattr__(self, "bits", check_int("bits", self.bits, 1, MAX_BITS))
        if self.group_size is not None:
            group_size = check_int("group_size", self.group_size, 1, math.inf)
            object.__setattr__(self, "group_size", group_size)
        choose("clipping method", self.clipping, METHODS)
        choose("granularity", self.granularity, GRANULARITIES)
        choose("scheme", self.scheme, SCHEMES)
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile = {self.percentile} is outside (0, 100].")
        if not 0 < self.num_stds < math.inf:
            raise ValueError(f"num_stds = {self.num_stds} is not positive and finite.")


class TensorPlan(NamedTuple):
    """How one tensor is compressed."""

    path: tuple[str, ...]  # keys from the root
    spec: CompressionSpec  # without rules; with `bits=None` the tensor stays float32
    channel_axis: int  # output axis, counted from 0
    rule: str  # pattern that matched, or "default"
    pruned: float = 0.0  # as in `TensorReport`


def join(path: tuple[str, ...]) -> str:
    """Joins a path to the name that patterns match."""
    return "/".join(path)


def flatten(params: Params) -> tuple[list[tuple[tuple[str, ...], jax.Array]], Any]:
    """Checks a tree; returns (path, float32 array) of each leaf, and the tree definition."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    if not leaves:
        raise ValueError("the parameter tree holds no floating arrays.")
    if jax.tree_util.treedef_is_leaf(treedef):
        raise TypeError("the parameters are one array or object; expected a tree of arrays.")
    return [(path_of(keys), _leaf(join(path_of(keys)), leaf)) for keys, leaf in leaves], treedef


def path_of(keys: tuple) -> tuple[str, ...]:
    """Returns the names along a key path of `jax.tree_util`: keys, attributes, list indices."""
    names = tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)
    # NNX variables hold their array in an attribute of this name.
    of_variable = len(keys) > 1 and keys[-1] == jax.tree_util.GetAttrKey("value")
    return names[:-1] if of_variable else names


def compare_shapes(found: Params, expected: Params, *, source: str) -> None:
    """Raises ValueError if shapes differ, with path and both shapes of the first such tensor."""
    found, expected = (
        {path_of(keys): tuple(leaf.shape) for keys, leaf in jax.tree_util.tree_leaves_with_path(t)}
        for t in (found, expected)
    )
    for path in sorted(found.keys() | expected.keys()):
        if found.get(path) != expected.get(path):
            has, wants = found.get(path, "nothing"), expected.get(path, "nothing")
            raise ValueError(f"{source}: tensor {join(path)} has shape {has}; expected {wants}")


def _leaf(name: str, leaf: Any) -> jax.Array:
    dtype = getattr(leaf, "dtype", None)
    of_torch = hasattr(leaf, "detach")  # NumPy does not know the dtypes of torch
    if dtype is None or of_torch or not jnp.issubdtype(dtype, jnp.floating):
        found = dtype if dtype is not None else type(leaf).__name__
        raise TypeError(f"{name}: expected a floating-point array of NumPy or JAX, got {found}.")
    if leaf.size == 0:
        raise ValueError(f"{name}: the array of shape {tuple(leaf.shape)} is empty.")
    leaf = devices.gathered(jnp.asarray(leaf, jnp.float32))
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    finite = np.isfinite(np.asarray(leaf))
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name}: NaN or Inf at {index} ({(~finite).sum()} in all).")
    return leaf


def are_kernels(leaves: list[tuple[tuple[str, ...], jax.Array]]) -> list[bool]:
    """Finds arrays of two axes or more whose name is the first of `KERNELS` that occurs, or all."""
    for pattern in KERNELS:
        found = [leaf.ndim >= 2 and bool(re.fullmatch(pattern, join(p))) for p, leaf in leaves]
        if any(found):
            return found
    return [leaf.ndim >= 2 for _, leaf in leaves]


def resolve(
    names: list[str], spec: CompressionSpec, defaults: list[bool]
) -> list[tuple[CompressionSpec, str]]:
    """Returns, for each name, its specification without rules, and the pattern that decided.

    The first rule whose pattern matches the whole name decides. Without one, `spec` applies if the
    name's default is True, else the tensor stays float32. An unused rule is a ValueError.
    """
    plain = dataclasses.replace(spec, rules=())
    untouched = dataclasses.replace(plain, bits=None)
    unused = dict.fromkeys(spec.rules)
    resolved = []
    for name, default in zip(names, defaults, strict=True):
        rule = next((rule for rule in spec.rules if re.fullmatch(rule.pattern, name)), None)
        if rule is None:
            resolved.append((plain if default else untouched, "default"))
            continue
        changes = {"bits": None} if rule.skip else rule.overrides()
        if changes.get("granularity", "per_group") != "per_group":
            changes = {"group_size": None, **changes}
        unused.pop(rule, None)
        resolved.append((dataclasses.replace(plain, **changes), rule.pattern))
    for rule in unused:
        if any(re.fullmatch(rule.pattern, name) for name in names):
            raise ValueError(f"rule {rule.pattern!r} is never used: earlier rules match first.")
        raise ValueError(
            f"rule {rule.pattern!r} matches nothing (a pattern must match the whole path);"
            f" the nearest path is {nearest(rule.pattern, names)!r}."
        )
    return resolved


def log_rules(name: str, plans: list[TensorPlan], patterns: list[str]) -> None:
    """Logs which tensors of `name` each pattern applies to, and which are pruned."""
    for pattern in dict.fromkeys(patterns):
        matched = [join(plan.path) for plan in plans if plan.rule == pattern]
        logging.info("%s: rule %r applies to %s", name, pattern, few(matched))
    if pruned := [f"{join(plan.path)} ({plan.pruned:.0%} zeros)" for plan in plans if plan.pruned]:
        logging.warning("%s is pruned: grids are affine, which keeps 0, of %s", name, few(pruned))


def check_axes(names: Collection[str], channel_axes: Mapping[str, int]) -> None:
    """Raises ValueError if a pattern of channel axes matches no path."""
    for pattern in channel_axes:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(
                f"channel_axes: {pattern!r} matches no path; the nearest is "
                f"{nearest(pattern, names)!r}"
            )


def declared_axis(name: str, channel_axes: Mapping[str, int]) -> int:
    """Returns the axis of the first pattern that matches the whole name, or else the usual one."""
    axes = (axis for pattern, axis in channel_axes.items() if re.fullmatch(pattern, name))
    return next(axes, 0 if re.fullmatch(OUTPUTS_FIRST, name) else -1)


def _check_granularity(name: str, leaf: jax.Array, plan: TensorPlan) -> None:
    spec, size = plan.spec, plan.spec.group_size
    if spec.bits is None:
        return
    if (spec.granularity == "per_group") != (size is not None):
        raise ValueError(
            f"{name}: granularity is {spec.granularity!r} and group_size is {size}; expected"
            " 'per_group' and a size, or neither."
        )
    if leaf.ndim < 2 and spec.granularity != "per_tensor":
        raise ValueError(
            f"{name}: granularity {spec.granularity!r} needs two axes or more, the shape is"
            f" {leaf.shape}; use 'per_tensor'."
        )
    inputs = fan_in(leaf.shape, plan.channel_axis)
    if size is not None and inputs % size:
        divisors = (d for d in range(1, inputs + 1) if inputs % d == 0)
        close = min(divisors, key=lambda d: abs(d - size))
        raise ValueError(
            f"{name}: group_size = {size} does not divide its {inputs} inputs; the nearest size"
            f" that does is {close}."
        )


def plan_tensors(
    leaves: list[tuple[tuple[str, ...], jax.Array]],
    spec: CompressionSpec,
    channel_axes: Mapping[str, int] | None,
) -> list[TensorPlan]:
    """Resolves rules and channel axes for every tensor.

    A tensor with a share of `PRUNED` or more exact zeros gets "affine" instead of "symmetric", at
    every width, unless a rule sets "symmetric". Raises as `compress` does.
    """
    names = [join(path) for path, _ in leaves]
    check_axes(names, channel_axes or {})
    resolved = resolve(names, spec, are_kernels(leaves))
    chosen = {rule.pattern for rule in spec.rules if rule.scheme is not None}
    plans = []
    for name, (path, leaf), (own_spec, rule) in zip(names, leaves, resolved, strict=True):
        axis, ndim = declared_axis(name, channel_axes or {}), leaf.ndim
        if ndim >= 2 and not -ndim <= axis < ndim:
            raise ValueError(f"{name}: channel axis {axis} is declared for an array of {ndim} axes")
        plan = TensorPlan(path, own_spec, axis % max(ndim, 1), rule)
        has_values = not isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer)
        symmetric = own_spec.bits is not None and own_spec.scheme == "symmetric"
        if symmetric and rule not in chosen and has_values:
            zeros = float(np.mean(np.asarray(leaf) == 0))
            if zeros >= PRUNED:
                affine = dataclasses.replace(own_spec, scheme="affine")
                plan = plan._replace(spec=affine, pruned=zeros)
        _check_granularity(name, leaf, plan)
        plans.append(plan)
    if spec.bits is not None and all(plan.spec.bits is None for plan in plans):
        raise ValueError(
            f"bits = {spec.bits} but no tensor would be quantized: none of the {len(names)} paths"
            f" (such as {names[0]!r}) has two axes or matches a rule that sets bits."
        )
    return plans


def isolate(plans: list[TensorPlan]) -> dict[str, CompressionSpec]:
    """Returns, for each compressed tensor by path, the spec that compresses only this tensor."""
    rest = (Rule(pattern=".*", skip=True),) if len(plans) > 1 else ()
    found = {}
    for plan in (plan for plan in plans if plan.spec.bits is not None):
        scheme = None if plan.rule == "default" else plan.spec.scheme  # also if pruned
        rule = Rule(pattern=re.escape(join(plan.path)), scheme=scheme)
        found[join(plan.path)] = dataclasses.replace(plan.spec, rules=(rule, *rest))
    return found
