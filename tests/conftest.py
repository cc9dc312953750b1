"""What tests of several folders share: modules of this folder, and a count of compilations."""

import gc
import os
import sys
from pathlib import Path

import jax
import pytest

from lsh_gan import datasets

sys.path.insert(0, str(Path(__file__).parent))
import fast_programs  # noqa: F401 (first)
from children import draw_nothing, project

gc.set_threshold(100_000, 20, 100)  # objects of traces are many, and hardly one is garbage
# For tests that call modules themselves: a GPU would take 10 bits of each factor.
jax.config.update("jax_default_matmul_precision", "float32")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Keeps the features of all tests, of all workers, out of the user's cache."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(datasets.FOLDER_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Drops compiled programs when there are many: Linux lets a process map 65,530 pieces."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs draw no pictures, which takes seconds, where no test looks at them."""
    draw_nothing(monkeypatch.setattr)


@pytest.fixture
def projected(monkeypatch):
    """Runs embed images by one product of their pixels, where no test looks at the features."""
    project(monkeypatch.setattr)


@pytest.fixture
def compilations():
    """A list that grows by one for every program that is compiled."""
    found = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)
