"""Scores two sets of images or features in Python, by the same steps as a run."""

import dataclasses
import html
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd

from lsh_gan import datasets, devices, features
from lsh_gan.datasets import Source
from lsh_gan.experiment import configuration, default_config, reference, settings
from lsh_gan.features import FEATURES, FeatureNetwork
from lsh_gan.metrics.inputs import as_array
from lsh_gan.results.answer import COLLAPSED, LEGEND
from lsh_gan.results.labels import DISTANCES, TITLES

_OF_KNN = "density", "coverage", "clipped_density", "clipped_coverage", "auth"


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of generated samples against real ones; prints as a table."""

    scores: dict[str, NamedTuple]  #: by name of the metric; `PrecisionRecall`, or a distance
    n: int  #: number of real samples
    m: int  #: number of generated samples
    d: int  #: number of features
    k: int  #: number of neighbours that define a radius
    features: str  #: the feature network and its input side, or "given"
    real: str  #: what was taken from the real samples
    generated: str  #: what was taken from the generated samples

    def __getitem__(self, metric: str) -> NamedTuple:
        return self.scores[metric]

    def _table(self) -> pd.DataFrame:
        lines = {}
        score: Any
        for name, score in self.scores.items():
            if name in DISTANCES:
                known = f" ± {score.distance_stderr:.2g}" if score.distance_stderr else ""
                lines[TITLES[name]] = [f"{score.distance:.4g}{known}", "", "", ""]
                continue
            cells = lines[TITLES[name]] = []
            for side in ("precision", "recall"):
                value, stderr, ceiling = (
                    getattr(score, side + part) for part in ("", "_stderr", "_ceiling")
                )
                mark = COLLAPSED if score.collapsed and side == "precision" else ""
                cells.append(f"{value:.3f} ± {stderr:.3f}{mark}")
                cells.append("–" if ceiling is None else f"{ceiling:.3f}")
        columns = ["precision", "ceiling", "recall", "ceiling"]
        return pd.DataFrame.from_dict(lines, orient="index", columns=columns)

    def _caption(self) -> str:
        said = (
            f"n = {self.n:,} real ({self.real}), m = {self.m:,} generated ({self.generated}), "
            f"d = {self.d}, k = {self.k}, features: {self.features}; ± is one standard error"
        )
        beside = ((name, getattr(self.scores.get("knn"), name, None)) for name in _OF_KNN)
        more = [f"{name.replace('_', ' ')} {x:.3f}" for name, x in beside if x is not None]
        said += f"; by KNN: {', '.join(more)}" if more else ""
        collapsed = any(getattr(score, "collapsed", False) for score in self.scores.values())
        return f"{said}; {LEGEND[COLLAPSED]}" if collapsed else said

    def __repr__(self) -> str:
        return f"{self._table().to_string(col_space=12)}\n{self._caption()}"

    def _repr_html_(self) -> str:
        caption = f"<caption>{html.escape(self._caption())}</caption>\n  <thead>"
        return self._table().to_html(border=0).replace("<thead>", caption, 1)


def evaluate(
    real: Any,
    generated: Any,
    *,
    metrics: str | Sequence[str] | None = None,
    features: str | FeatureNetwork | None = None,
    features_side: int | None = None,
    weights: str | None = None,
    k: int | None = None,
    num_images: int = 0,
    resize: int | None = None,
    seed: int | None = None,
    config: ml_collections.ConfigDict | Mapping[str, Any] | None = None,
) -> Evaluation:
    """Scores generated samples against real ones.

    Each side is one of: a path that `datasets.open_source` knows (a folder or zip of images, .npz,
    .npy, an idx file, or a shipped set); an array of images, uint8 `[n, h, w]` or with channels, or
    of features, floating `[n, d]`; or an iterable of batches of either, which is read once.
    If both sides are features, they are compared as given, without a network. An option that is
    None has its value in `config`.

    Args:
        real: The reference.
        generated: The samples to score; all of them are scored.
        metrics: Some of knn, lsh_knn, lsh, kid, fid; by default the first three.
        features: The feature network: a key of `lsh_gan.features.FEATURES`, a `FeatureNetwork` of
            your own, or MODULE:FUNCTION that returns one.
        features_side: Its input side in pixels; by default the side of the network in `features`.
        weights: Its weight file; "" takes the one of the installed package.
        k: Number of neighbours that define a radius; by default 3.
        num_images: n, the number of real samples to draw; 0 draws as many as are generated, or all
            if there are fewer. If there are 2n real samples, n others give the ceilings.
        resize: Crops and resizes images to this side; 0 does not.
        seed: Seed of the draw.
        config: Other options; fields that it lacks are as in `configs/default.py`.

    Raises:
        FileNotFoundError: No such path or weight file.
        ValueError, TypeError: Samples are of a wrong kind, of different sizes or too few, or an
            option is invalid.

    Example::

        >>> import numpy as np, lsh_gan
        >>> x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        >>> result = lsh_gan.evaluate(x[:40], x[40:], metrics=("knn",))
        >>> result["knn"].n, result["knn"].m
        (20, 20)
    """
    known = default_config()
    # Without type checks here: `resolve` refuses values of other types with its own message.
    whole = ml_collections.ConfigDict(known.to_dict(), type_safe=False)
    whole.update(config or {})
    configuration.check_fields(whole, known)
    if features in FEATURES and features_side is None:
        features_side = FEATURES[features].side
    fields = {
        "metrics": (metrics,) if isinstance(metrics, str) else metrics and tuple(metrics), "k": k,
        "features.name": features, "features.side": features_side, "features.weights": weights,
        "reference.side": resize, "reference.seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in fields.items() if value is not None}
    whole.update_from_flattened_dict(given)
    return compare(real, generated, whole, num_images)


@devices.alone
def compare(real: Any, generated: Any, config: Any, num_images: int) -> Evaluation:
    """Scores as `evaluate` does, with all options in `config`, which is changed."""
    config.generators, config.samples = (), ("generated",)
    sides = [_open(x, name, config) for x, name in ((real, "real"), (generated, "generated"))]
    kinds = [side.kind for side in sides]
    # If both sides are features, no network is needed, and none is loaded.
    config.reference[kinds[0]] = "real"
    config.reference.num_images = 0
    if kinds == ["features", "features"]:
        config.features.name = "given"
        config.reference.images = ""
    checked = settings.resolve(config)
    settings.check_image_sizes(checked, sides[0].image_shape, [], sides[1:])
    network = reference.load_network(checked, sides)
    real, generated = (_embedded(side, network, checked) for side in sides)
    samples = reference.load_samples(checked, generated, real.image_shape)
    config.reference.num_images = num_images or min(len(real), len(generated))
    checked = settings.resolve(config)
    reference.check_count(checked, real)
    drawn = reference.load_reference(checked, network, real)
    reference.check_grey(drawn, [], [generated])
    scores = drawn.fit(checked, network, lambda count: None)
    embedded = samples.embed(network, batch_size=checked.features.batch_size or None)
    found = {name: score(embedded) for name, score in scores.items()}
    name = f"{network.name} at {network.side} px" if network.side else network.name
    return Evaluation(
        found, len(drawn), len(samples), network.dim, config.k, name, real.taken, generated.taken
    )


def _open(x: Any, name: str, config: Any) -> Source:
    """Opens what was given as a source; for an iterable n = 0, since n is not known yet."""
    decoding = reference.decoding_of(config)
    if isinstance(x, str | Path):
        return datasets.open_source(x, ("images", "features"), decoding)

    def of(x: Any) -> Source:
        if not hasattr(x, "shape"):
            raise TypeError(
                f"{name}: a batch is a {type(x).__name__}; expected arrays: for a loader of images "
                "with labels pass (batch[0] for batch in loader), for single images "
                "numpy.stack(images), for image files their folder"
            )
        array = np.asarray(as_array(x, name))
        array = array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
        return datasets.of_array(
            name, lambda: array, array.shape, array.dtype, decoding, "an array"
        )

    if hasattr(x, "shape"):
        return of(x)
    if not isinstance(x, Iterable):
        raise TypeError(f"{name} is a {type(x).__name__}; expected a path, an array or batches")
    sources = map(of, x)
    first = next(sources, None)
    if first is None:
        raise ValueError(f"{name}: there are no batches; expected arrays of images or features")

    def load() -> Iterator[np.ndarray]:
        for source in itertools.chain([first], sources):
            if source.shape[1:] != first.shape[1:]:
                found, expected = (list(x.shape[1:]) for x in (source, first))
                raise ValueError(f"{name}: a batch of {found} after one of {expected}")
            yield source.load()

    shape, loaded = (0, *first.shape[1:]), load()
    return Source(name, first.kind, shape, "batches", None, lambda rows: loaded)


def _embedded(side: Source, network: features.FeatureNetwork, config: Any) -> Source:
    """Embeds a source that can be read only once; returns other sources unchanged."""
    if len(side):
        return side
    if side.kind == "images":
        batch_size = config.features.batch_size or None
        x = np.asarray(features.embed(network, side.read(np.arange(0)), batch_size=batch_size))
    else:
        x = side.load()
    return dataclasses.replace(_open(x, side.path, config), taken=side.taken)
