"""Reference images from every kind of source, and errors that name the file."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from lsh_gan import datasets


def idx(images, magic=0x803):
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)


def test_shipped_images_are_the_published_test_set():
    images = datasets.load_images("fashion_mnist")
    assert images.shape == (10_000, 32, 32, 1)
    assert images.dtype == np.uint8
    # Padding is black; the published images average 73.15 of 255 over 28 × 28 pixels.
    assert images[:, :2].max() == images[:, :, -2:].max() == 0
    assert images[:, 2:30, 2:30].mean() == pytest.approx(73.15, abs=0.005)


def test_idx_plain_and_gzipped(images, tmp_path):
    (tmp_path / "plain").write_bytes(idx(images))
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(idx(images)))
    for name in ("plain", "zipped.gz"):
        np.testing.assert_array_equal(datasets.load_images(tmp_path / name), images[..., None])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (idx(np.zeros((1, 2, 2), np.uint8), magic=0x801), "not an idx file"),
        (idx(np.zeros((2, 2, 2), np.uint8))[:-1], "7 bytes of pixels, expected 2×2×2"),
    ],
)
def test_damaged_idx(content, message, tmp_path):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        datasets.read_idx_images(tmp_path / "images")


def test_truncated_gzip(images, tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(images))[:-9])
    with pytest.raises(ValueError, match=r"a\.gz: not a complete gzip file"):
        datasets.read_idx_images(tmp_path / "a.gz")


def test_folder_in_order_of_path(images, tmp_path):
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(datasets.load_images(tmp_path), images[..., None])


def test_folder_of_grey_and_colour_becomes_colour(images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    Image.fromarray(np.stack([images[1]] * 3, -1)).save(tmp_path / "1.png")
    loaded = datasets.load_images(tmp_path)
    np.testing.assert_array_equal(loaded, np.repeat(images[:2, ..., None], 3, -1))


def test_mixed_sizes_need_a_rule(images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    Image.fromarray(images[1].T).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1\.png: 5×4 pixels, but 0\.png has 4×5; set reference"):
        datasets.load_images(tmp_path)
    assert datasets.load_images(tmp_path, side=8).shape == (2, 8, 8, 1)


def test_resizing_crops_the_centre():
    image = np.zeros((1, 4, 8, 1), np.uint8)
    image[:, :, 2:6] = 200
    np.testing.assert_array_equal(datasets._square(image[0], 2), np.full((2, 2, 1), 200))


def test_empty_folder_and_unreadable_image(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        datasets.load_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(ValueError, match=r"broken\.png: not a readable image"):
        datasets.load_images(tmp_path)


def test_truncated_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.png: not a readable image"):
        datasets.load_images(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_16_bit_grey_is_scaled_not_clipped(name, tmp_path):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 6 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    loaded = datasets.load_images(tmp_path)
    np.testing.assert_array_equal(loaded[0, ..., 0], [[0, 0, 1, 1, 128, 255]])


def test_16_bit_big_endian_tiff(tmp_path):
    values = np.array([[0, 257, 65535]], ">u2")
    Image.frombytes("I;16B", (3, 1), values.tobytes()).save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(datasets.load_images(tmp_path)[0, ..., 0], [[0, 1, 255]])


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_pixels_of_unknown_range_are_refused(dtype, mode, tmp_path):
    Image.fromarray(np.full((4, 4), 70_000, dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=rf"a\.tiff: pixels of mode '{mode}', whose range is unk"):
        datasets.load_images(tmp_path)


def test_arrays(images, tmp_path):
    np.savez(tmp_path / "a.npz", images=images)
    np.save(tmp_path / "b.npy", np.stack([images] * 3, -1))
    assert datasets.load_images(tmp_path / "a.npz").shape == (3, 5, 4, 1)
    assert datasets.load_images(tmp_path / "b.npy").shape == (3, 5, 4, 3)


def test_shapes_are_known_from_headers(images, tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=images)
    np.save(tmp_path / "b.npy", np.stack([images] * 3, -1))
    for folder, modes in (("grey", ("L", "1")), ("both", ("L", "RGB")), ("palette", ("P",))):
        (tmp_path / folder).mkdir()
        for i, mode in enumerate(modes):
            Image.fromarray(images[i]).convert(mode).save(tmp_path / folder / f"{i}.png")
    names = ("a.npz", "b.npy", "grey", "both", "palette")
    sources = ["fashion_mnist", *(tmp_path / name for name in names)]
    expected = [datasets.load_images(s, side=side).shape for s in sources for side in (0, 8)]
    monkeypatch.setattr(datasets, "_read_file", None)
    found = [datasets.image_shape(s, side=side) for s in sources for side in (0, 8)]
    assert found == expected
    assert [shape[-1] for shape in found[::2]] == [1, 1, 3, 1, 3, 3]


@pytest.mark.parametrize("name", ["nope", "nope.npy", "a.npy", "b.npy", "c.npz", "d"])
def test_shapes_of_unfit_sources_are_refused_in_the_same_words(name, images, tmp_path):
    np.save(tmp_path / "a.npy", images.astype(np.float32))
    np.save(tmp_path / "b.npy", np.stack([images] * 2, -1))
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 broken")
    (tmp_path / "d").mkdir()
    said = []
    for read in (datasets.load_images, datasets.image_shape):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            read(tmp_path / name)
        said.append((error.type, str(error.value)))
    assert said[0] == said[1]


def test_arrays_of_another_type_or_rank(images, tmp_path):
    np.save(tmp_path / "a.npy", images.astype(np.float32))
    with pytest.raises(ValueError, match=r"a\.npy: images are float32; expected uint8"):
        datasets.load_images(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.stack([images] * 2, -1))
    with pytest.raises(ValueError, match=r"b\.npy: images have shape \(3, 5, 4, 2\)"):
        datasets.load_images(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"c\.npy: not a readable array file"):
        datasets.load_images(tmp_path / "c.npy")
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match=r"d\.npz: not a readable array file"):
        datasets.load_images(tmp_path / "d.npz")


def test_missing_source():
    with pytest.raises(FileNotFoundError, match=r"no such folder or file; shipped: fashion_mnist"):
        datasets.load_images("fashion_mnits")
