"""Generators: shapes, checkpoints, and errors that name what is wrong."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsh_gan import generators
from lsh_gan.generators import checkpoints

# Where one file of a checkpoint is missing, Orbax closes its event loop while other reads are still
# under way; their late callbacks find it closed, now and then, and can be raised by nobody.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TINY = {
    "dcgan": {"latent_size": 8, "channels": [8, 4, 4]},
    "sngan": {"latent_size": 8, "base_channels": 8, "channels": [8, 4, 4]},
}


@functools.cache
def params_of(kind):
    module = generators.build(kind, TINY[kind])
    return jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8)))


def make(kind, tmp_path, **metadata):
    params = jax.tree.map(lambda x: x, params_of(kind))
    path = tmp_path / kind
    metadata = {"name": kind, "family": kind, "options": TINY[kind], **metadata}
    checkpoints.save(path, metadata, params)
    return path, params


@pytest.mark.parametrize("family", TINY)
def test_an_image_depends_on_its_own_latent_alone(family, tmp_path):
    generator = generators.load(make(family, tmp_path)[0])
    z = jax.random.normal(jax.random.key(1), (4, 8))
    images = jax.jit(generator)
    whole, alone = (images(generator.params, rows) for rows in (z, z[2:3]))
    # Random weights give faint images: float32 rounding is 1e-6 of the largest value.
    np.testing.assert_allclose(whole[2:3], alone, rtol=0, atol=1e-5 * np.abs(whole).max())
    assert np.abs(whole[0] - whole[1]).max() > 0.1 * np.abs(whole).max()


def test_unknown_checkpoint_lists_the_shipped_ones():
    known = "generators: dcgan, dcgan_animals, dcgan_mnist, dcgan_stacked_mnist, sngan"
    with pytest.raises(FileNotFoundError, match=rf"'dcgam'.*{known}"):
        generators.load("dcgam")


def test_unknown_family_and_option(tmp_path):
    path, _ = make("dcgan", tmp_path, family="dcgam")
    with pytest.raises(ValueError, match=r"'dcgam' is unknown; did you mean 'dcgan'"):
        generators.load(path)
    with pytest.raises(ValueError, match=r"no option 'chanels'; did you mean 'channels'"):
        generators.build("dcgan", {"chanels": [4]})


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([8, 4, 6], r"batch_stats/norm_2/mean has shape \(4,\).*\(6,\)"),
        ([8, 4, 4, 4], r"batch_stats/norm_3/mean has shape nothing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_tensor(channels, message, tmp_path):
    path, _ = make("dcgan", tmp_path, options={**TINY["dcgan"], "channels": channels})
    with pytest.raises(ValueError, match=message):
        generators.load(path)


def test_other_hash_than_recorded(tmp_path):
    path, _ = make("dcgan", tmp_path)
    file = path / "generator.json"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, "sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"sha256 of the parameters is .*recorded is 0000"):
        generators.load(path)


def test_metadata_that_describes_no_generator(tmp_path):
    path, _ = make("dcgan", tmp_path / "a")
    file = path / "generator.json"
    metadata = json.loads(file.read_text())
    names = {"ffhq/psi": "psi", "/": "dcgan", 7: "7", "": "dcgan"}
    cases = [
        *(("name", name, f"name of .* is .*; expected .*'{near}'") for name, near in names.items()),
        ("family", "dgan", r"a/dcgan: generator family 'dgan' is unknown; did you mean 'dcgan'"),
        ("options", {"latent_size": "8"}, "a/dcgan: "),
        ("options", {"latent_size": -8}, "a/dcgan: "),
        ("options", {"latent_size": 8, "channels": None}, "a/dcgan: "),
    ]
    for field, value, message in cases:
        file.write_text(json.dumps(metadata | {field: value}))
        with pytest.raises(ValueError, match=message):
            generators.load(path)


def test_metadata_that_is_no_json_replaces_nothing(tmp_path):
    path, params = make("dcgan", tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(path, {"family": jnp.ones(3)}, jax.tree.map(jnp.zeros_like, params))
    assert generators.load(path).name == "dcgan"


def test_damaged_checkpoints(tmp_path):
    path, _ = make("dcgan", tmp_path)
    shutil.rmtree(path / "params" / "d")
    with pytest.raises(ValueError, match=r"params: "):
        generators.load(path)
    shutil.rmtree(path / "params")
    with pytest.raises(ValueError, match=r"not a readable Orbax checkpoint"):
        generators.load(path)
    (path / "generator.json").write_text('{"family": "dcgan", "options": {}}')
    with pytest.raises(ValueError, match=r"generator.json: expected an object with family"):
        generators.load(path)
    (path / "generator.json").write_text("{")
    with pytest.raises(ValueError, match=r"generator.json: not JSON"):
        generators.load(path)
    (path / "generator.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"not a generator checkpoint"):
        generators.load(path)


@pytest.mark.parametrize("wrapped", [False, True])
def test_products_are_of_full_float32_whatever_the_default(wrapped):
    """Else a GPU takes 10 bits of each factor, and rows differ from those of a CPU by .3 %."""
    generator = generators.load("dcgan")
    if wrapped:
        generator = generators.Generator.from_function(
            generator.module.apply, generator.params, latent=generator.latent_size
        )
    z = jnp.zeros((1, generator.latent_size))
    with jax.default_matmul_precision("bfloat16"):
        program = jax.jit(generator).lower(generator.params, z).as_text()
    products = program.count("stablehlo.convolution") + program.count("stablehlo.dot_general")
    assert products == 4
    assert program.count("HIGHEST") == 2 * products  # of both factors


@pytest.mark.parametrize("name", ["dcgan_mnist", "sngan"])
def test_settings_of_the_session_change_nothing(name):
    def images():
        generator = generators.load(name)
        z, labels = generator.draw(jax.random.key(0), jnp.arange(2, dtype=jnp.uint32))
        generate = jax.jit(functools.partial(generator, labels=labels))
        return generate(generator.params, np.asarray(z, np.float64))

    expected = images()
    with (
        jax.enable_x64(True), jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"), jax.debug_infs(True), jax.debug_nans(True),
    ):  # fmt: skip
        np.testing.assert_array_equal(images(), expected, strict=True)
