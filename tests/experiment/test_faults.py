"""What goes wrong around a run costs no more than the row in progress.

Runs that end badly are children of one process that has imported everything, so that a kill costs
no start. Undisturbed ones, and those that continue, are not, and share their programs.
`LSH_GAN_KILLS=20 python -m pytest tests/experiment/test_faults.py -k kill` kills a run so often.
"""

import csv
import dataclasses
import logging
import os
import random
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from children import CONTEXT, draw_nothing, project
from configured import save_images, tiny
from tiny_network import NETWORK

from lsh_gan import devices, generators
from lsh_gan.experiment import evaluators, reference, step, sweep
from lsh_gan.generators import checkpoints, sampling
from lsh_gan.results import store

KILLS = int(os.environ.get("LSH_GAN_KILLS", "4"))
ROOT = Path(__file__).parents[2]
TIMED = ("seconds", "images_per_second")  # beginnings of what no two runs have in common
RNG = np.random.default_rng(0)


def configured(images, **changes):
    own = {"generators": (str(images.parent / "tiny"),), "batch_size": 8, "seeds": tuple(range(12))}
    own |= {"compression__bits": (2,), "compression__clipping": ("none",)}
    return tiny(12, **own | {"reference__images": str(images)} | changes)


def run(workdir, images, most=None, said=None, **changes):
    """A run with a feature network of one product; `most` is the largest file, in bytes."""
    project()
    draw_nothing()
    devices.keep_programs(images.parent / "programs")
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        sweep.run(configured(images, **changes), workdir)
    except OSError as error:
        said.send(str(error))
        said.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Reference images; beside them is a generator whose packed files are smaller than a row."""
    file = tmp_path_factory.mktemp("faults") / "real.npy"
    np.save(file, RNG.integers(0, 256, (40, 32, 32), np.uint8))
    options = {"latent_size": 2, "channels": [2, 2, 2]}
    module = generators.build("dcgan", options)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 2)))
    metadata = {"name": "tiny", "family": "dcgan", "options": options}
    checkpoints.save(file.parent / "tiny", metadata, params)
    return file


@pytest.fixture(scope="module")
def undisturbed(images):
    """Rows and table of a run that nothing disturbs, and the seconds that it takes."""
    started, workdir = time.monotonic(), images.parent / "undisturbed"
    return finish(workdir, images), time.monotonic() - started


def outcome(workdir):
    with (workdir / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    return [
        [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]
        for rows in (store.read(workdir), table)
    ]


def finish(workdir, images):
    with pytest.MonkeyPatch.context() as patch:
        project(patch.setattr)
        draw_nothing(patch.setattr)
        sweep.run(configured(images), workdir)
    return outcome(workdir)


def test_runs_that_are_killed_at_any_moment_give_the_same_rows_and_table(
    images, undisturbed, tmp_path
):
    expected, seconds = undisturbed
    moments = random.Random(0)
    for number in range(KILLS):
        before = len(store.read(tmp_path / "run"))
        process = CONTEXT.Process(target=run, args=(tmp_path / "run", images))
        process.start()
        if number % 2:  # between the rows, which are soon there once everything is compiled
            while process.is_alive() and len(store.read(tmp_path / "run")) == before:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.1))
        else:
            process.join(moments.uniform(0, seconds))
        process.kill()
        process.join()
    assert finish(tmp_path / "run", images) == expected


def test_a_full_disk_keeps_finished_rows(images, undisturbed, tmp_path):
    """A limit on the size of files stands for the disk: rows.jsonl is the first to reach it."""
    (rows, _), _ = undisturbed
    most = 6 * max(len(str(row)) for row in rows)
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=run, args=(tmp_path, images, most, sender))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert receiver.recv().startswith("[Errno 27] File too large")
    assert 0 < len(store.read(tmp_path)) < len(rows)
    assert finish(tmp_path, images) == undisturbed[0]


@pytest.mark.parametrize("kind", ["RESOURCE_EXHAUSTED", "INTERNAL: Error dispatching computation"])
def test_a_device_without_memory_gets_smaller_batches(kind, monkeypatch, caplog):
    generator = generators.load("dcgan")
    samples = step.GeneratedSamples(generator, generator.params, 0, 21, batch_size=16)
    expected = samples.embed(NETWORK)
    whole, most = sampling.draw, 3

    def limited(*given):
        if len(given[-1]) > most:
            raise jax.errors.JaxRuntimeError(f"{kind}: Out of memory allocating")
        return whole(*given)

    monkeypatch.setattr(sampling, "draw", limited)
    with caplog.at_level(logging.WARNING, "absl"):
        found = samples.embed(NETWORK)
    np.testing.assert_allclose(found, expected, atol=0.05)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"dcgan: out of memory on the device; continuing with {size} images per step"
        for size in (8, 4, 2)
    ]
    monkeypatch.setattr(step.devices, "process_share", lambda steps: range(3))  # of two processes
    first = dataclasses.replace(samples, batch_size=5)  # of which steps of 2 would pass the end
    np.testing.assert_allclose(first.embed(NETWORK), expected[:15], atol=0.05)
    most = 0
    with pytest.raises(MemoryError, match="dcgan: no memory for one image per device"):
        dataclasses.replace(samples, batch_size=2).embed(NETWORK)


@pytest.mark.usefixtures("without_pictures", "projected")
def test_damaged_images_are_left_out_and_counted(tmp_path):
    folder = save_images(tmp_path / "images", RNG.integers(0, 256, (16, 32, 32), np.uint8))
    for number, size in ((3, 20), (7, 700)):  # the second with a good header
        file = folder / f"{number:02}.png"
        file.write_bytes(file.read_bytes()[:size])
    changes = {"samples": (str(folder),), "generators": (), "reference__num_images": 14}
    with pytest.raises(ValueError, match=r"03\.png: not a readable image"):
        sweep.run(configured(folder, **changes), tmp_path / "run")
    with pytest.raises(ValueError, match="on_error = 'pass'; expected 'fail' or 'skip'"):
        sweep.run(configured(folder, **changes, reference__on_error="pass"), tmp_path / "run")
    sweep.run(configured(folder, **changes, reference__on_error="skip"), tmp_path / "run")
    (row,) = store.read(tmp_path / "run")
    assert (row["n"], row["m"]) == (14, 14)
    said = "14 image files; left out: 2 that cannot be read"
    assert row["reference_taken"] == row["samples_taken"] == said


@pytest.mark.usefixtures("without_pictures", "projected")
def test_features_that_are_not_held_give_the_same_rows(images, monkeypatch, tmp_path):
    folder = save_images(tmp_path / "images", RNG.integers(0, 256, (88, 32, 32), np.uint8))
    monkeypatch.setattr(reference, "SAMPLE_ROWS", 30)
    monkeypatch.setattr("lsh_gan.metrics.hashing.SAMPLE_ROWS", 30)
    changes = {"samples": (str(folder),), "metrics": ("lsh",), "num_samples": 44}
    changes |= {"reference__num_images": 44, "compression__bits": (), "hash__num_bits": "auto"}
    changes |= {"profile": str(tmp_path / "trace"), "reference__images": str(folder), "seeds": (0,)}
    rows = []
    for streams in (False, True):
        monkeypatch.setattr(evaluators, "streams", lambda *sizes, asked=streams: asked)
        monkeypatch.setattr(step, "GROUP", 40)
        config = configured(images, **changes)
        sweep.run(config, tmp_path / str(streams))
        rows.append(outcome(tmp_path / str(streams)))
    assert rows[0] == rows[1]
    assert rows[0][0][0]["lsh_recall_ceiling"] > 0
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
