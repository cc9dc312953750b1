"""The metrics by name, behind one contract: fit the reference once, score many generated sets."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from lsh_gan import metrics
from lsh_gan.errors import choose
from lsh_gan.metrics import HashSpec, PrecisionRecall

Score = Callable[[jax.Array], PrecisionRecall]


def hash_spec(config: Any) -> HashSpec:
    """The hash that `config.hash` asks for."""
    names = ("family", "num_tables", "num_bits", "radius_bins")
    return HashSpec(**{name: config.hash[name] for name in names})


def _knn(config: Any, reference: jax.Array, second: jax.Array | None) -> Score:
    fitted = metrics.knn_fit(
        reference,
        k=config.k,
        inclusive=config.inclusive,
        second_reference=second,
        memory_mb=config.memory_mb,
    )
    return partial(metrics.knn_score, fitted)


def _lsh_knn(config: Any, reference: jax.Array, second: jax.Array | None) -> Score:
    key = jax.random.key(config.hash.seed)
    fitted = metrics.lsh_knn_fit(
        key, reference, spec=hash_spec(config), k=config.k, second_reference=second
    )
    return partial(metrics.lsh_knn_score, fitted)


def _lsh(config: Any, reference: jax.Array, second: jax.Array | None) -> Score:
    fitted = metrics.lsh_fit(
        jax.random.key(config.hash.seed),
        reference,
        spec=hash_spec(config),
        min_count=config.hash.min_count,
        votes=config.hash.votes,
        second_reference=second,
    )
    return partial(metrics.lsh_score, fitted)


EVALUATORS = {"knn": _knn, "lsh_knn": _lsh_knn, "lsh": _lsh}


def fit(config: Any, reference: jax.Array, second: jax.Array | None) -> dict[str, Score]:
    """Fits every metric of `config.metrics` on the reference.

    Args:
        config: See `configs/default.py`.
        reference: Features, float32 `[n, d]`.
        second: A second reference sample of the same distribution, for the ceilings, or None.

    Returns:
        Metric name to a function of generated features `[m, d]`.
    """
    evaluators = {name: choose("metric", name, EVALUATORS) for name in config.metrics}
    return {name: make(config, reference, second) for name, make in evaluators.items()}
