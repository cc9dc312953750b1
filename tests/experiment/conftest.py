"""What tests of runs share: what stands for a trained network."""

import pytest
from tiny_network import NETWORK

from lsh_gan.experiment import reference


@pytest.fixture
def projected(monkeypatch):
    """Runs embed images by one product of their pixels, where no test looks at the features."""
    monkeypatch.setattr(reference, "load_network", lambda *_: NETWORK)
