"""What tests of the metrics share."""

import pytest
from draws import draw
from sketches import KEY, SOURCE, SPEC

from lsh_gan.metrics import fit_hash


@pytest.fixture(scope="module")
def hasher():
    return fit_hash(KEY, draw(200, 6), SPEC, source=SOURCE)
