"""What tests of runs share: what stands for a trained network, and for pictures."""

import pytest
from children import draw_nothing
from tiny_network import NETWORK

from lsh_gan.experiment import reference


@pytest.fixture
def projected(monkeypatch):
    """Runs embed images by one product of their pixels, where no test looks at the features."""
    monkeypatch.setattr(reference, "load_network", lambda *_: NETWORK)


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs draw no pictures, which takes seconds, where no test looks at them."""
    draw_nothing(monkeypatch.setattr)
