"""A pickle interpreter that builds values and calls nothing the file names.

The standard unpickler imports and calls whatever the file says. This one walks the operations
itself: a global is only a name, and calling it looks the name up in a table of our own functions
(`objects.CONSTRUCTORS`). Names of the standard library outside the table are refused; other names
give an inert `Standin`. Format: the docstrings of the standard library's `pickletools`.
"""

import pickletools
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lsh_gan.tensor_files import objects
from lsh_gan.tensor_files.values import Budget, FormatError, Standin

DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    EOFError,
    MemoryError,
    RecursionError,
    struct.error,
)  # what parsing damaged bytes may raise; reported as FormatError

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_IGNORED = {"PROTO", "FRAME", "READONLY_BUFFER"}
_KEYS = (str, bytes, int, float, bool, type(None), Standin)
_MOST_KEY_PARTS = 32
_MOST_TUPLE_KEYS = 10_000  # with numbers: such tuples can be chosen to have all the same hash
_OLD_STANDARD_LIBRARY = {
    "__builtin__",
    "cPickle",
    "commands",
    "copy_reg",
    "exceptions",
    "imp",
    "distutils",
    "pipes",
}
_FUNCTION_PACKAGES = {"numpy", "torch"}  # lower-case names there are functions, not classes


class Global(Standin):
    """A class or function that the file names and that is not called (yet)."""


def load(
    stream: Any,
    *,
    extra_constructors: Mapping[str, Callable] | None = None,
    persistent_load: Callable[[Any], Any] | None = None,
    budget: Budget,
) -> Any:
    """Reads one pickle and leaves the stream behind its last byte.

    Args:
        stream: Binary file, with `read`, `readline` and `tell`.
        extra_constructors: Functions that stand for globals, besides `objects.CONSTRUCTORS`.
        persistent_load: Turns a persistent id into a value; None refuses persistent ids.
        budget: What the file may ask for, shared by all of its pickles.

    Returns:
        The value.

    Raises:
        FormatError: Damaged, or names something that is refused.
    """
    constructors = {**objects.CONSTRUCTORS, **(extra_constructors or {})}
    machine = _Machine(constructors, persistent_load, budget)
    position = 0
    try:
        for opcode, argument, where in pickletools.genops(stream):
            position = where
            budget.count_operation()
            machine.step(opcode.name, argument)
        return machine.result
    except FormatError:
        raise
    except DAMAGED as error:
        raise FormatError(f"damaged pickle near byte {position}: {error}") from error


class _Machine:
    """The stack machine; a method for each operation that does more than push its argument."""

    def __init__(self, constructors, persistent_load, budget):
        self.constructors = constructors
        self.persistent_load = persistent_load
        self.budget = budget
        self.stack: list = []
        self.outer: list[list] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def step(self, name: str, argument: Any) -> None:
        method = getattr(self, f"op_{name.lower()}", None)
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _IGNORED:
            pass
        elif method is not None:
            method(argument)
        elif name in _PUSHED:
            self.stack.append(argument)
        else:
            raise FormatError(f"uses the pickle operation {name}, which is not supported.")

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.outer.pop()
        return items

    # Stack and memo.
    def op_mark(self, _):
        self.outer.append(self.stack)
        self.stack = []

    def op_pop(self, _):
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def op_pop_mark(self, _):
        self.since_mark()

    def op_dup(self, _):
        self.stack.append(self.stack[-1])

    def op_put(self, index):
        self.memo[index] = self.stack[-1]

    op_binput = op_long_binput = op_put

    def op_memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def op_get(self, index):
        self.stack.append(self.memo[index])

    op_binget = op_long_binget = op_get

    def op_stop(self, _):
        if len(self.stack) != 1 or self.outer:
            raise FormatError("damaged pickle: it does not end with one value.")
        self.result = self.stack.pop()

    # Containers.
    def op_empty_list(self, _):
        self.stack.append([])

    def op_empty_dict(self, _):
        self.stack.append({})

    def op_empty_set(self, _):
        self.stack.append(set())

    def op_list(self, _):
        items = self.since_mark()
        self.stack.append(items)

    def op_tuple(self, _):
        items = self.since_mark()
        self.stack.append(tuple(items))

    def op_frozenset(self, _):
        items = self.since_mark()
        self.stack.append(frozenset(self.key(item) for item in items))

    def op_dict(self, _):
        items = self.since_mark()
        self.stack.append({})
        self.set_entries(items)

    def op_tuple1(self, _):
        self.stack[-1:] = [(self.stack[-1],)]

    def op_tuple2(self, _):
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def op_tuple3(self, _):
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def op_append(self, _):
        self.extend([self.stack.pop()])

    def op_appends(self, _):
        self.extend(self.since_mark())

    op_additems = op_appends

    def op_setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_entries([key, value])

    def op_setitems(self, _):
        self.set_entries(self.since_mark())

    def extend(self, items):
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(self.key(item) for item in items)
        elif isinstance(target, list | Standin):
            elements = target if isinstance(target, list) else target.elements
            elements.extend(items)
        else:
            raise FormatError(f"appends to a {type(target).__name__}.")

    def set_entries(self, items):
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Standin) else target
        if not isinstance(entries, dict) or len(items) % 2:
            raise FormatError(f"stores entries in a {type(target).__name__}.")
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[self.key(key)] = value

    def key(self, value):
        """Checks a dictionary key or set element: hashing must be fast and compare no arrays."""
        flat = value if isinstance(value, tuple) else (value,)
        if len(flat) > _MOST_KEY_PARTS:
            raise FormatError(f"uses a tuple of {len(flat)} parts as a dictionary key.")
        for part in flat:
            if not isinstance(part, _KEYS):
                raise FormatError(f"uses a {type(part).__name__} as (part of) a dictionary key.")
            objects.check_key(part)
        if isinstance(value, tuple) and not all(isinstance(part, str | bytes) for part in value):
            self.budget.tuple_keys += 1
            if self.budget.tuple_keys > _MOST_TUPLE_KEYS:
                raise FormatError(f"uses more than {_MOST_TUPLE_KEYS} tuples as dictionary keys.")
        return value

    # Globals, and what calls them.
    def push_global(self, module: str, name: str):
        if not isinstance(module, str) or not isinstance(name, str):
            raise FormatError("names a global by something that is not a string.")
        self.budget.charge(len(module) + len(name))
        full_name = f"{module}.{name}"
        root = module.partition(".")[0]
        standard = root in sys.stdlib_module_names or root in _OLD_STANDARD_LIBRARY
        if standard and full_name not in self.constructors:
            raise FormatError(f"refused: it names {full_name}, which could run code.")
        self.stack.append(Global(full_name))

    def op_global(self, argument):
        self.push_global(*argument.split(" ", 1))

    def op_stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self.push_global(module, name)

    def call(self, function, args, kwargs=None):
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise FormatError("calls a value that is not a class.")
        if function.name in self.constructors:
            value = self.constructors[function.name](*args, **(kwargs or {}))
            # Arguments that are worked on count even where the result is small or a view of them.
            self.budget.charge(max(map(sys.getsizeof, (value, *args))))
            return value
        module, _, name = function.name.rpartition(".")
        if module.partition(".")[0] in _FUNCTION_PACKAGES and not name.lstrip("_")[:1].isupper():
            raise FormatError(f"refused: it calls {function.name}, which is not on the list.")
        return Standin(function.name, args, kwargs or {})

    def op_reduce(self, _):
        args, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, args))

    op_newobj = op_reduce

    def op_newobj_ex(self, _):
        kwargs, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
            raise FormatError("calls a class with keywords that are not strings.")
        self.stack.append(self.call(function, args, kwargs))

    def op_obj(self, _):
        function, *args = self.since_mark()
        self.stack.append(self.call(function, tuple(args)))

    def op_inst(self, argument):
        args = tuple(self.since_mark())
        self.push_global(*argument.split(" ", 1))
        self.stack.append(self.call(self.stack.pop(), args))

    def op_build(self, _):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Standin):
            target.state = state
        elif isinstance(target, np.ndarray):
            objects.set_array_state(target, state)
            self.budget.charge(target.nbytes)
        elif not isinstance(target, dict):  # attributes of an OrderedDict, such as _metadata
            raise FormatError(f"sets the state of a {type(target).__name__}.")

    def op_binpersid(self, _):
        if self.persistent_load is None:
            raise FormatError("refers to data outside of the pickle.")
        self.stack.append(self.persistent_load(self.stack.pop()))


_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
