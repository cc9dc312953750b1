"""Strips of what a width lost: the right images, drawn once, and the cases without any."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny_generators import TINY

from lsh_gan import compression, datasets
from lsh_gan.experiment import outside
from lsh_gan.experiment.reference import Reference, Samples
from lsh_gan.experiment.step import GeneratedSamples
from lsh_gan.experiment.sweep import Setup
from lsh_gan.generators import Generator, build, sampling

CONFIG = ConfigDict({"seeds": (6, 5), "truncation_psi": 1.0, "num_columns": 2})
FULL = {"generator": "tiny", "row_hash": "full", "bits": None, "seed": 5}
NARROW = {"generator": "tiny", "row_hash": "narrow", "bits": 2, "seed": 5}
COUNT = 40  # samples, and reference images
REAL = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 1), np.uint8)


def images_of(file):
    """The images of a strip of 8 px, `[lines, b, 8, 8]`, and what it says of itself."""
    with Image.open(file) as image:
        pixels, said = np.asarray(image), image.info.get("Description", "")
    return pixels.reshape(len(pixels) // 8, 8, -1, 8).swapaxes(1, 2), said


@pytest.fixture(scope="module")
def generator():
    """A conditional generator: an image depends on a latent and on a class."""
    module = build("sngan", TINY["sngan"])
    z = np.zeros((1, module.latent_size), np.float32)
    params = jax.jit(module.init)(jax.random.key(0), z)
    return Generator("tiny", "sngan", module, params, 8, 1, {"options": TINY["sngan"]})


@pytest.fixture
def workdir(tmp_path, generator):
    """A packed file, and hits: two metrics miss number 17, one 3 and 30 as well."""
    spec = compression.GeneratorSpec(weights=compression.CompressionSpec(bits=2))
    packed, _ = compression.pack_generator(generator.module, generator.params, spec)
    (tmp_path / "packed").mkdir()
    (tmp_path / "hits").mkdir()
    compression.save_packed(tmp_path / "packed" / "narrow.packed", packed)
    fields = [f"{m}_{s}_hits" for m in ("knn", "lsh") for s in ("precision", "recall")]
    before = {field: np.ones(COUNT, bool) for field in fields}
    after = {field: hits.copy() for field, hits in before.items()}
    before["lsh_precision_hits"][9] = after["lsh_precision_hits"][9] = False  # was never a hit
    before["lsh_recall_hits"][[5, 6]] = False  # is a hit at 2 bits alone
    for field in fields:
        after[field][[17, 3, 30] if field.startswith("lsh") else [17]] = False
    np.savez(tmp_path / "hits" / "full.npz", **before)
    np.savez(tmp_path / "hits" / "narrow.npz", **after)
    return tmp_path


@pytest.fixture
def images(tmp_path):
    """The reference: the last rows of a file."""
    np.save(tmp_path / "real.npy", np.concatenate([np.zeros((5, 8, 8, 1), np.uint8), REAL]))
    source = datasets.open_source(tmp_path / "real.npy")
    return Samples(source, np.arange(5, 5 + COUNT), "", [REAL], None)


def write(workdir, generator, first):
    setup = Setup(CONFIG, None, [generator], Reference(first, None, "", ""), {})
    outside.write(workdir, [FULL, NARROW], setup)


def test_samples_that_left_stand_below_the_same_latents_at_full_precision(
    workdir, generator, images
):
    write(workdir, generator, images)
    (full, narrow), said = images_of(workdir / "outside" / "narrow.png")
    packed = compression.load_packed(workdir / "packed" / "narrow.packed")
    for found, params in ((full, generator.params), (narrow, compression.unpack(packed))):
        sequence = sampling.sample(generator, params, jax.random.key(5), COUNT, batch_size=COUNT)
        expected = next(sequence)[[17, 3, 30], ..., 0]
        np.testing.assert_allclose(found.astype(int), expected, atol=1)
    assert np.abs(full.astype(int) - narrow).max() > 1
    assert said == "2 bits, seed 5: inside: KNN 40 −1 +0, LSH 39 −3 +0"
    assert not (workdir / "outside" / "full.png").exists()
    before = (workdir / "outside" / "narrow.png").stat().st_mtime_ns
    write(workdir, generator, images)
    assert (workdir / "outside" / "narrow.png").stat().st_mtime_ns == before


@pytest.mark.parametrize("own", [False, True])
def test_images_that_lost_their_cover(own, workdir, generator, images):
    first, expected = images, REAL
    if own:
        first = GeneratedSamples(generator, generator.params, 7, COUNT, COUNT, start=100)
        given = generator, generator.params, jax.random.key(7), 100 + COUNT
        expected = np.concatenate(list(sampling.sample(*given, batch_size=COUNT)))[100:]
    write(workdir, generator, first)
    (found,), said = images_of(workdir / "uncovered" / "narrow.png")
    np.testing.assert_allclose(found.astype(int), expected[[17, 3, 30], ..., 0], atol=1)
    assert said == "2 bits, seed 5: covered: KNN 40 −1 +0, LSH 38 −3 +2"


def test_features_have_no_uncovered_images(workdir, generator, images, caplog):
    rows = np.zeros((COUNT, 3), np.float32)
    with caplog.at_level(logging.INFO, "absl"):
        write(workdir, generator, dataclasses.replace(images, held=None, features=rows))
    assert (workdir / "outside" / "narrow.png").exists()
    assert not (workdir / "uncovered").exists()
    assert [r.message for r in caplog.records].count(outside.NO_IMAGES) == 1


def test_shares_of_tables_are_hits_from_a_half_on():
    before = {"lsh_recall_hits": np.array([0.5, 1.0, 0.2, 0.9])}
    after = {"lsh_recall_hits": np.array([0.4, 0.5, 0.0, 0.1])}
    indices, said = outside.lost(before, after, "recall")
    assert (indices.tolist(), said) == ([0, 3], "LSH 3 −2 +0")


def test_rows_without_hits_get_no_strips(tmp_path, generator, images):
    setup = Setup(CONFIG, None, [generator], Reference(images, None, "", ""), {})
    outside.write(tmp_path, [FULL, NARROW], setup)
    assert not (tmp_path / "outside").exists()
