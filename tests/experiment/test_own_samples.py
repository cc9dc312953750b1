"""A generator's own uncompressed samples as the reference."""

from unittest import mock

import jax
import numpy as np
import pytest
from configured import tiny

from lsh_gan import generators
from lsh_gan.experiment import reference, settings, sweep
from lsh_gan.generators import checkpoints, sampling
from lsh_gan.results import store


def config(**changes):
    """Judges the shipped DCGAN against itself, tiny."""
    own = {"reference__samples_of": "dcgan", "reference__seed": 7, "batch_size": 8}
    return tiny(16, **own | changes)


@pytest.mark.usefixtures("without_pictures", "projected")
def test_rows_name_the_reference_and_the_table_does_too(tmp_path, monkeypatch):
    load = mock.Mock(wraps=generators.load)
    monkeypatch.setattr(generators, "load", load)
    sweep.run(config(), tmp_path / "run")
    load.assert_called_once_with("dcgan")  # generator and reference
    (row,) = store.read(tmp_path / "run")
    assert row["reference_name"] == "uncompressed samples of dcgan itself, not real images"
    assert row["reference_name"] in (tmp_path / "run" / "table.md").read_text()
    assert (row["n"], row["m"]) == (16, 16)
    assert {"knn_precision_ceiling", "knn_recall_ceiling"} <= row.keys()


def own_samples(**changes):
    return reference.load_reference(settings.resolve(config(**changes)), Pixels(), None)


class Pixels:
    """A feature network whose features are the pixels."""

    variables, on_host = (), False

    @staticmethod
    def apply(variables, images):
        return jax.numpy.asarray(images, "float32").reshape(len(images), -1)


def test_the_two_samples_are_disjoint_parts_of_one_sequence():
    drawn = own_samples()
    first, second = drawn.first, drawn.second
    both = np.concatenate([part.embed(Pixels(), batch_size=8) for part in (first, second)])
    generator = generators.load("dcgan")
    sequence = sampling.sample(generator, generator.params, jax.random.key(7), 32, batch_size=32)
    # Rounding to 255 steps may fall either way where float32 sums differ in their last bit.
    np.testing.assert_allclose(both, next(sequence).reshape(32, -1).astype(float), atol=1)
    assert first.content_hash != second.content_hash


def test_the_content_hash_is_of_what_the_samples_depend_on():
    def content_hash(**changes):
        return own_samples(**changes).first.content_hash

    assert content_hash() == content_hash(batch_size=16)
    assert content_hash() != content_hash(reference__seed=8)
    assert content_hash() != content_hash(reference__samples_of="sngan")


def test_options_that_change_no_parameter_are_part_of_the_content(tmp_path):
    sngan, names, hashes = generators.load("sngan"), [], set()
    for upsample in ("nearest", "bilinear"):
        options = sngan.provenance["options"] | {"upsample": upsample}
        names.append(str(tmp_path / upsample))
        metadata = {"name": upsample, "family": "sngan", "options": options}
        checkpoints.save(names[-1], metadata, sngan.params)
        hashes.add(own_samples(reference__samples_of=names[-1]).first.content_hash)
    assert len(hashes) == 2
    rows_of_both = sweep.measurements(
        sweep.prepare(settings.resolve(config(generators=tuple(names))))
    )
    assert len({task.row_hash for task in rows_of_both}) == 2
