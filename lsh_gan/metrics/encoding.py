"""Codes of features under a fitted hash, batch by batch."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsh_gan.metrics.hashing import DIGIT_BITS, Codes, Hasher, Projected, project
from lsh_gan.metrics.inputs import Array
from lsh_gan.metrics.streams import batches


def encode(hasher: Hasher, features: Array, source: str = "features", first_row: int = 0) -> Codes:
    """Codes of features `[n, d]`.

    Raises:
        ValueError: NaN or Inf; the message names `source` and the row, counted from `first_row`.
    """
    codes, finite = start_encoding(hasher, features)
    check_encoded(finite, source, first_row)
    return codes


def start_encoding(hasher: Hasher, features: Array) -> tuple[Codes, jax.Array]:
    """Codes, perhaps not yet computed, and which rows are finite, for `check_encoded`."""
    found = project(hasher, features, norms=hasher.spec.radius_bins > 0)
    codes, finite = _encode(
        found, hasher.members, hasher.thresholds, np.float32(hasher.width),
        np.int32(hasher.digits.max()), hasher.radius_edges, bits=DIGIT_BITS[hasher.spec.family],
    )  # fmt: skip
    rows = features.shape[0]
    if len(finite) == rows:
        return codes, finite
    return Codes(codes.digits[:, :rows], codes.radius_bin[:rows]), finite[:rows]


def check_encoded(finite: jax.Array, source: str, first_row: int) -> None:
    """Raises ValueError unless all rows are finite."""
    finite = np.asarray(finite)
    if not finite.all():
        row = int(np.argmin(finite)) + first_row
        raise ValueError(f"{source} has NaN or Inf (or overflows float32) in row {row}.")


@functools.partial(jax.jit, static_argnames="bits")
def _encode(found: Projected, members, thresholds, width, steps, edges, *, bits: int):
    """Codes of a batch, and which of its rows are finite."""
    digits = _digits(found.projections(), members, thresholds, width, steps, bits=bits)
    if found.norms is None:
        none = jnp.zeros(digits.shape[1], jnp.int32)
        return Codes(digits, none), jnp.isfinite(found.products).all(axis=0)
    radius_bin = jnp.searchsorted(edges, found.norms).astype(jnp.int32)
    return Codes(digits, radius_bin), jnp.isfinite(found.norms)


def _digits(projections, members, thresholds, width, steps, *, bits: int):
    def step(j, code):
        offset = projections[members[:, j]] - thresholds[:, j, None]
        if bits == 1:
            digit = (offset > 0).astype(jnp.uint32)
        else:
            half = 2 ** (bits - 1)
            digit = jnp.clip(jnp.floor(offset / width) + half, 0, 2 * half - 1).astype(jnp.uint32)
        return (code << bits) | digit

    code = jnp.zeros((members.shape[0], projections.shape[1]), jnp.uint32)
    code = jax.lax.fori_loop(0, steps, step, code)
    return code << (bits * (members.shape[1] - steps)).astype(jnp.uint32)


def encoded(hasher: Hasher, features: Any, source: str) -> Iterator[Codes]:
    """Yields full-length codes, batch by batch: `[t, rows]` and `[rows]`, see `Codes`.

    Raises:
        TypeError: Features that are not floating-point arrays.
        ValueError: NaN, Inf, a d other than the hasher's, or no rows; the message names `source`
            and the row.
    """
    under_way: list[tuple[Codes, Any, int]] = []
    rows = 0
    for batch in batches(features, source, dim=len(hasher.shift)):
        under_way.append((*start_encoding(hasher, batch), rows))
        rows += batch.shape[0]
        # One behind: the next batch is read while this one is computed.
        if len(under_way) > 1:
            yield _checked(under_way.pop(0), source)
    yield _checked(under_way.pop(), source)


def _checked(encoded: tuple[Codes, Any, int], source: str) -> Codes:
    codes, finite, first_row = encoded
    check_encoded(finite, source, first_row)
    return codes


def encode_all(hasher: Hasher, features: Any, source: str) -> Codes:
    """Full-length codes of a whole set; arguments and errors as `encoded`."""
    return joined(list(encoded(hasher, features, source)))


def joined(parts: list[Codes]) -> Codes:
    """Codes of batches one after another."""
    if len(parts) == 1:
        return parts[0]
    return Codes(
        jnp.concatenate([p.digits for p in parts], axis=1),
        jnp.concatenate([p.radius_bin for p in parts]),
    )
