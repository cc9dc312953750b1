"""Addresses of codes that are too long to be addresses themselves.

A directory lists the codes of a set, table by table; a code's address is its place in the list, and
two codes never share one. It is found in constant time: codes are mixed by a bijection, so that
they spread evenly, and sorted, and the first bits of a mixed code lead to the few that begin alike.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_BUCKETS = 4  # for each place: few buckets then hold more than one code


class Directory(NamedTuple):
    """The codes of a set.

    Attributes:
        keys: Mixed codes of each table, distinct and ascending, uint32 `[t, size]`; filled up with
            zeros, at least one of them.
        listed: Codes of each table, int32 `[t]`.
        starts: Place of the first key of each bucket, int32 `[t, buckets]`.
        longest: Keys in the fullest bucket, int32.
    """

    keys: jax.Array | np.ndarray
    listed: jax.Array | np.ndarray
    starts: jax.Array | np.ndarray
    longest: np.int32

    @property
    def size(self) -> int:
        """Places of a table; the last one stands for all codes that are not listed."""
        return self.keys.shape[1]


@jax.jit
def mix(codes: jax.Array) -> jax.Array:
    """A bijection of uint32: the finaliser of MurmurHash3 (Appleby 2011)."""
    codes = (codes ^ (codes >> 16)) * np.uint32(0x85EBCA6B)
    codes = (codes ^ (codes >> 13)) * np.uint32(0xC2B2AE35)
    return codes ^ (codes >> 16)


def list_keys(tables: Iterable[np.ndarray], size: int) -> Directory:
    """Lists keys.

    Args:
        tables: Keys of each table, uint32 `[any]`, in any order and as often as they come.
        size: Places of a table, a power of two; more than there are different keys.
    """
    distinct = [_distinct(np.asarray(keys)) for keys in tables]
    keys = np.zeros((len(distinct), size), np.uint32)
    starts = np.empty((len(distinct), _BUCKETS * size), np.int32)
    longest = 0
    for of_table, first, found in zip(keys, starts, distinct, strict=True):
        of_table[: len(found)] = found
        counts = np.bincount(found >> _shift(size), minlength=_BUCKETS * size)
        longest = max(longest, counts.max())
        first[0] = 0
        np.cumsum(counts[:-1], out=first[1:])
    listed = np.array([len(found) for found in distinct], np.int32)
    return Directory(jnp.asarray(keys), listed, jnp.asarray(starts), np.int32(longest))


def _distinct(keys: np.ndarray) -> np.ndarray:
    keys = np.sort(keys)
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def _shift(size: int) -> np.uint32:
    return np.uint32(33 - (_BUCKETS * size).bit_length())


@jax.jit
def look_up(directory: Directory, keys: jax.Array) -> jax.Array:
    """Addresses of keys, uint32 `[t, n]`: int32 `[t, n]`, `size - 1` where they are not listed."""
    last = directory.size - 1
    first = jnp.take_along_axis(
        directory.starts, (keys >> _shift(directory.size)).astype(jnp.int32), axis=1
    )

    def probe(i, address):
        at = jnp.minimum(first + i, last)
        hit = jnp.take_along_axis(directory.keys, at, axis=1) == keys
        return jnp.where(hit & (at < directory.listed[:, None]), at, address)

    return jax.lax.fori_loop(0, directory.longest, probe, jnp.full(keys.shape, last, jnp.int32))


def joined(a: Directory, b: Directory, size: int) -> Directory:
    """The directory of two sets together."""
    tables = zip(*(_each_table(part) for part in (a, b)), strict=True)
    return list_keys((np.concatenate(keys) for keys in tables), size)


def _each_table(directory: Directory) -> list[np.ndarray]:
    keys = np.asarray(directory.keys)
    return [row[:listed] for row, listed in zip(keys, directory.listed, strict=True)]
