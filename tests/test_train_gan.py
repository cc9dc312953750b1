"""Training resumes with the same numbers, and its export loads as a generator."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from checkpoints_tools import train_gan
from configs import train as train_config
from lsh_gan import datasets, generators

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A conditional generator of images in colour."""
    dataset = datasets.NamedDataset("tiny", "", fetched=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(datasets.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        patch.setitem(datasets.NAMED, "tiny", dataset)
        dataset.cached_file().parent.mkdir(parents=True)
        images = np.random.default_rng(0).integers(0, 256, (32, 28, 28, 3), np.uint8)
        np.savez(dataset.cached_file(), train_images=images, train_labels=np.arange(32) % 2)
        yield tiny_config("tiny:train", image_channels=3, num_classes=2)


def tiny_config(images, **options):
    config = train_config.get_config("dcgan")
    config.images = str(images)
    config.options.update(channels=(8, 4, 4), **options)
    config.discriminator_options.channels = (4, 4, 4)
    config.translate = 2
    config.batch_size = 8
    config.steps = 4
    config.checkpoint_every = 2
    config.log_every = 1
    config.standing_batches = 2
    return config


@pytest.fixture(scope="module", autouse=True)
def _trainers_of_one_configuration_share_their_programs():
    """One object a configuration: beginning and step are compiled once.

    States are bound to the device, as those of a checkpoint are.
    """
    made, whole = {}, train_gan.Trainer

    def trainer(config):
        key = config.to_json()
        if key not in made:
            made[key] = found = whole(config)
            init = found.init
            found.init = lambda: jax.device_put(init(), jax.devices()[0])
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_gan, "Trainer", trainer)
        yield


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """Work folder and variables of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train_gan.train(config, workdir)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(config, trained, tmp_path):
    workdir, variables = trained
    trainer = train_gan.Trainer(config)
    images, labels = train_gan.load_training_images(config, 2)
    state = trainer.init()
    for _ in range(2):
        state, _ = trainer.step(state, images, labels)
    with train_gan._checkpoints(tmp_path) as manager:
        manager.save(2, args=ocp.args.StandardSave(state))
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
    assert loaded.image_shape == (32, 32, 3)
    assert loaded.num_classes == 2
    assert loaded.provenance["training"]["steps"] == 4
    assert (tmp_path / "generator" / "curve.csv").exists()
    for ours, theirs in zip(
        jax.tree.leaves(loaded.params), jax.tree.leaves(variables), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_factors_of_latents_and_images_are_in_the_kernels(trained):
    module = generators.build(
        "dcgan", {"channels": (8, 4, 4), "image_channels": 3, "num_classes": 2}
    )
    z, labels = jax.random.normal(jax.random.key(0), (3, 128)), np.array([0, 1, 1])
    wide = train_gan.widen(trained[1], 128, 1.5, 2.0)
    apply = jax.jit(module.apply)
    expected = np.tanh(2 * np.arctanh(apply(trained[1], 1.5 * z, labels=labels)))
    np.testing.assert_allclose(apply(wide, z, labels=labels), expected, atol=1e-5)


def test_a_run_begins_with_the_networks_of_another(config, trained):
    workdir, _ = trained
    follower = config.copy_and_resolve_references()
    follower.first_generator = follower.first_discriminator = str(workdir)
    state = train_gan.Trainer(follower).init()
    trainer = train_gan.Trainer(config)
    last, (images, labels) = trainer.init(), train_gan.load_training_images(config, 2)
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
        jax.eval_shape(train_gan.Trainer(follower).init)


def test_unconditional_and_grey(tmp_path):
    images = np.zeros((16, 28, 28), np.uint8)
    np.save(tmp_path / "a.npy", images)
    config = tiny_config(tmp_path / "a.npy")
    trainer = train_gan.Trainer(config)
    images, labels = train_gan.load_training_images(config, 0)
    assert images.shape == (16, 32, 32, 1)
    assert labels is None
    state = jax.eval_shape(trainer.init)
    after, _ = jax.eval_shape(trainer.step, state, images, None)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    with pytest.raises(ValueError, match=r"a\.npy: has 0 classes; the generator has 3"):
        train_gan.load_training_images(config, 3)


def test_images_move_as_a_whole_and_black_moves_in():
    images = jax.random.uniform(jax.random.key(0), (40, 6, 6, 1))
    moved = np.asarray(train_gan.translate(images, jax.random.key(1), 1))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
    moves = set()
    for image, whole in zip(moved, padded, strict=True):
        fits = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if (whole[y : y + 6, x : x + 6] == image).all()
        ]
        assert len(fits) == 1
        moves |= set(fits)
    assert len(moves) == 9


@pytest.mark.parametrize("name", train_gan.DISCRIMINATORS)
def test_gain_multiplies_the_scores(name):
    images = jax.random.uniform(jax.random.key(0), (8, 8, 8, 1))
    plain, amplified = (
        train_gan.DISCRIMINATORS[name](channels=(4,), gain=gain) for gain in (1.0, 8.0)
    )
    scores = [
        jax.jit(functools.partial(module.init_with_output, update=True))(jax.random.key(1), images)
        for module in (plain, amplified)
    ]
    np.testing.assert_array_equal(8 * scores[0][0], scores[1][0])


def test_unknown_run(tmp_path):
    with pytest.raises(ValueError, match="training run 'dcgam' is unknown; did you mean 'dcgan'"):
        train_gan.train(train_config.get_config("dcgam"), tmp_path)


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
