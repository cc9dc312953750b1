"""An unpickler that builds values and calls nothing the file names.

A global is only a name here, and calling it looks the name up in a table of our own functions
(`objects.CONSTRUCTORS`). Names of the standard library outside the table are refused; other names
give an inert `Standin`.

The interpreter is the standard library's in Python, `pickle._Unpickler`. Its twin in C, the public
`pickle.Unpickler`, asks for globals and persistent ids too, but hashes dictionary keys itself: some
hundred kilobytes of nested tuples as a key end the process, and forty bytes that share a tuple in
a tuple keep it busy for years. It also gives 64 GB to a memo of one entry, counts no operations,
and sets attributes of any object that has no `__setstate__`.
"""

import pickle
import pickletools
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lsh_gan.tensor_files import objects
from lsh_gan.tensor_files.values import Budget, FormatError, Standin

# What parsing damaged bytes may raise; reported as FormatError.
DAMAGED = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError, MemoryError,
    RecursionError, struct.error, pickle.UnpicklingError,
)  # fmt: skip

_KEYS = (str, bytes, int, float, bool, type(None), Standin)
_MOST_KEY_PARTS = 32
_MOST_TUPLE_KEYS = 10_000  # with numbers: such tuples can be chosen to have all the same hash
_OLD_STANDARD_LIBRARY = {
    "__builtin__", "cPickle", "commands", "copy_reg", "exceptions", "imp", "distutils", "pipes",
}  # fmt: skip
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
    """Reads one pickle and leaves the stream, a binary file, behind its last byte.

    `extra_constructors` stand for globals, besides `objects.CONSTRUCTORS`; `persistent_load` turns
    a persistent id into a value, and None refuses those; the budget is shared by all pickles of a
    file. Raises FormatError where it is damaged, or names something that is refused.
    """
    constructors = {**objects.CONSTRUCTORS, **(extra_constructors or {})}
    unpickler = _Unpickler(stream, constructors, persistent_load, budget)
    try:
        value = unpickler.load()
    except FormatError:
        raise
    except DAMAGED as error:
        raise FormatError(f"damaged pickle near byte {stream.tell()}: {error}") from error
    if unpickler.stack or unpickler.metastack:  # type: ignore[attr-defined]
        raise FormatError("damaged pickle: it does not end with one value.")
    return value


class _Operations(dict):
    """The operations by their code, each counted when it is looked up; others are refused."""

    def __init__(self, operations: Mapping[int, Callable], budget: Budget):
        super().__init__(operations)
        self.count = budget.count_operation

    def __getitem__(self, code: int) -> Callable:
        self.count()
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable:
        known = pickletools.code2op.get(chr(code))  # type: ignore[attr-defined]
        what = known.name if known else f"number {code}"
        raise FormatError(f"uses the pickle operation {what}, which is not supported.")


class _Unpickler(pickle._Unpickler):
    """The interpreter of the standard library; what hashes, calls or sets a state is ours."""

    def __init__(self, stream, constructors, persistent_load, budget):
        super().__init__(stream, encoding="latin-1")
        self.constructors = constructors
        self.resolve = persistent_load
        self.budget = budget
        self.dispatch = _Operations(_DISPATCH, budget)

    # Containers.
    def append_one(self):
        self.extend([self.stack.pop()])

    def append_many(self):
        self.extend(self.pop_mark())

    def push_frozenset(self):
        items = self.pop_mark()
        self.append(frozenset(map(self.key, items)))

    def push_dict(self):
        items = self.pop_mark()
        self.append({})
        self.set_entries(items)

    def set_entry(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_entries([key, value])

    def set_many(self):
        self.set_entries(self.pop_mark())

    def push_bytearray(self):
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

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
    def find_class(self, module: Any, name: Any) -> Global:
        self.budget.charge(len(module) + len(name))
        full_name = f"{module}.{name}"
        root = module.partition(".")[0]
        standard = root in sys.stdlib_module_names or root in _OLD_STANDARD_LIBRARY
        if standard and full_name not in self.constructors:
            raise FormatError(f"refused: it names {full_name}, which could run code.")
        return Global(full_name)

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

    def _instantiate(self, function, args):  # of INST and OBJ
        self.append(self.call(function, tuple(args)))

    def reduce(self):
        args, function = self.stack.pop(), self.stack.pop()
        self.append(self.call(function, args))

    def new_with_keywords(self):
        kwargs, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
            raise FormatError("calls a class with keywords that are not strings.")
        self.append(self.call(function, args, kwargs))

    def build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Standin):
            target.state = state
        elif isinstance(target, np.ndarray):
            objects.set_array_state(target, state)
            self.budget.charge(target.nbytes)
        elif not isinstance(target, dict):  # attributes of an OrderedDict, such as _metadata
            raise FormatError(f"sets the state of a {type(target).__name__}.")

    def persistent_load(self, identifier):
        if self.resolve is None:
            raise FormatError("refers to data outside of the pickle.")
        return self.resolve(identifier)


_CHANGED = {
    pickle.APPEND: _Unpickler.append_one, pickle.APPENDS: _Unpickler.append_many,
    pickle.ADDITEMS: _Unpickler.append_many, pickle.FROZENSET: _Unpickler.push_frozenset,
    pickle.DICT: _Unpickler.push_dict, pickle.SETITEM: _Unpickler.set_entry,
    pickle.SETITEMS: _Unpickler.set_many, pickle.BYTEARRAY8: _Unpickler.push_bytearray,
    pickle.REDUCE: _Unpickler.reduce, pickle.NEWOBJ: _Unpickler.reduce,
    pickle.NEWOBJ_EX: _Unpickler.new_with_keywords, pickle.BUILD: _Unpickler.build,
}  # fmt: skip
# The registry of extensions would give classes without asking `find_class`.
_REFUSED = {pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.PERSID}
_DISPATCH = {
    code: function
    for code, function in {
        **pickle._Unpickler.dispatch,
        **{operation[0]: function for operation, function in _CHANGED.items()},
    }.items()
    if bytes([code]) not in _REFUSED
}
