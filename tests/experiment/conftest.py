"""What tests of runs share: what stands for a trained network."""

import pytest
from children import project


@pytest.fixture
def projected(monkeypatch):
    """Runs embed images by one product of their pixels, where no test looks at the features."""
    project(monkeypatch.setattr)
