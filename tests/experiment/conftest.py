"""What tests of runs share: a network of one product in place of a trained one."""

import pytest
from tiny_network import NETWORK

from lsh_gan.experiment import sweep


@pytest.fixture
def projected(monkeypatch):
    """Runs embed images by one product of their pixels, where no test looks at the features."""
    monkeypatch.setattr(sweep, "load_network", lambda *_: NETWORK)
