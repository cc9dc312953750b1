"""What every metric returns."""

from typing import NamedTuple

import numpy as np


class Ceiling(NamedTuple):
    """What a sample of the reference distribution scores.

    Attributes:
        precision: Its precision, from all rows that there are.
        recall: Recall of `rows` rows of it.
        rows: As many as the reference has.
    """

    precision: float
    recall: float
    rows: int


def check_second(rows: int, second_rows: int) -> None:
    """Raises ValueError if a second reference has fewer rows than the reference.

    Recall grows with the number of rows that cover the reference, and a ceiling needs up to as many
    as the reference has.
    """
    if second_rows < rows:
        raise ValueError(
            f"second reference has {second_rows} rows; the reference has {rows}: give at least as "
            "many, or none, and the ceilings come from the reference alone."
        )


class PrecisionRecall(NamedTuple):
    """Precision and recall of a generated set against a reference set.

    Ceilings. Two samples of the same distribution do not score 1; the ceilings are what a sample of
    the reference distribution scores. With a second reference sample they are its scores: precision
    of all its rows, recall of as many as are compared with. Without one, every row of the reference
    is judged by all the others (leave-one-out). One half judged by the other half would estimate
    the score at n / 2, which is lower: cells hold half as many rows and balls are larger.

    Attributes:
        precision: Share of generated samples on the reference manifold, in [0, 1].
        recall: Share of reference samples on the generated manifold, in [0, 1]; None when it was
            not asked for.
        precision_stderr: Standard error of `precision` over the samples (and the hash tables).
        recall_stderr: Standard error of `recall`.
        precision_ceiling: Precision of a sample of the reference distribution, in [0, 1]; None when
            it was not asked for.
        recall_ceiling: Recall of such a sample of m rows, or of n where m is larger; None also
            where a sketch of counts alone cannot give it.
        density: Mean number of reference balls around a generated sample, over their k; KNN only,
            and None where the reference has no more rows than that.
        coverage: Share of reference balls that hold a generated sample, in [0, 1]; likewise.
        precision_membership: bool `[m]`, or with `votes=None` of LSH the share of tables, float64;
            None when not asked for.
        recall_membership: The same of the reference, `[n]`.
        k: Neighbours that define a radius; None for LSH.
        n: Number of reference samples.
        m: Number of generated samples.
        family: Hash family; None for KNN.
        num_bits: Bits of a code (directions in a table), mean over tables; None for KNN.
        radius_bins: Radius bins in each code; None for KNN.
        num_tables: Number of hash tables; None for KNN.
        capped: Share of candidates that the cap on a cell's size left out, in [0, 1].
    """

    precision: float
    recall: float | None
    precision_stderr: float
    recall_stderr: float | None
    precision_ceiling: float | None = None
    recall_ceiling: float | None = None
    density: float | None = None
    coverage: float | None = None
    precision_membership: np.ndarray | None = None
    recall_membership: np.ndarray | None = None
    k: int | None = None
    n: int = 0
    m: int = 0
    family: str | None = None
    num_bits: float | None = None
    radius_bins: int | None = None
    num_tables: int | None = None
    capped: float = 0.0
