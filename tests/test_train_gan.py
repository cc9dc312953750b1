"""Training resumes with the same numbers, and its export loads as a generator."""

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from checkpoints_tools import train_gan
from configs import train as train_config
from lsh_gan import generators

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (32, 28, 28), np.uint8)
    file = tmp_path_factory.mktemp("images") / "images.gz"
    file.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 32, 28, 28) + images.tobytes()))
    config = train_config.get_config("dcgan")
    config.images = str(file)
    config.batch_size = 8
    config.steps = 4
    config.checkpoint_every = 2
    config.log_every = 1
    config.standing_batches = 2
    return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """Work folder and variables of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train_gan.train(config, workdir)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(config, trained, tmp_path):
    workdir, variables = trained
    trainer = train_gan.Trainer(config)
    images, labels = train_gan.load_training_images(config, 0)
    state = trainer.init()
    for _ in range(2):
        state, _ = trainer.step(state, images, labels)
    train_gan.save_state(tmp_path, state)
    resumed = train_gan.train(config, tmp_path)
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    curve, rest = ((folder / "curve.csv").read_text() for folder in (workdir, tmp_path))
    assert curve.splitlines()[0] == "step,discriminator_loss,generator_loss"
    assert rest.splitlines()[1:] == curve.splitlines()[3:]


def test_export_loads(config, trained, tmp_path):
    workdir, variables = trained
    train_gan.export(config, variables, workdir, tmp_path / "generator")
    loaded = generators.load(tmp_path / "generator")
    assert loaded.resolution == 32
    assert loaded.provenance["training"]["steps"] == 4
    assert (tmp_path / "generator" / "curve.csv").exists()
    for ours, theirs in zip(
        jax.tree.leaves(loaded.params), jax.tree.leaves(variables), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_begins_with_the_networks_of_another(config, trained):
    workdir, _ = trained
    follower = config.copy_and_resolve_references()
    follower.first_generator = follower.first_discriminator = str(workdir)
    state = train_gan.Trainer(follower).init()
    trainer = train_gan.Trainer(config)
    last, (images, labels) = trainer.init(), train_gan.load_training_images(config, 0)
    for _ in range(config.steps):
        last, _ = trainer.step(last, images, labels)
    assert int(state.step) == 0
    for network in ("generator", "discriminator"):
        ours, theirs = getattr(state, network), getattr(last, network)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_run_to_begin_with_is_missing(config, tmp_path):
    follower = config.copy_and_resolve_references()
    follower.first_generator = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="gone: no checkpoints of a finished run"):
        train_gan.Trainer(follower).init()


@pytest.mark.parametrize("name", train_gan.DISCRIMINATORS)
def test_gain_multiplies_the_scores(name):
    images = jax.random.uniform(jax.random.key(0), (8, 32, 32, 1))
    plain, amplified = (train_gan.DISCRIMINATORS[name](gain=gain) for gain in (1.0, 8.0))
    variables = plain.init(jax.random.key(1), images, update=True)
    scores = [module.apply(variables, images, update=False) for module in (plain, amplified)]
    np.testing.assert_array_equal(8 * scores[0], scores[1])


def test_unknown_run(tmp_path):
    with pytest.raises(ValueError, match="training run 'dcgam' is unknown; did you mean 'dcgan'"):
        train_gan.train(train_config.get_config("dcgam"), tmp_path)


def test_missing_images(tmp_path):
    config = train_config.get_config("dcgan")
    config.images = str(tmp_path / "gone.gz")
    with pytest.raises(FileNotFoundError, match=r"gone\.gz': no such folder or file"):
        train_gan.train(config, tmp_path)


def test_mistakes_on_the_command_line_are_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "checkpoints_tools.train_gan",
        "--config=configs/train.py:sngan",
    ]
    folders = [f"--workdir={tmp_path / 'work'}", f"--output={tmp_path / 'out'}"]
    done = subprocess.run(
        [*command, "--config.stpes=4", *folders], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "error: config has no field 'stpes'; did you mean 'steps'?\n"
