"""The user's own code: objects named MODULE:FUNCTION."""

import importlib
import inspect
import operator
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lsh_gan.errors import few, nearest

T = TypeVar("T")
_NAMED = re.compile(r"(.+\.py|[A-Za-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*)")


def load(
    name: str, kind: str, cls: type[T], call: Callable[[Callable], Any] = operator.call
) -> T | None:
    """Loads the `cls` object that MODULE:FUNCTION names; returns None for any other name.

    It is an object, or a function without arguments that returns one. MODULE is a module of the
    current folder, an installed one, "__main__" (in a notebook), or FILE.py. `call` calls the
    function.

    Raises:
        FileNotFoundError: No such module or function; `kind` is, say, "generator".
        TypeError: The function takes arguments, or returns something else.
        ValueError: A Python file without a function, or another module has the name of the file.
    """
    found = _find(name, kind)
    if found is None or isinstance(found, cls):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        expected = f"a function without arguments that returns a {cls.__name__}"
        raise TypeError(f"{name}: {error}; expected {expected}") from None
    if not isinstance(made := call(found), cls):
        raise TypeError(f"{name}: returned {type(made).__name__}; expected a {cls.__name__}")
    return made


def _find(name: str, kind: str) -> Callable | None:
    file = Path(name)
    if file.suffix == ".py" and file.is_file():
        has = few(re.findall(r"^def (\w+)", file.read_text(errors="replace"), re.MULTILINE))
        raise ValueError(
            f"{kind} {name!r} is a Python file; expected one of its functions, {name}:FUNCTION; "
            f"it has {has or 'none'}"
        )
    named = _NAMED.fullmatch(name)
    if named is None or file.exists():
        return None
    source, function = named.groups()
    folder, module_name = os.getcwd(), source
    if source.endswith(".py"):
        folder, module_name = os.path.split(os.path.realpath(source)[:-3])
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as `python` and `python -m` do
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # an import inside the module failed
        raise FileNotFoundError(
            f"{kind} {name!r}: no module {module_name!r} in {folder} or installed"
        ) from None
    imported = getattr(module, "__file__", None) or ""  # "" in a notebook
    if module_name != source and os.path.realpath(imported) != os.path.realpath(source):
        raise ValueError(
            f"{kind} {name!r}: another module is called {module_name}, {imported}; rename it"
        )
    if not callable(getattr(module, function, None)):
        functions = [name for name, x in vars(module).items() if callable(x)]
        close = nearest(function, functions or vars(module))
        raise FileNotFoundError(
            f"{kind} {name!r}: {module_name} has no function {function!r}; did you mean {close!r}?"
        )
    return getattr(module, function)
