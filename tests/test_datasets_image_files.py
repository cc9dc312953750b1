"""Folders and zips of image files: which are read, and what becomes of their pixels."""

import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from lsh_gan import datasets
from lsh_gan.datasets import Decoding, open_source

# --- folders and zips ----------------------------------------------------------------------------

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 9, 9, 3), np.uint8)


def save_images(folder, start, stop):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, stop):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / f"{i:02}.png")


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
        assert source.load()[:, 0, 0, 0].tolist() == [6, 0, 1, 2, 3, 4, 5]
        assert "4 folders reached twice" in source.taken


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
    with pytest.raises(ValueError, match=r"model\.pt: a file of torch\.save; save its array"):
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


def test_resizing_crops_the_centre(tmp_path):
    image = np.zeros((1, 4, 8, 1), np.uint8)
    image[:, :, 2:6] = 200
    np.save(tmp_path / "a.npy", image)
    loaded = datasets.load_images(tmp_path / "a.npy", side=2)
    np.testing.assert_array_equal(loaded, np.full((1, 2, 2, 1), 200))


def test_unreadable_and_truncated_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG not really")
    said = r"a\.png: not a readable image \(of no known format\); reference.on_error = 'skip'"
    with pytest.raises(ValueError, match=said):
        datasets.load_images(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.png: not a readable image"):
        datasets.load_images(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.pgm", "a.tiff", "white_is_zero.tiff"])
def test_16_bit_grey_is_scaled_not_clipped(name, tmp_path):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 6 1 65535\n" + values.astype(">u2").tobytes())
    elif name == "a.tiff":  # of big-endian values
        Image.frombytes("I;16B", (6, 1), values.astype(">u2").tobytes()).save(tmp_path / name)
    elif name == "white_is_zero.tiff":
        Image.fromarray(65535 - values).save(tmp_path / name)
        photometric = (struct.pack("<HHIH", 262, 3, 1, kind) for kind in (1, 0))  # tag and value
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(*photometric))
    else:
        Image.fromarray(values).save(tmp_path / name)
    loaded = datasets.load_images(tmp_path)
    np.testing.assert_array_equal(loaded[0, ..., 0], [[0, 0, 1, 1, 128, 255]])


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
        assert f"1 with alpha, laid on grey level {background}" in source.taken
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
    Image.fromarray(scans[0] * 16).save(tmp_path / "bright.png")
    source = datasets.open_source(tmp_path)
    first = source.load()[:1]
    (again,) = source.read(np.arange(1))
    np.testing.assert_array_equal(again, first)


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
