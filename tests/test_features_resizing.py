"""Resizing rules against the libraries whose rules they are."""

import numpy as np
import pytest
from golden import assert_close
from PIL import Image
from scipy import ndimage

from lsh_gan.features import resizing

SIZES = [(28, 64), (64, 64), (100, 64), (37, 299), (300, 64), (1, 32)]


def resized(image, side, rule):
    images = image[None, :, :, None].astype(np.float32)
    return np.asarray(resizing.resize(images, side, rule=rule))[0, :, :, 0]


def random_image(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width))


def test_antialiased_equals_pillow():
    for size, side in SIZES:
        image = random_image(size, size + 3)
        pillow = Image.fromarray(image.astype(np.float32)).resize((side, side), Image.BILINEAR)
        # Pillow rounds to float32 between the two passes.
        assert_close(resized(image, side, "antialiased"), np.asarray(pillow), 1e-6)


def test_bicubic_equals_pillow_on_bytes():
    for size, side in SIZES:
        image = random_image(size, size + 3).astype(np.uint8)
        pillow = np.asarray(Image.fromarray(image).resize((side, side), Image.BICUBIC)).astype(int)
        # Pillow adds in fixed point: what lies within 1e-5 of a half may round to the other side.
        different = np.abs(resized(image, side, "bicubic") - pillow)
        assert different.max() <= 1
        assert np.mean(different > 0) < 1e-3


@pytest.mark.parametrize(("rule", "shift"), [("half_pixel", 0.5), ("tensorflow1", 0.0)])
def test_two_neighbour_rules_equal_interpolation_at_their_positions(rule, shift):
    for size, side in SIZES:
        image = random_image(size, size)
        positions = (np.arange(side) + shift) * (size / side) - shift
        grid = np.meshgrid(positions, positions, indexing="ij")
        expected = ndimage.map_coordinates(image.astype(float), grid, order=1, mode="nearest")
        # Positions of tensorflow1 are float32: 3e-5 of a pixel at 300 pixels, times a step of 255.
        assert_close(resized(image, side, rule), expected, 5e-5)


@pytest.mark.parametrize("rule", ["antialiased", "half_pixel", "tensorflow1", "bicubic"])
def test_same_size_is_the_identity_and_constants_stay(rule):
    image = random_image(64, 64)
    np.testing.assert_array_equal(resized(image, 64, rule), image)
    assert_close(resized(np.full((50, 70), 255), 64, rule), np.full((64, 64), 255.0), 1e-6)
