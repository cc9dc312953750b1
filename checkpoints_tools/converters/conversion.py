"""Fills the variables of a generator from a state dict, and reports everything that is wrong."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from checkpoints_tools.converters.origin import Origin, Plan, Source, is_counter
from lsh_gan.compression.rules import join, path_of
from lsh_gan.errors import few, nearest
from lsh_gan.generators import build
from lsh_gan.generators.generator import trace

_MOST_LISTED = 50
_TRACKED = "num_batches_tracked"


class Converted(NamedTuple):
    """A converted generator."""

    family: str  # key of `lsh_gan.generators.FAMILIES`
    options: dict[str, Any]  # attributes of the module
    variables: dict[str, Any]  # nested dicts of float32 arrays
    # Settings that the file does not record, with the usual values that were assumed.
    assumed: dict[str, Any]
    left_out: tuple[str, ...]  # names of counters, which do not affect images


def convert_state(
    state: Mapping[str, np.ndarray], source: Source, settings: dict | None = None
) -> Converted:
    """Converts a state dict.

    Args:
        state: Arrays by name, in the layout of the source.
        source: The kind of checkpoint.
        settings: Settings that names and shapes do not show (see each source): recorded or given.

    Returns:
        The generator's family, options and variables.

    Raises:
        ValueError: Tensors are missing, unexpected (all listed, with the nearest names), of wrong
            shapes, or not finite; a setting is unknown or not supported; or images are not square,
            or neither grey nor in colour.
    """
    given = settings or {}
    try:
        assumed = source.settings(state)
        _check_settings(source, given, assumed)
        plan = source.plan(state, {**assumed, **given})
        module = build(plan.family, plan.options)
        images, abstract = trace(module)
        leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
        paths = [join(path_of(keys)) for keys, _ in leaves]
        origins = {path: plan.origin(path) for path in paths}
    except KeyError as error:
        raise ValueError(
            f"not a complete {source.name} generator: tensor {error.args[0]} is missing"
        ) from error
    except (IndexError, TypeError, ArithmeticError, AttributeError) as error:
        raise ValueError(
            f"no {source.name} generator has tensors of such shapes and such settings ({error})"
        ) from error
    _check_images(images.shape)
    _check_names(state, plan, origins)
    arrays, problems = [], []
    for path, (_, leaf) in zip(paths, leaves, strict=True):
        try:
            arrays.append(_array(state, path, origins[path], leaf.shape))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems[:_MOST_LISTED]))
    variables = jax.tree_util.tree_unflatten(treedef, arrays)
    assumed = {name: value for name, value in assumed.items() if name not in given}
    counters = [n for n, a in state.items() if is_counter(a) and not n.endswith(_TRACKED)]
    return Converted(plan.family, plan.options, variables, assumed, tuple(counters))


def _check_settings(source: Source, given: dict[str, Any], usual: dict[str, Any]) -> None:
    for name, value in given.items():
        if name not in usual:
            hint = f"did you mean {nearest(name, usual)!r}?" if usual else "it records all."
            raise ValueError(
                f"source {source.name!r} has no setting {name!r} that the file lacks; {hint}"
            )
        plain = list(value) if isinstance(value, tuple) else value
        if name in source.only and plain != usual[name]:
            raise ValueError(f"{name} is {value!r}; only {usual[name]!r} is supported")


def _check_images(shape: tuple[int, ...]) -> None:
    if len(shape) != 4 or shape[1] != shape[2]:
        sides = "×".join(map(str, shape[1:3]))
        raise ValueError(f"images of {sides} pixels; only square ones are supported")
    if shape[3] not in (1, 3):
        alpha = " (RGBA, with alpha?)" if shape[3] == 4 else ""
        raise ValueError(
            f"images of {shape[3]} channels{alpha}; only grey (1) and colour (3) are supported"
        )


def _check_names(state, plan: Plan, origins: dict[str, Origin]) -> None:
    wanted = {name for origin in origins.values() for name in origin.names}
    missing = sorted(wanted - state.keys())
    ignored = re.compile(plan.ignored)
    extra = [
        name
        for name, array in state.items()
        if name not in wanted
        and not (ignored.fullmatch(name) or is_counter(array) or name.endswith(_TRACKED))
    ]
    problems = []
    if missing:
        near = [f"{name} (nearest: {nearest(name, extra or state)})" for name in missing]
        problems.append(f"missing tensors: {few(near, _MOST_LISTED)}")
    if extra:
        near = [f"{name} (nearest: {nearest(name, missing or wanted)})" for name in extra]
        problems.append(f"unexpected tensors: {few(near, _MOST_LISTED)}")
    if problems:
        raise ValueError("; ".join(problems))


def _array(state, path: str, origin: Origin, shape: tuple) -> np.ndarray:
    parts = [np.asarray(state[name]) for name in origin.names]
    what = ", ".join(f"{n} {p.shape}" for n, p in zip(origin.names, parts, strict=True))
    try:
        array = origin.function(*(part.astype(np.float32) for part in parts))
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise ValueError(f"{what} cannot become {path} {shape} ({error})") from error
    if array.shape != shape:
        raise ValueError(f"{what} gives {path} the shape {array.shape}; expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: NaN or Inf")
    return np.asarray(array, np.float32, order="C")
