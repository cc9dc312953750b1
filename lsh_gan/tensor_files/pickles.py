"""An unpickler that builds values without calling anything that the file names.

A global is only a name here. Calling it looks the name up in a table of our own functions
(`objects.CONSTRUCTORS`). Names of the standard library outside the table are refused; other names
give an inert `Standin`. The interpreter is the standard library's in Python. Its version in C takes
gigabytes for a memo of one damaged entry, and sets attributes of any object.
"""

import pickle
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from lsh_gan.tensor_files import objects
from lsh_gan.tensor_files.values import FormatError, Standin

# Errors that parsing damaged bytes may raise; they are reported as FormatError.
DAMAGED = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError, MemoryError,
    RecursionError, struct.error, pickle.UnpicklingError,
)  # fmt: skip
_OLD_STANDARD_LIBRARY = {
    "__builtin__", "cPickle", "commands", "copy_reg", "exceptions", "imp", "distutils", "pipes",
}  # fmt: skip
_FUNCTION_PACKAGES = {"numpy", "torch"}  # lower-case names there are functions, not classes


class Global(Standin):
    """A class or function that the file names, and that is not called yet."""


def load(stream: Any, extra: Mapping[str, Callable], persistent_load: Callable | None) -> Any:
    """Reads one pickle from a binary stream, and leaves the stream behind its last byte.

    `extra` adds constructors to `objects.CONSTRUCTORS`. `persistent_load` maps a persistent id to a
    value; None refuses such ids. Raises FormatError if the pickle is damaged, or names something
    that is refused.
    """
    constructors = {**objects.CONSTRUCTORS, **extra}
    try:
        return _Unpickler(stream, constructors, persistent_load).load()
    except FormatError:
        raise
    except DAMAGED as error:
        raise FormatError(f"damaged pickle near byte {stream.tell()}: {error}") from error


class _Unpickler(pickle._Unpickler):
    """The standard library's interpreter, with our own handling of names, calls and states."""

    def __init__(self, stream, constructors, persistent_load):
        super().__init__(stream, encoding="latin-1")
        self.constructors = constructors
        self.resolve = persistent_load

    def find_class(self, module: Any, name: Any) -> Global:
        full_name = f"{module}.{name}"
        root = module.partition(".")[0]
        standard = root in sys.stdlib_module_names or root in _OLD_STANDARD_LIBRARY
        if standard and full_name not in self.constructors:
            raise FormatError(f"refused: it names {full_name}, which could run code.")
        return Global(full_name)

    def call(self, function, args, kwargs=None):
        if not isinstance(function, Global):
            raise FormatError("calls a value that is not a class.")
        if function.name in self.constructors:
            return self.constructors[function.name](*args, **(kwargs or {}))
        module, _, name = function.name.rpartition(".")
        if module.partition(".")[0] in _FUNCTION_PACKAGES and not name.lstrip("_")[:1].isupper():
            raise FormatError(f"refused: it calls {function.name}, which is not on the list.")
        return Standin(function.name, tuple(args), kwargs or {})

    def _instantiate(self, function, args):  # for INST and OBJ
        self.append(self.call(function, args))

    def reduce(self):
        args, function = self.stack.pop(), self.stack.pop()
        self.append(self.call(function, args))

    def new_with_keywords(self):
        kwargs, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self.call(function, args, kwargs))

    def build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Standin):
            target.state = state
        elif isinstance(target, np.ndarray):
            objects.set_array_state(target, state)
        elif not isinstance(target, dict):  # attributes of an OrderedDict, such as _metadata
            raise FormatError(f"sets the state of a {type(target).__name__}.")

    def set_items(self):
        self._set(self.pop_mark())

    def set_item(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items):
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            # An optimizer that was saved whole has its parameters as keys.
            target[str(len(target)) if isinstance(key, np.ndarray) else key] = value

    def registered(self):
        raise FormatError("refers to the registry of extensions, which is not read.")

    def persistent_load(self, identifier):
        if self.resolve is None:
            raise FormatError("refers to data outside of the pickle.")
        return self.resolve(identifier)

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((pickle.REDUCE[0], pickle.NEWOBJ[0]), reduce),
        **dict.fromkeys((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]), registered),
        pickle.NEWOBJ_EX[0]: new_with_keywords,
        pickle.BUILD[0]: build,
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
    }
