"""Dry runs: every recipe without its file, sizes to the byte, and what a real run says instead."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configured import changed
from PIL import Image
from tiny_generators import TINY, make

from configs import (
    celeba_hq,
    cifar10,
    default,
    eye_dcgan,
    face_dcgan,
    ffhq,
    imagenet,
    lsun,
    search,
    study,
)
from lsh_gan import compression, devices, generators
from lsh_gan.compression import CompressionSpec, GeneratorSpec, Rule
from lsh_gan.compression.pipeline import packed_size
from lsh_gan.experiment import dry_run, sweep

# Parameters in millions, as published with the networks: Karras et al. 2020 count 30.37 M at 1024
# pixels; Hugging Face 50.4 and 55.9 M with 125 output channels that are never used, 0.14 M, and the
# spectral norms' vectors; Brock 70.4 M. The others are counted from the published layer widths.
RECIPES = {
    "ffhq1024": (lambda: ffhq.get_config("1024"), {"ffhq1024": (30.37, 1024, 512, 0)}),
    "imagenet128": (
        imagenet.get_config,
        {"biggan128": (70.43, 128, 120, 1000), "biggan_deep128": (50.24, 128, 128, 1000)},
    ),
    "imagenet256": (
        lambda: imagenet.get_config("256"),
        {"biggan_deep256": (55.74, 256, 128, 1000)},
    ),
    "celeba_hq": (celeba_hq.get_config, {"celeba_hq256": (23.04, 256, 512, 0)}),
    "cifar10": (
        cifar10.get_config,
        {"cifar10_stylegan2": (20.22, 32, 512, 10), "cifar10_sngan": (4.28, 32, 128, 0)},
    ),
    "lsun_dog": (lsun.get_config, {"lsun_dog": (24.77, 256, 512, 0)}),
    "lsun_bedroom": (lambda: lsun.get_config("bedroom"), {"lsun_bedroom": (32.15, 128, 128, 0)}),
    "face_dcgan": (face_dcgan.get_config, {"face_dcgan": (3.58, 64, 100, 0)}),
    "eye_dcgan": (eye_dcgan.get_config, {"eye_dcgan": (12.92, 128, 100, 8)}),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_dry_without_its_file(recipe, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    make, published = RECIPES[recipe]
    config = make()
    dry_run.run(config)
    printed = capsys.readouterr().out
    assert printed.count("--output=checkpoints/") == len(published)
    for name, (millions, side, latent_size, classes) in published.items():
        line = next(line for line in printed.splitlines() if line.split()[:1] == [name])
        count, images, latent, num_classes, features, _ = line.split()[-6:]
        assert int(count.replace(",", "")) / 1e6 == pytest.approx(millions, abs=0.01)
        assert images == f"{side}×{side}×3"
        assert latent == str(latent_size)
        assert num_classes == str(classes or "–")
        assert features == ("1280" if name.endswith("_dcgan") else "4096")
    assert f"m = {config.num_samples:,} images" in printed
    assert f"rows: {15 * len(published)} =" in printed


def test_files_that_are_there_are_used(capsys, monkeypatch):
    dry_run.run(default.get_config())
    printed = capsys.readouterr().out
    assert "dcgan: found" in printed
    assert "is not there" not in printed
    assert "fashion_mnist: found" in printed
    assert "rows: 30 = (15 + 15) settings × 1 seeds" in printed
    monkeypatch.setattr(devices, "is_first", lambda: False)  # another of several processes
    dry_run.run(default.get_config())
    assert not capsys.readouterr().out


def test_a_function_has_sizes_too(capsys, monkeypatch, tmp_path):
    (tmp_path / "own_function.py").write_text(
        "import jax.numpy as jnp\nimport lsh_gan\n\n\ndef make():\n"
        "    f = lambda p, z: jnp.tanh(z @ p['w']).reshape(-1, 32, 32, 1)\n"
        "    params = {'w': jnp.ones((8, 1024))}\n"
        "    return lsh_gan.Generator.from_function(f, params, latent=8, name='own')\n\n\n"
        "def network():\n"
        "    f = lambda p, x: x.mean(axis=(1, 2))\n"
        "    return lsh_gan.FeatureNetwork.from_function(f, {}, side=4, name='means')\n"
    )
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    config.generators, config.features.name = ("own_function:make",), "own_function:network"
    dry_run.run(config)
    printed = capsys.readouterr().out
    assert re.search(r"own +own_function:make: found +function +8,192 ", printed)
    assert "features: means, d = 3, at 4 pixels; own_function:network" in printed


def test_a_search_says_what_it_will_do(capsys):
    dry_run.run(search.get_config())
    printed = capsys.readouterr().out
    assert "smallest widths out of 8, 7, 6, 5, 4, 3, 2 bits" in printed
    assert "keep 95% of precision and of recall by KNN; n = m = 2,000, seed 1000" in printed
    assert "search of dcgan: full precision, at most 7 uniform widths" in printed
    assert "rows: at most 4 a generator" in printed
    assert "rows: 30" not in printed


def save_dcgan(file, spec, params=None, name="dcgan"):
    """Saves the shipped DCGAN, packed; returns the bytes of the file."""
    dcgan = generators.load("dcgan")
    metadata = {"name": name, "family": "dcgan", "options": dcgan.provenance["options"]}
    packed = compression.pack(params or dcgan.params, spec, metadata=metadata)
    return compression.save_packed(file, packed)


def test_a_packed_generator_has_its_own_size_and_name(capsys, tmp_path):
    size = save_dcgan(tmp_path / "p.packed", CompressionSpec(bits=2))
    config = default.get_config()
    config.generators = ("dcgan", str(tmp_path / "p.packed"))
    dry_run.run(config)
    lines = capsys.readouterr().out.splitlines()
    full = next(line for line in lines if line.split()[:1] == ["full"])
    assert full.split()[-3:] == ["packed", f"{size:,}", "15.5"]
    assert any(line.split()[:4] == ["bits", "grid", "dcgan", "p.packed"] for line in lines)


def test_sizes_are_those_of_the_names_that_a_run_gives(tmp_path):
    file = tmp_path / "a_rather_long_name.packed"
    save_dcgan(file, CompressionSpec(bits=8))
    np.save(tmp_path / "dcgan.npy", np.zeros((9, 1280), np.float32))
    config = default.get_config()
    config.generators = (str(file), "dcgan")
    config.samples = (str(tmp_path / "dcgan.npy"),)
    config.compression.bits = (2,)
    sized = dry_run.measure_sizes(config)
    assert [item.generator.name for item in sized] == ["a_rather_long_name.packed", "dcgan"]
    for item in sized:
        spec, size, _ = item.sizes[-1]
        again = tmp_path / "again.packed"
        params, name = item.generator.params, item.generator.name
        assert save_dcgan(again, spec.weights, params, name) == size


def test_samples_that_are_not_there_are_named(capsys, tmp_path):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "0.png")
    config = default.get_config()
    config.samples = (str(tmp_path / "nope"), str(tmp_path))
    dry_run.run(config)
    printed = capsys.readouterr().out
    assert f"samples: {tmp_path / 'nope'}: not there" in printed
    assert f"samples: {tmp_path}: found" in printed


SPECS = [
    CompressionSpec(bits=None),
    CompressionSpec(bits=3),
    CompressionSpec(bits=5, granularity="per_tensor", scheme="affine"),
    CompressionSpec(bits=4, granularity="per_group", group_size=4, scheme="affine"),
    CompressionSpec(
        bits=2,
        rules=(
            Rule(pattern="params/to_image/kernel", bits=8),
            Rule(pattern="params/project/kernel", skip=True),
        ),
    ),
]


@pytest.mark.parametrize("family", ["dcgan", "biggan", "stylegan2", "fastgan"])
def test_sizes_are_those_of_the_file(family, tmp_path):
    """Ranges of activations, and zero points of pruned weights, count too."""
    generator = generators.abstract("tiny", family, TINY[family])
    z = jnp.ones((2, generator.latent_size))
    labels = jnp.zeros(2, jnp.int32) if generator.num_classes else None
    params = make(family).params
    inputs = CompressionSpec(bits=8, granularity="per_tensor", scheme="affine")
    cases = [(generator, GeneratorSpec(weights=CompressionSpec(bits=4), activations=inputs))]
    if family == "dcgan":
        cases += [(generator, GeneratorSpec(weights=spec)) for spec in SPECS]
        pruned = jax.tree.map(lambda x: jnp.where(jnp.abs(x) < 0.3, 0, x), params)
        cases.append((dataclasses.replace(generator, params=pruned), cases[2][1]))
    for case, spec in cases:
        metadata = {"name": "tiny", "family": family, "options": TINY[family]}
        packed, _ = compression.pack_generator(
            case.module, params if case is generator else case.params, spec, latents=z,
            labels=labels, metadata=metadata,
        )  # fmt: skip
        written = compression.save_packed(tmp_path / "tiny.packed", packed)
        assert packed_size(case.module, case.params, spec, metadata=metadata)[0] == written


def test_a_real_run_names_the_missing_file_and_the_commands(tmp_path):
    config = ffhq.get_config("256")
    config.features.name, config.features.side, config.features.weights = (
        "efficientnet_lite0", 32, "",
    )  # fmt: skip
    message = (
        r"generator 'checkpoints/ffhq256': no such checkpoint; get ffhq-res256-mirror-paper256-"
        r"noaug\.pkl \(NVlabs.*\), then: python -m checkpoints_tools.convert --source=stylegan2 "
        r"--input=ffhq-res256.*--output=checkpoints/ffhq256"
    )
    with pytest.raises(FileNotFoundError, match=message) as error:
        sweep.run(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_checkpoints_of_the_study_say_how_to_get_them():
    for name, paths in study.GENERATORS.items():
        described = study.get_config(name).expected
        files = [Path(path).name for path in paths if path.startswith("checkpoints/")]
        assert sorted(described) == files


def test_an_incomplete_description_names_the_field():
    config = ffhq.get_config("256")
    with config.unlocked():
        del config.expected.ffhq256["origin"]
    with pytest.raises(ValueError, match=r"'checkpoints/ffhq256' lacks the field 'origin'"):
        dry_run.run(config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"generators": ("checkpoints/nothing",)}, FileNotFoundError,
         "'checkpoints/nothing': no such checkpoint"),
        ({"compression__rules": ("params/up_9/kernel: skip",)}, ValueError, "matches nothing"),
        ({"truncation_psi": 0.5}, ValueError, "the family 'dcgan' takes no truncation_psi"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_an_error_in_a_dry_run_too(changes, error, message):
    with pytest.raises(error, match=message):
        dry_run.run(changed(default.get_config(), **changes))


def test_a_dry_run_compares_d_too(tmp_path):
    file = tmp_path / "real.npy"
    np.save(file, np.zeros((12, 7), np.float32))
    changes = {"generators": (), "samples": ("mnist",), "reference__num_images": 12}
    config = changed(default.get_config(), reference__features=str(file), **changes)
    with pytest.raises(ValueError, match=r"d = 7; the feature network has d = 1280"):
        dry_run.run(config)
