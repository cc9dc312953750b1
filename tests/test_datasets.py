"""Images and features from every kind of source, and errors that name the file."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile

from lsh_gan import datasets
from lsh_gan.datasets import Decoding, open_source


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
        datasets.load_images(tmp_path / "images")


def test_truncated_gzip(images, tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(images))[:-9])
    with pytest.raises(ValueError, match=r"a\.gz: not a complete gzip file"):
        datasets.load_images(tmp_path / "a.gz")


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


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_pixels_of_unknown_range_are_refused(dtype, mode, tmp_path):
    Image.fromarray(np.full((4, 4), 70_000, dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=rf"a\.tiff: pixels of mode '{mode}', whose range is unk"):
        datasets.load_images(tmp_path)


def test_shapes_are_known_from_headers(images, tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=images)
    np.save(tmp_path / "b.npy", np.stack([images] * 3, -1))
    for folder, modes in (("grey", ("L", "1", "LA")), ("both", ("L", "RGB")), ("palette", ("P",))):
        (tmp_path / folder).mkdir()
        for i, mode in enumerate(modes):
            Image.fromarray(images[i]).convert(mode).save(tmp_path / folder / f"{i}.png")
    names = ("a.npz", "b.npy", "grey", "both", "palette")
    cases = [
        (path, Decoding(side))
        for path in ("fashion_mnist", *(tmp_path / name for name in names))
        for side in (0, 8)
    ]
    expected = [open_source(path, decoding=decoding).load().shape for path, decoding in cases]
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    found = [open_source(path, decoding=decoding).shape for path, decoding in cases]
    assert found == expected
    assert [shape[-1] for shape in found[::2]] == [1, 1, 3, 1, 3, 3]


def test_arrays_of_another_type_or_rank(images, tmp_path):
    np.save(tmp_path / "b.npy", np.stack([images] * 2, -1))
    with pytest.raises(ValueError, match=r"b\.npy: images have shape \(3, 5, 4, 2\)"):
        datasets.load_images(tmp_path / "b.npy")
    np.save(tmp_path / "one.npy", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(32, 32, 3\); expected \[n, h, w\], "):
        datasets.load_images(tmp_path / "one.npy")
    np.save(tmp_path / "c.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"c\.npy: not a readable array file .*Python objects"):
        datasets.load_images(tmp_path / "c.npy")
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match=r"d\.npz: not a readable array file"):
        datasets.load_images(tmp_path / "d.npz")
    (tmp_path / "e.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"e\.npy: "):
        datasets.load_images(tmp_path / "e.npy")


@pytest.mark.parametrize(
    ("scale", "dtype", "how"),
    [
        (lambda x: x / 255, np.float32, r"from 0 to 1; .*np\.round\(x \* 255\)"),
        (lambda x: x / 127.5 - 1, np.float16, r"from -1 to 1; .*np\.round\(\(x \+ 1\) \* 127\.5"),
        (lambda x: x, np.int64, r"from 0 to 255; .*np\.round\(x\)"),
        (lambda x: x * 16, np.uint16, r"from 0 to 4080; expected uint8, 0 to 255$"),
        (lambda x: x * np.nan, np.float64, r"from nan to nan; expected uint8, 0 to 255$"),
    ],
)
def test_pixels_of_another_type_say_how_to_convert_them(images, scale, dtype, how, tmp_path):
    images[0, 0, :2] = 0, 255
    np.save(tmp_path / "a.npy", scale(images.astype(float)).astype(dtype))
    with pytest.raises(ValueError, match=rf"a\.npy: images are {np.dtype(dtype)} {how}"):
        datasets.load_images(tmp_path / "a.npy")


def test_missing_source():
    with pytest.raises(
        FileNotFoundError, match="no such folder or file; data sets: fashion_mnist, "
    ):
        datasets.load_images("fashion_mnits")


# --- arrays by role and layout -------------------------------------------------------------------

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 9, 9, 3), np.uint8)
FEATURES = np.random.default_rng(1).standard_normal((6, 7)).astype(np.float32)
SQUARE = np.eye(9, dtype=np.float32)


@pytest.mark.parametrize(
    ("arrays", "kinds", "expected"),
    [
        # A reference batch of the guided-diffusion evaluator.
        ({"mu": SQUARE[0], "sigma": SQUARE, "sigma_s": SQUARE, "arr_0": PIXELS}, "if", "arr_0"),
        ({"labels": np.arange(6), "images": PIXELS, "masks": PIXELS[..., 0]}, "if", "images"),
        ({"y": np.eye(6), "X": PIXELS}, "if", "X"),  # one-hot labels
        ({"z": FEATURES, "anything": PIXELS}, "if", "anything"),
        ({"latent_maps": np.zeros((6, 4, 8, 8), np.float32), "real": PIXELS}, "if", "real"),
        ({"names": np.array(list("abcdef")), "reps": FEATURES}, "if", "reps"),
        ({"images": PIXELS, "features": FEATURES}, "if", "images"),
        ({"images": PIXELS, "features": FEATURES}, "fi", "features"),
        ({"mu": SQUARE, "Embeddings": FEATURES, "logits": SQUARE}, "f", "Embeddings"),
        ({"names": np.array(["a", None]), "feats": FEATURES}, "f", "feats"),  # objects beside
    ],
)
def test_the_array_is_chosen_by_its_role(arrays, kinds, expected, tmp_path):
    with (tmp_path / "A.NPZ").open("wb") as stream:
        np.savez(stream, **arrays, allow_pickle=True)
    kinds = [{"i": "images", "f": "features"}[letter] for letter in kinds]
    source = open_source(tmp_path / "A.NPZ", kinds)
    np.testing.assert_array_equal(source.load(), arrays[expected])
    assert f"array {expected!r}" in source.taken
    assert all(other in source.taken for other in arrays)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x_train": PIXELS, "x_test": PIXELS},
            r"several arrays hold images \(x_train uint8 .*x_t",
        ),
        ({"arr_0": PIXELS, "arr_1": PIXELS}, r"several arrays hold images .*'images', or save it"),
        ({"mu": SQUARE[0], "sigma": SQUARE}, r"no array of images or features \(mu float32 \(9,\)"),
        ({"labels": np.arange(6)}, r"images have shape \(6,\); expected"),
        ({"features": FEATURES}, r"holds features \(array 'features'.*; expected images; give"),
        ({"images": PIXELS / 255.0, "masks": PIXELS[..., 0]}, r"images are float64 from"),
    ],
)
def test_arrays_that_do_not_fit_are_listed(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("c", "size"), [(1, (9, 9)), (3, (5, 8)), (3, (3, 8)), (4, (4, 9)), (3, (1, 1))]
)
def test_channels_first_or_last(c, size, tmp_path):
    last = np.random.default_rng(0).integers(0, 256, (6, *size, c), np.uint8)
    if c == 4:
        last[..., 3] = 255
    for name, array in (("last", last), ("first", np.moveaxis(last, -1, 1))):
        np.save(tmp_path / f"{name}.npy", array)
        source = open_source(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(source.load(), last[..., :3])
        assert f"channels {name}" in source.taken or size == (1, 1)


def test_boolean_images_are_black_and_white(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS[..., 0] > 127)
    expected = np.where(PIXELS[..., :1] > 127, 255, 0)
    np.testing.assert_array_equal(datasets.load_images(tmp_path / "a.npy"), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_features_become_float32(dtype, tmp_path):
    np.save(tmp_path / "a.npy", FEATURES.astype(dtype))
    loaded = open_source(tmp_path / "a.npy", ("features",)).load()
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, FEATURES.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_features_that_are_not_finite(value, tmp_path):
    np.save(tmp_path / "a.npy", np.where(np.arange(100)[:, None] == 70, value, np.zeros((100, 7))))
    with pytest.raises(ValueError, match=r"a\.npy: row 70 holds (NaN or Inf|1e\+39; expected mag)"):
        open_source(tmp_path / "a.npy", ("features",)).load()


def test_other_files_are_named_with_what_can_be_read(tmp_path):
    cases = [
        (b"\x89HDF\r\n", "an HDF5 file; save its array as .npy"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x80\x04\x95", "a pickle, which is not read"),
        (b"\x1f\x8b\x08 broken", "not a complete gzip file"),
        (b"0.png".ljust(257, b"\0") + b"ustar", "a tar archive; unpack it"),
        (
            b"something else",
            r"not an idx file, nor \.npy, \.npz or a zip; expected a folder or zip",
        ),
    ]
    for content, message in cases:
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.npz: .*{message}"):
            open_source(tmp_path / "a.npz")
