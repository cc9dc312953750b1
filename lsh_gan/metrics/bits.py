"""How many digits a code should have: so many that the reference just recognises itself.

Every row of the reference is looked up among the others. With rows sorted by code, those that
share the first b digits stand together, so one sort of each table answers for every b: a row is
recognised at b when some run of min_count + 1 rows around it agrees in b digits.
"""

import numpy as np

from lsh_gan.metrics.checks import check_whole
from lsh_gan.metrics.hashing import DIGIT_BITS, Codes, Hasher, most_digits


def depths(hasher: Hasher, codes: Codes, min_count: int) -> np.ndarray:
    """Most digits at which a row shares its cell with `min_count` others, int8 `[t, n]`, or -1."""
    full = hasher.spec.max_digits * DIGIT_BITS[hasher.spec.family]
    radius = np.asarray(codes.radius_bin).astype(np.uint64) << np.uint64(32)
    out = np.empty(codes.digits.shape, np.int8)
    for table, digits in enumerate(np.asarray(codes.digits)):
        keys = radius | digits
        order = np.argsort(keys)
        ordered = keys[order]
        differ = ordered[min_count:] ^ ordered[:-min_count]
        # frexp's exponent is the length of the differing tail in bits.
        tail = np.frexp(differ.astype(np.float64))[1]
        shared = np.where(tail > full, -1, (full - tail) // DIGIT_BITS[hasher.spec.family])
        best = np.full(len(keys), -1, np.int8)
        for first in range(min_count + 1):
            window = slice(first, first + len(shared))
            best[window] = np.maximum(best[window], shared)
        out[table, order] = best
    return out


def choose_digits(
    hasher: Hasher, codes: Codes, *, min_count: int, votes: float | None, doublings: float = 0.0
) -> Hasher:
    """Returns the hasher with as many digits as keep the share of recognised rows at the target.

    Args:
        hasher: A hasher with full-length codes.
        codes: Codes of the reference, or of a sample of it.
        min_count: Others that a cell must hold.
        votes: Share of tables that must say yes, or None for the mean over tables.
        doublings: How often the sample must be doubled to reach the size of the reference; each
            doubling adds one bit.

    Returns:
        The hasher with `digits` set. Tables differ by one digit at most, so the mean number of
        digits moves in steps of 1 / num_tables.
    """
    spec, limit = hasher.spec, most_digits(hasher) * hasher.spec.num_tables
    deep = depths(hasher, codes, min_count)
    if spec.radius_bins:
        radius_bin = np.asarray(codes.radius_bin)
        central = (radius_bin >= 1) & (radius_bin <= spec.radius_bins)
        deep = deep[:, central]
    if not deep.size:  # no row lies in a radius bin: they all are the same
        return hasher._replace(digits=spread(0, spec.num_tables))

    def recognised(total: int) -> float:
        yes = (deep >= spread(total, spec.num_tables)[:, None]).sum(axis=0, dtype=np.int32)
        yes = yes / spec.num_tables
        return float(yes.mean() if votes is None else (yes >= votes).mean())

    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if recognised(middle) >= spec.ceiling_target else (low, middle)
    extra = round(doublings * spec.num_tables / DIGIT_BITS[spec.family])
    return hasher._replace(digits=spread(min(low + extra, limit), spec.num_tables))


def spread(total: int, tables: int) -> np.ndarray:
    """Spreads `total` digits evenly over the tables, the first ones getting the remainder."""
    return (total // tables + (np.arange(tables) < total % tables)).astype(np.int32)


def check_min_count(min_count: int) -> int:
    """Returns `min_count` as a Python number.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below 1.
    """
    (min_count,) = check_whole(" of at least 1", min_count=min_count)
    if min_count < 1:
        raise ValueError(f"min_count = {min_count}; expected at least 1.")
    return min_count


def check_rows(source: str, rows: int, min_count: int) -> None:
    """Raises ValueError unless so many rows are enough for cells of `min_count` others."""
    if rows < min_count + 2:
        raise ValueError(
            f"{source} has {rows} rows; min_count = {min_count} needs at least {min_count + 2}."
        )
