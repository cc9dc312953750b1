"""Finds samples that left the manifold at a width, and reference images no longer covered."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from absl import logging

from lsh_gan import compression
from lsh_gan.experiment.measurement import PACKED_FOLDER, Setup
from lsh_gan.generators import sampling
from lsh_gan.results import store, strips
from lsh_gan.results.labels import TITLES, bits_label, in_words

COLUMNS = 16  # images per strip
NO_IMAGES = "uncovered.png is left out: the reference holds features, not images"


def write(workdir: Path, measured: list[store.Row], setup: Setup) -> None:
    """Adds the strips that are not yet in a work folder, from the hits and packed files of rows.

    Only the images shown are drawn again: sample i is a function of (key, i), and the reference is
    read by row. Each compressed row of the smallest seed gets a strip in `outside` (samples that
    left, below the same latents at full precision) and one in `uncovered`. Rows without hits, from
    older versions, get none.
    """
    config, first = setup.config, setup.reference.first
    if first is None or first.features is not None:
        first = None
        logging.info(NO_IMAGES)
    for generator in setup.generators:
        mine = [r for r in measured if r["generator"] == generator.name and "layer" not in r]
        mine = [row for row in mine if row["seed"] == min(config.seeds)]
        full = next((row["row_hash"] for row in mine if row["bits"] is None), "")
        before = store.read_hits(workdir, full)
        for row in mine if before else ():
            after, name = store.read_hits(workdir, row["row_hash"]), f"{row['row_hash']}.png"
            if row["row_hash"] == full or not after:
                continue
            seed = f", seed {row['seed']}" if len(config.seeds) > 1 else ""
            of = in_words(bits_label(row)) + seed
            file = workdir / strips.OUTSIDE / name
            packed = workdir / PACKED_FOLDER / f"{row['row_hash']}.packed"
            indices, said = lost(before, after, "precision")
            if len(indices) and packed.is_file() and not file.exists():
                trees = (generator.params, generator.unpack(compression.load_packed(packed)))
                draw = partial(sampling.sample_at, generator, truncation_psi=config.truncation_psi)
                # Always `COLUMNS` images, so that one program serves all rows.
                key, shown = jax.random.key(row["seed"]), np.resize(indices, COLUMNS)
                lines = [draw(tree, key, shown)[: len(indices)] for tree in trees]
                strips.save(file, lines, f"{of}: inside: {said}")
            file = workdir / strips.UNCOVERED / name
            indices, said = lost(before, after, "recall")
            if len(indices) and first is not None and not file.exists():
                lines = [first.at(indices)]
                strips.save(file, lines, f"{of}: covered: {said}")


def lost(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], score: str
) -> tuple[np.ndarray, str]:
    """Finds rows that are hits before and not after, for the score "precision" or "recall".

    Returns at most `COLUMNS` indices, those first on which most metrics agree, and a text. It says,
    by metric, how many were hits before, − how many of these are lost, + how many others are hits
    after. With `hash.votes` = None, hits of LSH are shares of the tables: half of them is a hit.

    >>> before = {"knn_recall_hits": np.array([True, True, False])}
    >>> lost(before, {"knn_recall_hits": np.array([True, False, False])}, "recall")
    (array([1]), 'KNN 2 −1 +0')
    """
    fields = {metric: f"{metric}_{score}_hits" for metric in TITLES}
    hit = {m: before[f] >= 0.5 for m, f in fields.items() if f in before and f in after}
    now = {m: after[fields[m]] >= 0.5 for m in hit}
    gone = {m: held & ~now[m] for m, held in hit.items()}
    votes = np.sum(list(gone.values()), axis=0)
    order = np.argsort(-votes, kind="stable")[: min(COLUMNS, np.count_nonzero(votes))]
    said = (
        f"{TITLES[m]} {held.sum():,} −{gone[m].sum():,} +{(now[m] & ~held).sum():,}"
        for m, held in hit.items()
    )
    return order, ", ".join(said)
