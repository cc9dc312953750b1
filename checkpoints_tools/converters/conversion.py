"""Fills the variables of a generator from a state dict, and reports whatever does not fit."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from checkpoints_tools.converters.origin import Origin, Plan, Source
from lsh_gan.checkpoints import path_of
from lsh_gan.errors import nearest
from lsh_gan.generators import build
from lsh_gan.generators.generator import abstract_params

_MOST_LISTED = 50


class Converted(NamedTuple):
    """A converted generator.

    Attributes:
        family: Key of `lsh_gan.generators.FAMILIES`.
        options: Attributes of the module.
        variables: Nested dicts of float32 arrays.
        assumed: Settings that the file does not record.
    """

    family: str
    options: dict[str, Any]
    variables: dict[str, Any]
    assumed: dict[str, Any]


def convert_state(
    state: Mapping[str, np.ndarray], source: Source, settings: dict | None = None
) -> Converted:
    """Converts a state dict.

    Args:
        state: Arrays by name, in the layout of the source.
        source: Its kind.
        settings: What the file around it says, where names and shapes do not (see each source).

    Returns:
        The generator's family, options and variables.

    Raises:
        ValueError: Tensors are missing, unexpected (all listed, with the nearest names), of wrong
            shapes, or not finite.
    """
    try:
        plan = source.plan(state, settings or {})
        module = build(plan.family, plan.options)
        abstract = abstract_params(module)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"not a complete {source.name} generator: tensor {error.args[0]} is missing"
        ) from error
    except (TypeError, ArithmeticError, AttributeError) as error:
        raise ValueError(
            f"no {source.name} generator has tensors of such shapes and such settings ({error})"
        ) from error
    leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
    paths = [path_of(keys) for keys, _ in leaves]
    origins = {path: plan.origin(path) for path in paths}
    _check_names(state, plan, origins)
    arrays, problems = [], []
    for path, (_, leaf) in zip(paths, leaves, strict=True):
        array, problem = _array(state, path, origins[path], leaf.shape)
        arrays.append(array)
        problems += problem
    if problems:
        raise ValueError("; ".join(problems[:_MOST_LISTED]))
    variables = jax.tree_util.tree_unflatten(treedef, arrays)
    return Converted(plan.family, plan.options, variables, plan.assumed)


def _check_names(state, plan: Plan, origins: dict[str, Origin]) -> None:
    wanted = {name for origin in origins.values() for name in origin.names}
    missing = sorted(wanted - state.keys())
    ignored = re.compile(plan.ignored)
    extra = [name for name in state if name not in wanted and not ignored.fullmatch(name)]
    problems = []
    if missing:
        near = [f"{name} (nearest: {nearest(name, extra or state)})" for name in missing]
        problems.append(f"missing tensors: {_listed(near)}")
    if extra:
        near = [f"{name} (nearest: {nearest(name, missing or wanted)})" for name in extra]
        problems.append(f"unexpected tensors: {_listed(near)}")
    if problems:
        raise ValueError("; ".join(problems))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


def _array(state, path: str, origin: Origin, shape: tuple) -> tuple[np.ndarray, list[str]]:
    parts = [np.asarray(state[name]) for name in origin.names]
    what = ", ".join(f"{n} {p.shape}" for n, p in zip(origin.names, parts, strict=True))
    try:
        array = origin.function(*(part.astype(np.float32) for part in parts))
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        return parts[0], [f"{what} cannot become {path} {shape} ({error})"]
    if array.shape != shape:
        return array, [f"{what} gives {path} the shape {array.shape}; expected {shape}"]
    if not np.isfinite(array).all():
        return array, [f"{what}: NaN or Inf"]
    return np.asarray(array, np.float32, order="C"), []
