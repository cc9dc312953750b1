"""What identifies arrays and functions: hashes of their content."""

import inspect
from collections.abc import Callable
from hashlib import sha256
from types import CodeType
from typing import Any

import jax
import numpy as np


def content_hash(tree: Any) -> str:
    """Computes the sha256 (hex) of the paths, shapes, dtypes and values of a tree of arrays.

    >>> content_hash({"a": np.zeros(2)}) == content_hash({"b": np.zeros(2)})
    False
    """
    digest = sha256()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array, path = np.asarray(leaf), jax.tree_util.keystr(keys, simple=True, separator="/")
        digest.update(f"{path}:{array.shape}:{array.dtype};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def code_hash(*functions: Callable) -> str:
    """Computes a sha256 (hex) of the functions' own code, without that of what they call.

    An edited function counts as another one, wherever it stands.

    >>> code_hash(lambda x: x + 1) == code_hash(lambda x: x + 1)
    True
    >>> code_hash(lambda x: x + 1) == code_hash(lambda x: x + 2)
    False
    """

    def describe(x: Any) -> Any:
        if isinstance(x, CodeType):
            return x.co_code, x.co_names, *map(describe, x.co_consts)
        return sorted(map(repr, x)) if isinstance(x, frozenset) else x

    codes = [describe(getattr(inspect.unwrap(f), "__code__", None)) for f in functions]
    return sha256(repr(codes).encode()).hexdigest()
