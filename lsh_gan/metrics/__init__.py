"""Precision and recall of generated samples in a feature space; arrays in, NamedTuples out."""

import inspect

from lsh_gan import devices
from lsh_gan.metrics.hashing import Hasher
from lsh_gan.metrics.inputs import HashSpec
from lsh_gan.metrics.knn import KnnReference, knn_fit, knn_precision_recall, knn_score
from lsh_gan.metrics.lsh import (
    lsh_fit,
    lsh_precision_recall,
    lsh_precision_recall_curve,
    lsh_score,
    lsh_score_streams,
)
from lsh_gan.metrics.lsh_knn import (
    LshKnnReference,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_knn_score,
)
from lsh_gan.metrics.moments import frechet_distance, kid
from lsh_gan.metrics.scores import ClassScores, PrecisionRecall, PrecisionRecallCurve
from lsh_gan.metrics.sketch import (
    LshReference,
    Share,
    Sketch,
    build,
    file_hash,
    fit_hash,
    load,
    merge,
    save,
)

__all__ = [
    "ClassScores", "HashSpec", "Hasher", "KnnReference", "LshKnnReference", "LshReference",
    "PrecisionRecall", "PrecisionRecallCurve", "Share", "Sketch", "build", "file_hash", "fit_hash",
    "frechet_distance", "kid", "knn_fit", "knn_precision_recall", "knn_score",
    "load", "lsh_fit", "lsh_knn_fit", "lsh_knn_precision_recall", "lsh_knn_score",
    "lsh_precision_recall", "lsh_precision_recall_curve", "lsh_score", "lsh_score_streams",
    "merge", "save",
]  # fmt: skip

# Each function runs under JAX's default settings, whatever the session has set.
globals().update({x: devices.alone(f) for x in __all__ if inspect.isfunction(f := globals()[x])})
