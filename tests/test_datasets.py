"""Images and features from every kind of source, and errors that name the file."""

import gzip
import os
import struct
import zipfile
import zlib

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


def test_resizing_crops_the_centre(tmp_path):
    image = np.zeros((1, 4, 8, 1), np.uint8)
    image[:, :, 2:6] = 200
    np.save(tmp_path / "a.npy", image)
    loaded = datasets.load_images(tmp_path / "a.npy", side=2)
    np.testing.assert_array_equal(loaded, np.full((1, 2, 2, 1), 200))


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


@pytest.mark.parametrize("name", ["a.png", "a.pgm"])
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
        (
            b"something else",
            r"not an idx file, nor \.npy, \.npz or a zip; expected a folder or zip",
        ),
    ]
    for content, message in cases:
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.npz: .*{message}"):
            open_source(tmp_path / "a.npz")


# --- folders and zips ----------------------------------------------------------------------------


def save_images(folder, start, stop):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, stop):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / f"{i:02}.png")


def values(path):
    """The grey levels of constant images, in the order in which they are read."""
    return datasets.load_images(path)[:, 0, 0, 0].tolist()


def test_links_are_followed_and_loops_end(tmp_path):
    store, real = tmp_path / "store", tmp_path / "real"
    save_images(real / "b", 0, 3)
    save_images(store / "deep/c", 3, 6)
    save_images(store / "single", 6, 7)
    (real / "a").symlink_to(store / "deep")
    (real / "07.png").symlink_to(store / "single/06.png")
    (store / "deep/c/up").symlink_to(real)  # a loop through both trees
    (real / "self").symlink_to(".")
    (real / "parent").symlink_to("..")
    (real / "0_again").symlink_to(real / "b")
    (tmp_path / "linked").symlink_to(real)
    for path in (real, tmp_path / "linked"):
        source = open_source(path)
        assert source.load()[:, 0, 0, 0].tolist() == [6, 3, 4, 5, 0, 1, 2]
        assert "2 links to folders that they are in" in source.taken
        assert "2 folders reached twice" in source.taken


def test_a_link_to_nothing_is_refused(tmp_path):
    save_images(tmp_path / "real", 0, 3)
    (tmp_path / "real/dog").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"real/dog: a link to .*gone, which is not there"):
        open_source(tmp_path / "real")


def test_what_is_no_image_is_left_out_and_counted(tmp_path):
    save_images(tmp_path, 0, 3)
    save_images(tmp_path / "flickr.com_photo.jpg", 3, 5)
    hidden = ("._00.png", ".DS_Store", ".ipynb_checkpoints/00-checkpoint.png", "Thumbs.db")
    hidden += ("__MACOSX/._a/x.png", "sub/@eaDir/00.png/thumb.jpg", "sub/.git/x.png")
    others = ("LICENSE", "LICENSE.pdf", "figure.eps", "clip.mpg")
    for name in hidden + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    source = open_source(tmp_path)
    assert source.load()[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    for said in ("3 hidden", "4 hidden folders", "1 .pdf", "1 without ending"):
        assert said in source.taken


@pytest.mark.parametrize("names", [(), (".hidden.png",), ("a.pdf", "b.heic")])
def test_folders_without_images_say_what_they_hold(names, tmp_path):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    left_out = "; left out: 1 .*" if names else ""
    with pytest.raises(ValueError, match=rf"no images{left_out}; expected files such as \.png"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("compression", "prefix"),
    [(zipfile.ZIP_STORED, "00000/img"), (zipfile.ZIP_DEFLATED, "data/train/a/")],
)
def test_a_zip_is_read_as_its_folder(compression, prefix, tmp_path):
    save_images(tmp_path / "files", 0, 5)
    with zipfile.ZipFile(tmp_path / "SET.ZIP", "w", compression) as archive:
        for i in reversed(range(5)):
            archive.write(tmp_path / f"files/{i:02}.png", f"{prefix}{i:08}.png")
        archive.writestr("dataset.json", '{"labels": null}')
        archive.writestr("__MACOSX/._img.png", b"\x00\x05\x16\x07")
        archive.writestr("labels.npy", b"")
    source = open_source(tmp_path / "SET.ZIP")
    np.testing.assert_array_equal(source.load(), datasets.load_images(tmp_path / "files"))
    assert "1 .json" in source.taken
    whole = (tmp_path / "SET.ZIP").read_bytes()
    (tmp_path / "SET.ZIP").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"SET\.ZIP: not a readable array file or zip"):
        open_source(tmp_path / "SET.ZIP")
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(ValueError, match=r"model\.pt: a zip without images or arrays; left out: 1"):
        open_source(tmp_path / "model.pt")


def test_only_the_rows_that_are_asked_for_are_decoded(tmp_path, monkeypatch):
    save_images(tmp_path, 0, 99)
    source, opened, load = open_source(tmp_path), [], ImageFile.ImageFile.load

    def counted(image):
        opened.extend([image.fp.name] if image.fp else [])  # None once it is loaded
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    rows = np.array([3, 50, 98])
    (batch,) = source.read(rows)
    np.testing.assert_array_equal(batch[:, 0, 0, 0], rows)
    assert {os.path.basename(name) for name in opened} == {"03.png", "50.png", "98.png"}


# --- transparency, orientation and depth ---------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "background"), [("RGBA", 255), ("LA", 100), ("P", 0), ("L", 255), ("RGB", 100)]
)
def test_transparent_images_lie_on_a_stated_ground(mode, background, tmp_path):
    """What lies under transparent pixels, which nobody sees, makes no difference."""
    for hidden in (0, 255):
        if mode in ("RGBA", "LA"):
            image = Image.new("RGBA", (4, 4), (hidden, hidden, hidden, 0))
            image.paste((30, 30, 30, 255), (0, 0, 2, 4))
            image.convert(mode).save(tmp_path / "a.png")
        else:  # one colour is transparent, by tRNS
            image = Image.new("RGB", (4, 4), (hidden, hidden, hidden))
            image.paste((30, 30, 30), (0, 0, 2, 4))
            image = image.quantize(2) if mode == "P" else image.convert(mode)
            image.save(tmp_path / "a.png", transparency=image.getpixel((3, 0)))
        decoding = Decoding(background=background)
        source = open_source(tmp_path, decoding=decoding)
        assert f"1 with transparency, laid on grey level {background}" in source.taken
        loaded = source.load()
        assert loaded.shape[-1] == (1 if mode in ("L", "LA") else 3)
        np.testing.assert_array_equal(loaded[0, :, :2], 30)
        np.testing.assert_array_equal(loaded[0, :, 2:], background)


def test_half_transparent_pixels_are_mixed_alike_in_files_and_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 4), np.uint8)
    (tmp_path / "files").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"files/{i}.png")
    np.save(tmp_path / "a.npy", pixels)
    loaded = datasets.load_images(tmp_path / "files", background=40)
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(loaded, pixels[..., :3] * alpha + 40 * (1 - alpha), atol=1)
    np.testing.assert_array_equal(datasets.load_images(tmp_path / "a.npy", background=40), loaded)


@pytest.mark.parametrize(
    ("ending", "orientation"),
    [("jpg", 6), ("png", 1), ("tiff", 8), ("webp", 3), *(("png", i) for i in (2, 4, 5, 7))],
)
def test_exif_orientation_is_applied(ending, orientation, tmp_path):
    """The corner that a viewer shows at the top left is white; the stored image is 8×16."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((8, 16), np.uint8)
    row, column = [(0, 0), (0, 15), (7, 15), (7, 0), (0, 0), (7, 0), (7, 15), (0, 15)][
        orientation - 1
    ]
    stored[row // 4 * 4 :, column // 8 * 8 :][:4, :8] = 255
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(stored).save(tmp_path / f"a.{ending}", exif=exif, **options)
    source = open_source(tmp_path)
    assert source.shape[1:3] == ((16, 8) if orientation > 4 else (8, 16))
    shown = source.load()[0, ..., 0]
    assert shown[: shown.shape[0] // 2, : shown.shape[1] // 2].mean() > 250
    assert shown.mean() < 70


def test_scans_of_twelve_bits_are_not_taken_for_dark_ones(tmp_path):
    scans = PIXELS[..., 0].astype(np.uint16) * 16
    for i, image in enumerate(scans):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"dark, as scans of 12 bits are: say --.*_level=4095, or"):
        datasets.load_images(tmp_path)
    loaded = datasets.load_images(tmp_path, white_level=4095)
    np.testing.assert_allclose(loaded[..., 0], scans / 4095 * 255, atol=0.51)
    dark = datasets.load_images(tmp_path, white_level=65535)
    np.testing.assert_allclose(dark[..., 0], scans / 257, atol=0.51)


def write_png16(path, pixels):
    """RGB of 16 bits, which Pillow does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def test_colours_of_sixteen_bits(tmp_path):
    write_png16(tmp_path / "a.png", PIXELS[0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(datasets.load_images(tmp_path)[0], PIXELS[0])
    write_png16(tmp_path / "a.png", PIXELS[0].astype(np.uint16) * 16)
    with pytest.raises(ValueError, match=r"dark, as scans of 12 bits are.*convert them to 8 bits"):
        datasets.load_images(tmp_path)
    with pytest.raises(ValueError, match=r"a\.png: colours of 16 bits, of which 8 are read"):
        datasets.load_images(tmp_path, white_level=4095)


@pytest.mark.parametrize(
    ("name", "mode", "grey"),
    [
        ("a.png", "1", True), ("a.bmp", "RGB", False), ("a.bmp", "L", True),
        ("a.TIF", "1", True), ("a.webp", "RGB", False), ("a.gif", "P", False),
        ("a.JPEG", "CMYK", False), ("a.tga", "RGB", False),
    ],
)  # fmt: skip
def test_formats_and_modes(name, mode, grey, tmp_path):
    """A white square on black; JPEG may miss by a little."""
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    image.convert(mode).save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
    loaded = datasets.load_images(tmp_path)
    assert loaded.shape == (1, 16, 16, 1 if grey else 3)
    np.testing.assert_allclose(loaded[0], np.asarray(image)[..., : loaded.shape[-1]], atol=3)


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.tiff", save_all=True, append_images=frames[1:])
    source = open_source(tmp_path)
    assert "2 of several frames, of which the first is taken" in source.taken
    assert (source.load() == 10).all()
