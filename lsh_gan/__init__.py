"""Evaluates post-training compression of GAN generators by precision and recall."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["FeatureNetwork", "Generator", "evaluate"]

_HOMES = {
    "FeatureNetwork": "lsh_gan.features",
    "Generator": "lsh_gan.generators",
    "evaluate": "lsh_gan.experiment.evaluate",
}


def __getattr__(name: str) -> Any:  # lazy, so that one part can be imported without the others
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:  # for completion in notebooks
    return [*globals(), *__all__]
