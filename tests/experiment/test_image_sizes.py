"""Images of other sizes or colours than the reference's are refused before anything is decoded."""

import dataclasses

import numpy as np
import pytest
from configured import changed, tiny
from PIL import Image, ImageFile

from lsh_gan import features, generators
from lsh_gan.experiment import dry_run, settings, sweep
from lsh_gan.experiment.reference import open_samples


def prepare(config):
    return sweep.prepare(settings.resolve(config))


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Image files by name, and a guard that fails where pixels are decoded."""
    (tmp_path / "jpegs").mkdir()
    for number in range(8):
        Image.new("RGB", (28, 28)).save(tmp_path / "jpegs" / f"{number}.jpg")
    for side in (28, 32):
        np.save(tmp_path / f"grey{side}.npy", np.zeros((8, side, side), np.uint8))
    np.save(tmp_path / "wide.npy", np.zeros((8, 28, 32), np.uint8))

    def refuse(*arguments, **options):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    monkeypatch.setattr(features, "embed", refuse)
    return tmp_path


GENERATOR = r"^generator dcgan makes images of 32×32 pixels, but the reference {} has {}; {}$"
SAMPLES = r"^samples .*{} have {} pixels, but the reference {} has {}; {}$"
RESIZE = r"say --config\.reference\.side=32 to crop and resize the reference"


@pytest.mark.parametrize(
    ("reference", "samples", "message"),
    [
        ("jpegs", None, GENERATOR.format("jpegs", "28×28", RESIZE)),
        ("grey28.npy", None, GENERATOR.format(r"grey28\.npy", "28×28", RESIZE)),
        ("wide.npy", None, GENERATOR.format(r"wide\.npy", "28×32", RESIZE)),
        (None, "jpegs", SAMPLES.format("jpegs", "28×28", "fashion_mnist", "32×32", "pad them .*")),
        (
            "grey32.npy",
            "grey28.npy",
            SAMPLES.format(
                r"grey28\.npy", "28×28", r"grey32\.npy", "32×32",
                r"resize them to 32×32, or say --config\.reference\.side=32 .* for both",
            ),
        ),
    ],
)  # fmt: skip
def test_other_sizes(sources, reference, samples, message):
    config = tiny(
        reference__images=str(sources / reference) if reference else "fashion_mnist",
        samples=(str(sources / samples),) if samples else (),
    )
    for run in (prepare, dry_run.run):
        with pytest.raises(ValueError, match=message):
            run(config)


def test_the_way_out_is_one(sources):
    config = tiny(
        reference__images=str(sources / "grey28.npy"),
        reference__side=32,
        samples=(str(sources / "wide.npy"),),
    )
    assert prepare(config).reference.image_shape == (32, 32, 1)


def test_samples_without_the_border_of_the_shipped_images(sources, tmp_path):
    """Resized to one size, the same image would lie elsewhere."""
    np.save(tmp_path / "fake.npy", np.zeros((8, 64, 64), np.uint8))
    config = tiny(generators=(), reference__side=64, samples=(str(tmp_path / "fake.npy"),))
    assert prepare(config).reference.image_shape == (64, 64, 1)
    for name in ("jpegs", "grey28.npy"):
        config = tiny(generators=(), reference__side=64, samples=(str(sources / name),))
        with pytest.raises(ValueError, match=rf"{name} have 28×28 pixels, but .* are padded to 32"):
            prepare(config)
        config = changed(config, reference__images="mnist:train")
        samples = [open_samples(config, str(sources / name))]
        with pytest.raises(ValueError, match=rf"{name} have 28×28 pixels, but .* are padded to 32"):
            settings.check_image_sizes(config, (64, 64, 1), [], samples)
    message = "have 64×64 pixels, .* 32×32; resize them to 32×32, or say --config.reference.side=32"
    with pytest.raises(ValueError, match=message):
        prepare(tiny(generators=(), samples=(str(tmp_path / "fake.npy"),)))


def test_features_have_no_size(tmp_path):
    real, fake = (str(tmp_path / name) for name in ("real.npy", "fake.npy"))
    np.save(real, np.random.default_rng(0).random((8, 1280), np.float32))
    np.save(fake, np.zeros((8, 28, 28, 3), np.uint8))
    config = tiny(reference__features=real, samples=(fake,))
    assert prepare(config).reference.image_shape is None
    assert open_samples(tiny(), real).image_shape is None


def test_fewer_images_than_asked_for_are_counted_not_decoded(sources):
    config = tiny(
        reference__images=str(sources / "jpegs"), reference__side=32, reference__num_images=9
    )
    with pytest.raises(ValueError, match=r"reference\.num_images = 9: .*jpegs has 8, .* is 8$"):
        prepare(config)


def test_a_generator_of_colours_and_a_grey_reference():
    grey = generators.load("dcgan")
    colour = dataclasses.replace(grey, image_channels=3)
    config = tiny()
    with pytest.raises(
        ValueError, match=r"dcgan makes RGB images, .* fashion_mnist is grey; expec"
    ):
        settings.check_image_sizes(config, (32, 32, 1), [colour], {})
    settings.check_image_sizes(config, (32, 32, 3), [grey, colour], {})


def test_coloured_samples_and_a_grey_reference(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), np.uint8).repeat(3, -1)
    np.save(tmp_path / "fake.npy", pixels)
    config = tiny(generators=(), samples=(str(tmp_path / "fake.npy"),))
    assert len(sweep.measurements(prepare(config))) == 1  # grey images in RGB
    pixels[5, 3, 3, 2] ^= 1
    np.save(tmp_path / "fake.npy", pixels)
    with pytest.raises(ValueError, match=r"fake\.npy: image 5 is in colour, but .* is grey; conv"):
        sweep.measurements(prepare(config))


def test_what_is_grey_and_a_reference_in_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), np.uint8)
    np.save(tmp_path / "grey.npy", pixels)
    pixels = pixels.repeat(3, -1)
    np.save(tmp_path / "real.npy", pixels)
    config = tiny(
        samples=(str(tmp_path / "grey.npy"),), reference__images=str(tmp_path / "real.npy")
    )
    prepare(config)  # grey images in RGB
    pixels[5, 3, 3, 2] ^= 1
    np.save(tmp_path / "real.npy", pixels)
    with pytest.raises(ValueError, match=r"dcgan makes grey images, but .* real\.npy is in colour"):
        prepare(config)
    config.generators = ()
    for channels in (1, 3):
        np.save(tmp_path / "grey.npy", pixels[..., :1].repeat(channels, -1))
        with pytest.raises(
            ValueError, match=r"grey\.npy are grey images, .* real\.npy is in colour"
        ):
            prepare(config)


def test_the_generator_of_the_reference_has_a_size_too(tmp_path):
    np.save(tmp_path / "fake.npy", np.zeros((8, 28, 28), np.uint8))
    config = tiny(
        reference__samples_of="dcgan", reference__seed=7, samples=(str(tmp_path / "fake.npy"),)
    )
    with pytest.raises(ValueError, match="28×28 pixels, but the reference dcgan has 32×32; resize"):
        prepare(config)
