"""The diffusion model: a file of Equinox and the images that Equinox made of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import FOLDER, assert_close

from benchmarks import diffusion
from checkpoints_tools.convert import convert
from lsh_gan import generators, tensor_files
from lsh_gan.generators import sampling

FILE = FOLDER / "files" / "mixer_diffusion_12.eqx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "galaxies"
    convert(FILE, folder, settings={"white": 1.0})  # the values of the ODE themselves
    return folder


@pytest.fixture(scope="module")
def generator(folder):
    return generators.load(folder)


def test_images_are_those_of_equinox(generator):
    golden = tensor_files.read(FOLDER / "mixer_diffusion_12.npz")
    assert generator.image_shape == golden["images"].shape[1:]
    images = generator(generator.params, jnp.asarray(golden["z"]))
    assert_close(images, golden["images"], 1e-4)


def test_steps_written_out_give_the_same(generator):
    z = jax.random.normal(jax.random.key(0), (2, generator.latent_size))
    module = generator.module.clone(unroll=True, num_steps=3)
    scanned = module.clone(unroll=False)
    images = (jax.jit(m.apply)(generator.params, z) for m in (module, scanned))
    assert_close(*images, 1e-5)


def test_it_is_sampled_in_parts(generator):
    key = jax.random.key(0)
    (images,) = sampling.sample(generator, generator.params, key, 3, batch_size=4)
    assert images.shape == (3, *generator.image_shape)
    found = sampling.sample_at(generator, generator.params, key, np.arange(3))
    np.testing.assert_allclose(images.astype(int), found, atol=1)


def test_errors_of_fewer_bits_are_larger(generator, tmp_path, monkeypatch):
    few = dataclasses.replace(generator, module=generator.module.clone(num_steps=3))
    monkeypatch.setattr(diffusion.generators, "load", {"few": few}.get)
    monkeypatch.setattr("sys.argv", ["diffusion", "--generator=few", f"--out={tmp_path / 'new'}"])
    diffusion.main()
    table = (tmp_path / "new" / "diffusion.md").read_text().splitlines()[5:]
    errors = [[float(x.split()[0]) for x in line.split("|")[3:-1]] for line in table]
    assert (np.array(errors[0]) < errors[-1]).all()  # of 8 and 2 bits, after each step


def test_a_row_of_arrays_that_is_cut_off(tmp_path):
    whole = FILE.read_bytes()
    (tmp_path / "a.eqx").write_bytes(whole[:-9])
    with pytest.raises(tensor_files.FormatError, match=r"a\.eqx: "):
        tensor_files.read(tmp_path / "a.eqx")
    arrays = tensor_files.read(FILE)
    assert len(arrays) == 4 + 2 * 12 + 3
    np.testing.assert_array_equal(arrays[-1], 10.0)
