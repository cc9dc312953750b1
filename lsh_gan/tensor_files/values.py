"""What a file turns into: arrays, plain Python values, and inert stand-ins for everything else."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class FormatError(ValueError):
    """The file is damaged, hostile, too large, or in no format that is read here."""


class Limits(NamedTuple):
    """What a file may ask for before it is refused.

    Attributes:
        num_bytes: Largest file, and largest single array once expanded.
        depth: Deepest nesting of containers.
        values: Most values (pickle operations, tensors, container entries).
    """

    num_bytes: int = 2**34
    depth: int = 200
    values: int = 5_000_000


DEFAULT_LIMITS = Limits()


@dataclass(eq=False)
class Standin:
    """An object of a class that is not built: its name and what the file stored, nothing run.

    Attributes:
        name: Module and class, as in the file ("training.networks.Generator").
        args: Constructor arguments.
        kwargs: Constructor keyword arguments.
        state: What the object's state was restored from, usually its `__dict__`.
        elements: What was appended to it (subclasses of list and set).
        entries: What was stored under keys (subclasses of dict).
    """

    name: str
    args: tuple = ()
    kwargs: dict = field(default_factory=dict)
    state: Any = None
    elements: list = field(default_factory=list)
    entries: dict = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, Any]:
        """The object's `__dict__`; slots included when the state is a (dict, slots) pair."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        merged: dict[str, Any] = {}
        for part in parts:
            if isinstance(part, dict):
                merged.update(part)
        return merged

    @property
    def init_args(self) -> tuple:
        """Positional constructor arguments, as NVIDIA's persistent classes record them."""
        return tuple(self.attributes.get("_init_args", ()))

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Keyword constructor arguments, as NVIDIA's persistent classes record them."""
        return dict(self.attributes.get("_init_kwargs", {}))


def children(value: Any) -> list[tuple[str, Any]]:
    """The named parts of a container or stand-in; nothing for a leaf."""
    if isinstance(value, dict):
        return [(str(key), child) for key, child in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(str(index), child) for index, child in enumerate(value)]
    if isinstance(value, Standin):
        named = (("args", value.args), ("kwargs", value.kwargs), ("state", value.state))
        grown = (("elements", value.elements), ("entries", value.entries))
        return [(name, child) for name, child in (*named, *grown) if not _is_nothing(child)]
    return []


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, dict | list | tuple) and not value)


def check_depth(root: Any, limits: Limits) -> None:
    """Refuses values that hold themselves or nest deeper than `limits.depth`.

    Every value is entered once, so shared parts cost nothing extra.

    Raises:
        FormatError: Too deep, or cyclic.
    """
    heights: dict[int, int] = {}
    entered = {id(root)}
    stack: list[tuple[Any, Iterator[Any], int]] = [(root, _parts(root), 0)]
    while stack:
        value, parts, height = stack.pop()
        for part in parts:
            if id(part) in heights:
                height = max(height, heights[id(part)] + 1)
                continue
            if id(part) in entered:
                raise FormatError("holds a container that contains itself.")
            stack += [(value, parts, height), (part, _parts(part), 0)]
            entered.add(id(part))
            break
        else:
            heights[id(value)] = height
            entered.discard(id(value))
            if stack:
                parent, rest, parent_height = stack.pop()
                stack.append((parent, rest, max(parent_height, height + 1)))
        if max(len(stack), height) > limits.depth:
            raise FormatError(f"nests containers deeper than {limits.depth}.")


def _parts(value: Any) -> Iterator[Any]:
    return (part for _, part in children(value) if isinstance(part, _CONTAINERS) and part)


_CONTAINERS = (dict, list, tuple, set, frozenset, Standin)


def state_dict(value: Any, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, np.ndarray]:
    """Flattens to `{dotted name: array}`, with the names that torch's `state_dict()` gives.

    A stand-in for a torch module gives its parameters, then its persistent buffers, then its
    submodules; containers join keys and indices by dots; other values are left out.

    Args:
        value: What `read` returned, or a part of it.
        limits: Bounds on depth and number of values.

    Raises:
        FormatError: Too deep, or too many values (shared parts count each time).
    """
    flat: dict[str, np.ndarray] = {}
    stack = [("", value, 0)]
    visited = 0
    while stack:
        prefix, node, depth = stack.pop()
        visited += 1
        if visited > limits.values or depth > limits.depth:
            raise FormatError(f"holds more than {limits.values} values or {limits.depth} levels.")
        if isinstance(node, np.ndarray):
            flat[prefix.removesuffix(".")] = node
            continue
        parts = _module_parts(node) if isinstance(node, Standin) else children(node)
        stack += [(f"{prefix}{name}.", part, depth + 1) for name, part in reversed(parts)]
    return flat


def _module_parts(module: Standin) -> list[tuple[str, Any]]:
    """Parameters, persistent buffers and submodules of a torch module; else entries, elements."""
    attributes = module.attributes
    if not isinstance(attributes.get("_parameters"), dict):
        return children(module.entries) + children(module.elements)
    hidden = attributes.get("_non_persistent_buffers_set", ())
    hidden = hidden if isinstance(hidden, set | frozenset) else ()
    buffers = children(attributes.get("_buffers"))
    return (
        children(attributes["_parameters"])
        + [(name, part) for name, part in buffers if name not in hidden]
        + children(attributes.get("_modules"))
    )
