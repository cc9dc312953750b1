"""Checks of single fields of a configuration; `settings` checks what they mean together."""

import math
from typing import Any

from lsh_gan.errors import whole

LAST_SEED = 2**32 - 1  # keys are made of 32 bits: other seeds would be taken modulo 2³²

# The least and the largest value of each whole number.
_RANGES = {
    "num_samples": (1, math.inf),
    "batch_size": (1, math.inf),
    "k": (1, math.inf),
    "memory_mb": (1, math.inf),
    "num_columns": (1, math.inf),
    "reference.num_images": (0, math.inf),
    "reference.side": (0, math.inf),
    "reference.seed": (0, LAST_SEED),
    "features.batch_size": (0, math.inf),
    "compression.group_size": (0, math.inf),
    "compression.num_calibration": (1, math.inf),
    "hash.min_count": (1, math.inf),
    "hash.seed": (0, LAST_SEED),
    "search.num_samples": (1, math.inf),
    "search.seed": (0, LAST_SEED),
}


def check_numbers(config: Any) -> None:
    """Checks the range of every whole number.

    Raises:
        ValueError: One is out of range; the message names the field and the nearest valid value.
    """
    for field, (low, high) in _RANGES.items():
        whole(field, get(config, field), low, high)
    for seed in config.seeds:
        whole("seeds", seed, 0, LAST_SEED)


def get(config: Any, field: str) -> Any:
    """The value of a field, "hash.seed" for example."""
    for name in field.split("."):
        config = config[name]
    return config
