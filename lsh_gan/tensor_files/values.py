"""What a file turns into: arrays, plain Python values, and inert stand-ins for everything else."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

_LONGEST_SHOWN = 80  # characters of a text in a message
_MOST_SHOWN = 32  # entries of a tuple in a message or a name
_WIDEST_SHOWN = 256  # bits of an integer in a message: below 80 digits
_LONGEST_NAME = 1024  # characters of an array's dotted name
_MOST_NAME_CHARACTERS = 2**26  # in all names together


class FormatError(ValueError):
    """The file is damaged, hostile, too large, or in no format that is read here."""


class Limits(NamedTuple):
    """What a file may ask for before it is refused."""

    #: Largest file, and most bytes of the arrays of an .npz file once expanded. What other files
    #: build, working copies included, may take up to four times as much.
    num_bytes: int = 2**34
    depth: int = 200  #: deepest nesting of containers
    values: int = 5_000_000  #: most values (pickle operations, tensors, container entries)


DEFAULT_LIMITS = Limits()


@dataclass
class Budget:
    """What one file has used so far, pickles inside of pickles included, and may use in all."""

    limits: Limits  # bounds on what the file may ask for
    num_bytes: int  # most bytes to build from the file, working copies included
    used: int = 0  # bytes built so far
    operations: int = 0  # pickle operations so far
    tuple_keys: int = 0  # dictionary keys so far that are tuples with numbers

    def charge(self, num_bytes: int) -> None:
        """Counts bytes that are built; raises FormatError where they are too many in all."""
        self.used += num_bytes
        if self.used > self.num_bytes:
            raise FormatError(f"expands to more than {self.num_bytes} bytes.")

    def count_operation(self) -> None:
        """Counts a pickle operation; raises FormatError where there are too many in all."""
        self.operations += 1
        if self.operations > self.limits.values:
            raise FormatError(f"holds more than {self.limits.values} pickle operations.")


def shown(value: Any) -> str:
    """A value from a file for a message: short plain values as they are, of others the type.

    The `repr` of a tuple of few bytes can be endless, as its parts may be shared.
    """
    if isinstance(value, int) and value.bit_length() > _WIDEST_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes) and len(value) > _LONGEST_SHOWN:
        return f"{value[:_LONGEST_SHOWN]!r}…"
    plain = value is None or isinstance(value, str | bytes | int | float)
    return repr(value) if plain else type(value).__name__


def shown_parts(values: Any) -> str:
    """Like `shown`, but of a tuple or list also its first parts."""
    if not isinstance(values, tuple | list):
        return shown(values)
    parts = ", ".join(map(shown, values[:_MOST_SHOWN]))
    if len(values) > _MOST_SHOWN:
        return f"({parts}, … {len(values)} in all)"
    return f"({parts},)" if len(values) == 1 else f"({parts})"


@dataclass(eq=False)
class Standin:
    """An object of a class that is not built: its name and what the file stored, nothing run."""

    name: str  #: module and class, as in the file ("training.networks.Generator")
    args: tuple = ()  #: constructor arguments
    kwargs: dict = field(default_factory=dict)  #: constructor keyword arguments
    state: Any = None  #: what the object's state was restored from, usually its `__dict__`
    #: What was appended to it (subclasses of list and set).
    elements: list = field(default_factory=list)
    entries: dict = field(default_factory=dict)  #: what was stored under keys (subclasses of dict)

    @property
    def attributes(self) -> dict[str, Any]:
        """The object's `__dict__`; slots included when the state is a (dict, slots) pair."""
        merged: dict[str, Any] = {}
        for part in self._state_parts():
            merged.update(part)
        return merged

    def attribute(self, name: str) -> Any:
        """One of the `attributes`, without a copy of them all; None if absent."""
        return next((part[name] for part in self._state_parts()[::-1] if name in part), None)

    def _state_parts(self) -> list[dict]:
        parts = self.state[:2] if isinstance(self.state, tuple) else (self.state,)
        return [part for part in parts if isinstance(part, dict)]

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Keyword constructor arguments, as NVIDIA's persistent classes record them."""
        return dict(self.attributes.get("_init_kwargs", {}))


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of a container or stand-in; nothing for a leaf."""
    if isinstance(value, dict):
        return ((_key_name(key), child) for key, child in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ((str(index), child) for index, child in enumerate(value))
    if isinstance(value, Standin):
        fields = ("args", "kwargs", "state", "elements", "entries")
        return ((name, getattr(value, name)) for name in fields)
    return iter(())


def _key_name(key: Any) -> str:
    return key if isinstance(key, str) else shown_parts(key)


def check_depth(root: Any, limits: Limits) -> None:
    """Refuses values that hold themselves or nest deeper than `limits.depth`.

    Every value is entered once, so shared parts cost nothing extra.
    """
    heights: dict[int, int] = {}
    entered: set[int] = set()

    def height(value: Any, depth: int) -> int:
        """Counts the levels below a value that lies at a depth of itself."""
        if id(value) in entered:
            raise FormatError("holds a container that contains itself.")
        levels = heights.get(id(value), 0)
        if depth + levels > limits.depth:
            raise FormatError(f"nests containers deeper than {limits.depth}.")
        if id(value) not in heights:
            entered.add(id(value))
            for _, part in children(value):
                if isinstance(part, _CONTAINERS) and part:
                    levels = max(levels, 1 + height(part, depth + 1))
            entered.discard(id(value))
            heights[id(value)] = levels
        return levels

    height(root, 1)


_CONTAINERS = (dict, list, tuple, set, frozenset, Standin)


def state_dict(value: Any, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, np.ndarray]:
    """Flattens to `{dotted name: array}`, with the names that torch's `state_dict()` gives.

    A stand-in for a torch module gives its parameters, then its persistent buffers, then its
    submodules; containers join keys and indices by dots; other values are left out.

    Args:
        value: What `read` returned, or a part of it.
        limits: Bounds on depth and number of values.

    Raises:
        FormatError: Too deep, too many values (shared parts count each time), or names too long.
    """
    flat: dict[str, np.ndarray] = {}
    # Names are put together for arrays alone: a long key may lie over many other values.
    path: list[str] = []
    visited = characters = 0

    def visit(node: Any) -> None:
        nonlocal visited, characters
        visited += 1
        if visited > limits.values or len(path) > limits.depth:
            raise FormatError(f"holds more than {limits.values} values or {limits.depth} levels.")
        if isinstance(node, np.ndarray):
            name = _dotted(path)
            characters += len(name)
            if characters > _MOST_NAME_CHARACTERS:
                raise FormatError(f"needs names of over {_MOST_NAME_CHARACTERS} characters.")
            flat[name] = node
        elif isinstance(node, _CONTAINERS):
            for name, part in _module_parts(node) if isinstance(node, Standin) else children(node):
                path.append(name)
                visit(part)
                path.pop()

    visit(value)
    return flat


def _dotted(names: list[str]) -> str:
    length = sum(map(len, names)) + len(names) - 1
    if length > _LONGEST_NAME:
        start = ".".join(name[:_LONGEST_SHOWN] for name in names)
        raise FormatError(
            f"names an array {shown(start)} by {length} characters; at most {_LONGEST_NAME}."
        )
    return ".".join(names)


def _module_parts(module: Standin) -> Iterator[tuple[str, Any]]:
    """Parameters, persistent buffers and submodules of a torch module; else entries, elements.

    A network of NVIDIA's TensorFlow code has pairs of names and arrays, and networks as components.
    """
    parameters = module.attribute("_parameters")
    variables = module.attribute("variables")
    if isinstance(variables, list) and isinstance(module.attribute("components"), dict):
        pairs = (pair for pair in variables if isinstance(pair, tuple) and len(pair) == 2)
        # Scalars are NumPy's there, which are read as numbers.
        named = (
            (_key_name(name), np.asarray(v, np.float32) if isinstance(v, float) else v)
            for name, v in pairs
        )
        return chain(named, children(module.attribute("components")))
    if not isinstance(parameters, dict):
        return chain(children(module.entries), children(module.elements))
    hidden = module.attribute("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, set | frozenset) else ()
    buffers = children(module.attribute("_buffers"))
    return chain(
        children(parameters),
        ((name, None if name in hidden else part) for name, part in buffers),
        children(module.attribute("_modules")),
    )
