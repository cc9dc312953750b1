"""What a file is read into: arrays, plain Python values, and inert stand-ins for all else."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

_DEEPEST = 200  # nesting of containers
_MOST_VALUES = 5_000_000


class FormatError(ValueError):
    """The file is damaged, malicious, or in a format that is not read here."""


@dataclass(eq=False)
class Standin:
    """Replaces an object whose class is never run: the name of the class and the stored data."""

    name: str  #: module and class, as in the file ("training.networks.Generator")
    args: tuple = ()  #: constructor arguments
    kwargs: dict = field(default_factory=dict)  #: constructor keyword arguments
    #: The stored state of the object, usually its `__dict__`.
    state: Any = field(default=None, repr=False)
    #: Elements that were appended (subclasses of list and set).
    elements: list = field(default_factory=list, repr=False)
    #: Values that were stored under keys (subclasses of dict).
    entries: dict = field(default_factory=dict, repr=False)

    def append(self, element: Any) -> None:
        """Appends an element, as the pickle requests."""
        self.elements.append(element)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    @property
    def attributes(self) -> dict[str, Any]:
        """The object's `__dict__`, and its slots if the state is a (dict, slots) pair."""
        parts = self.state[:2] if isinstance(self.state, tuple) else (self.state,)
        return dict(chain(*(part.items() for part in parts if isinstance(part, dict))))

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Keyword constructor arguments, as NVIDIA's persistent classes record them."""
        return dict(self.attributes.get("_init_kwargs", {}))


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the named parts of a container; nothing for a leaf."""
    if isinstance(value, dict):
        return ((str(key), child) for key, child in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ((str(index), child) for index, child in enumerate(value))
    return iter(())


def state_dict(value: Any) -> dict[str, np.ndarray]:
    """Flattens the result of `read`, or a part of it, to `{dotted name: array}`.

    Names are those of torch's `state_dict()`: a stand-in for a torch module gives its parameters,
    then its persistent buffers, then its submodules. One for another object gives what it contains
    and its attributes, once. Keys and indices of containers are joined by dots. Other values are
    left out. Raises FormatError for a container that contains itself, or millions of values.
    """
    flat: dict[str, np.ndarray] = {}
    objects: set[int] = set()
    visited = 0

    def visit(node: Any, path: tuple[str, ...]) -> None:
        nonlocal visited
        visited += 1
        if visited > _MOST_VALUES or len(path) > _DEEPEST:
            raise FormatError(f"holds more than {_MOST_VALUES} values or {_DEEPEST} levels.")
        if isinstance(node, np.ndarray):
            flat[".".join(path)] = node
        parts = _module_parts(node, objects) if isinstance(node, Standin) else children(node)
        for name, part in parts:
            visit(part, (*path, name))

    visit(value, ())
    return flat


def _module_parts(module: Standin, objects: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields parameters, persistent buffers and submodules of a torch module, or stored values.

    Other objects may refer to each other: those in `objects` give no attributes again.
    A network of NVIDIA's TensorFlow code has (name, array) pairs, and networks as components.
    """
    get = module.attributes.get
    variables, components = get("variables"), get("components")
    if isinstance(variables, list) and isinstance(components, dict):
        pairs = (pair for pair in variables if isinstance(pair, tuple) and len(pair) == 2)
        # Scalars there are NumPy scalars, which are read as Python numbers.
        named = (
            (str(name), np.asarray(v, np.float32) if isinstance(v, float) else v)
            for name, v in pairs
        )
        return chain(named, children(components))
    if not isinstance(get("_parameters"), dict):
        attributes = {} if id(module) in objects else module.attributes
        objects.add(id(module))
        return chain(*map(children, (module.entries, module.elements, attributes)))
    hidden = get("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, set | frozenset) else ()
    buffers = (pair for pair in children(get("_buffers")) if pair[0] not in hidden)
    return chain(children(get("_parameters")), buffers, children(get("_modules")))
