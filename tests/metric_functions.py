"""The functions of metrics that take features, on two small sets."""

import jax
import pytest
from draws import draw

from lsh_gan.metrics import (
    HashSpec,
    build,
    fit_hash,
    frechet_distance,
    kid,
    knn_fit,
    knn_precision_recall,
    knn_score,
    lsh_fit,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_knn_score,
    lsh_precision_recall,
    lsh_score,
)

KEY = jax.random.key(0)
SPEC = HashSpec(family="affine", num_tables=4, num_bits=3, radius_bins=2)
R, G = draw(40, 5), draw(30, 5, 1)

PAIRS = {
    "knn": knn_precision_recall,
    "lsh": lambda r, g: lsh_precision_recall(KEY, r, g, spec=SPEC),
    "lsh auto": lambda r, g: lsh_precision_recall(KEY, r, g),
    "lsh_knn": lambda r, g: lsh_knn_precision_recall(KEY, r, g, spec=SPEC),
    "kid": kid,
    "frechet": frechet_distance,
}
# What takes one set, and the name it goes by in messages.
SINGLES = {
    **{f"{name} reference": (lambda x, f=f: f(x, G), "reference") for name, f in PAIRS.items()},
    **{f"{name} generated": (lambda x, f=f: f(R, x), "generated") for name, f in PAIRS.items()},
    "knn second": (lambda x: knn_fit(R, second_reference=x), "second reference"),
    "lsh second": (
        lambda x: lsh_fit(KEY, R[:35], spec=SPEC, second_reference=x), "second reference",
    ),
    "lsh_knn second": (
        lambda x: lsh_knn_fit(KEY, R, spec=SPEC, second_reference=x), "second reference",
    ),
    "knn_fit": (knn_fit, "reference"),
    "knn_score": (lambda x: knn_score(knn_fit(R), x), "generated"),
    "lsh_fit": (lambda x: lsh_fit(KEY, x, spec=SPEC), "reference"),
    "lsh_score": (lambda x: lsh_score(lsh_fit(KEY, R, spec=SPEC), x), "generated"),
    "lsh_knn_fit": (lambda x: lsh_knn_fit(KEY, x, spec=SPEC), "reference"),
    "lsh_knn_score": (lambda x: lsh_knn_score(lsh_knn_fit(KEY, R, spec=SPEC), x), "generated"),
    "fit_hash": (lambda x: fit_hash(KEY, x, SPEC), "sample"),
    "build": (lambda x: build(fit_hash(KEY, R, SPEC), x), "features"),
}  # fmt: skip
every_function = pytest.mark.parametrize("name", SINGLES)
