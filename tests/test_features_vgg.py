"""VGG16: a narrow copy against float64, and the full network against torchvision's golden.

The full network draws 138 million weights (about 15 s, 2 GB): it runs when the environment
variable LSH_GAN_SLOW_TESTS is 1.
"""

import os

import jax
import numpy as np
import pytest
from golden import assert_close, draw, load_golden
from scipy import ndimage

from lsh_gan import features
from lsh_gan.features import vgg


def narrow_state(widths, hidden, side):
    """Weights of a narrow VGG16 for images of `side` pixels, under torchvision's names."""
    repeats = (2, 2, 3, 3, 3)
    features_out = [width for width, n in zip(widths, repeats, strict=True) for _ in range(n)]
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state, channels = {}, 3
    for place, width in zip(places, features_out, strict=True):
        state[f"features.{place}.weight"] = draw(f"w{place}", (width, channels, 3, 3), "fan_in:1.4")
        state[f"features.{place}.bias"] = draw(f"b{place}", (width,), "normal:0.1:0.1")
        channels = width
    flat = channels * (side // 32) ** 2
    for index, inputs in ((0, flat), (3, hidden)):
        state[f"classifier.{index}.weight"] = draw(f"c{index}", (hidden, inputs), "fan_in:1.4")
        state[f"classifier.{index}.bias"] = draw(f"d{index}", (hidden,), "normal:0.1:0.1")
    return state


def vgg16_float64(state, image):
    """The network of torchvision on one image `[3, side, side]`, written out in float64."""
    x = image.astype(np.float64)
    for places in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        for place in places:
            weight = state[f"features.{place}.weight"].astype(np.float64)
            filtered = [
                sum(
                    ndimage.correlate(channel, kernel, mode="constant")
                    for channel, kernel in zip(x, kernels, strict=True)
                )
                for kernels in weight
            ]
            x = np.stack(filtered) + state[f"features.{place}.bias"][:, None, None]
            x = np.maximum(x, 0)
        channels, height, width = x.shape
        x = x.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))
    x = x.ravel()
    for index in (0, 3):
        x = state[f"classifier.{index}.weight"].astype(np.float64) @ x
        x = np.maximum(x + state[f"classifier.{index}.bias"], 0)
    return x


def test_narrow_network_equals_float64():
    widths, hidden, side = (2, 3, 4, 5, 6), 7, 64
    state = narrow_state(widths, hidden, side)
    image = draw("image", (3, side, side), "normal:0:1")
    module = vgg.VGG16(widths=widths, hidden=hidden)
    names = [*(f"conv_{i}" for i in range(13)), "dense_0", "dense_1"]
    params = {name: vgg.convert(state, (name,)) for name in names}
    found = jax.jit(module.apply)({"params": params}, image.transpose(1, 2, 0)[None])
    expected = vgg16_float64(state, image)
    assert (expected > 0).sum() > 2
    assert_close(found[0], expected, 1e-5)  # the golden's own tolerance for float32


@pytest.mark.skipif(
    os.environ.get("LSH_GAN_SLOW_TESTS") != "1",
    reason="draws 138 million weights; set LSH_GAN_SLOW_TESTS=1",
)
def test_full_network_matches_original(tmp_path):
    golden = load_golden("vgg16_torchvision")
    np.savez(tmp_path / "vgg16.npz", **golden.state())
    network = features.load("vgg16", weights=tmp_path / "vgg16.npz", sha256="")
    assert (network.dim, network.side) == (4096, 224)
    found = network(golden.inputs["x_uint8"].transpose(0, 2, 3, 1))
    assert_close(found, golden.outputs["fc2_relu"], golden.tolerance)
