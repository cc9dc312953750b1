"""How hash tables are joined to a score: by a share of them that must say yes, or their mean."""

import math
from typing import NamedTuple

import numpy as np

from lsh_gan.metrics.checks import check_real

GROUPS = 8  # groups of tables for the jackknife


class Joined(NamedTuple):
    """Tables joined to a score.

    Attributes:
        score: Mean membership, in [0, 1]; None when it was not asked for.
        stderr: Its standard error.
        membership: bool `[n]`, or the share of tables, float64 `[n]`, without votes.
    """

    score: float | None
    stderr: float | None
    membership: np.ndarray | None


def check_votes(votes: float | None) -> None:
    """Checks the share of tables that must say yes.

    Raises:
        TypeError: It is neither a number nor None.
        ValueError: It is out of (0, 1].
    """
    if votes is not None:
        check_real(" in (0, 1], or None", votes=votes)
        if not 0 < votes <= 1:
            raise ValueError(f"votes = {votes}; expected a share in (0, 1], or None.")


def join(groups: np.ndarray, tables: int, votes: float | None) -> Joined:
    """Joins the yeses of all tables; the standard error covers samples and tables.

    The part of the tables comes from a jackknife over groups of them (Efron & Stein 1981,
    doi:10.1214/aos/1176345462).
    """
    sizes = np.array([len(range(i, tables, GROUPS)) for i in range(GROUPS)])
    sizes, groups = sizes[sizes > 0], groups[sizes > 0]

    def member(yes, size):
        return yes / size if votes is None else yes >= least_yeses(votes, size)

    membership = member(groups.sum(axis=0), sizes.sum())
    variance = membership.var() / membership.size
    if len(sizes) > 1:
        left = [
            member(groups.sum(axis=0) - g, sizes.sum() - s).mean()
            for g, s in zip(groups, sizes, strict=True)
        ]
        variance += (len(left) - 1) * np.var(left)
    return Joined(float(membership.mean()), float(np.sqrt(variance)), membership)


def least_yeses(votes: float, tables: int) -> int:
    """Tables that must say yes, at least one; a share that is exactly met counts."""
    return max(1, math.ceil(votes * tables - 1e-9))
