"""Inception-v3 in its FID form against the golden of torch-fidelity's network."""

import jax
import numpy as np
import pytest
from golden import assert_close, load_golden
from scipy import ndimage

from lsh_gan import features
from lsh_gan.features import inception


@pytest.fixture(scope="module")
def golden():
    return load_golden("inception_fid")


@pytest.fixture(scope="module")
def weight_file(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.npz"
    np.savez(path, **golden.state())
    return path


@pytest.fixture(scope="module")
def network(weight_file):
    return features.load("inception_v3", weights=weight_file, sha256="")


def nhwc(images):
    return images.transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def apply():
    """The module on prepared images."""
    return jax.jit(inception.InceptionV3().apply)


def test_features_with_resize_match_original(golden, network):
    assert (network.dim, network.side) == (2048, 299)
    found = network(nhwc(golden.inputs["x64"]))
    assert_close(found, golden.outputs["x64_feat_2048"], golden.tolerance)


def test_pytorch_fid_prepares_the_same_network_another_way(golden, network, weight_file, apply):
    other = features.load("inception_v3_pytorch_fid", weights=weight_file, sha256="")
    image = nhwc(golden.inputs["x64"])[0].astype(np.float64)
    places = (np.arange(299) + 0.5) * 64 / 299 - 0.5
    grid = np.meshgrid(places, places, indexing="ij")
    channels = [ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in image.T]
    prepared = 2 * (np.stack(channels).T / 255) - 1
    # Both transpositions exchange rows and columns, so the picture is upright again.
    expected = apply(network.variables, prepared[None].astype(np.float32))
    assert_close(other(nhwc(golden.inputs["x64"])), expected, golden.tolerance)
    assert other.content_hash != network.content_hash


def test_other_sides_and_other_files_are_refused(weight_file):
    with pytest.raises(ValueError, match="side of inception_v3 is 64; it is defined for 299 only"):
        features.load("inception_v3", side=64, weights=weight_file, sha256="")
    with pytest.raises(ValueError, match="expected 6726825d"):
        features.load("inception_v3", weights=weight_file)
