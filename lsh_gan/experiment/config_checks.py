"""Checks of single fields of a configuration; `settings` checks what they mean together."""

import math
from typing import Any

import jax

from lsh_gan.compression.spec import MAX_BITS
from lsh_gan.errors import whole

LAST_SEED = 2**32 - 1  # keys are made of 32 bits: other seeds would be taken modulo 2³²
MOST_PIXELS = 4096  # of a reference image's side: four times that of the largest usual data set

# The least and the largest value of each whole number, and of the entries of lists of them.
_COUNTS = ("k", "num_samples", "batch_size", "memory_mb", "num_columns", "search.num_samples")
_SIZES = ("reference.num_images", "features.batch_size", "compression.group_size")
_RANGES = {
    **dict.fromkeys((*_COUNTS, "compression.num_calibration"), (1, math.inf)),
    **dict.fromkeys(_SIZES, (0, math.inf)),
    **dict.fromkeys(("reference.seed", "hash.seed", "search.seed"), (0, LAST_SEED)),
    "reference.side": (0, MOST_PIXELS),
    "reference.background": (0, 255),
    "reference.white_level": (0, 65535),
    "hash.min_count": (1, 1024),
    "lsh_knn.num_tables": (1, 2**16 - 1),
    "lsh_knn.bucket_rows": (3, 1024),
}
_LISTS = {
    "seeds": (0, LAST_SEED),
    "compression.bits": (1, MAX_BITS),
    "compression.activation_bits": (0, MAX_BITS),  # 0 for none
}
_NAMES = (
    "generators", "samples", "metrics", "compression.clipping", "compression.granularity",
    "compression.scheme",
)  # fmt: skip
# No generators means samples, and no bits full precision alone.
_MAY_BE_EMPTY = ("generators", "samples", "compression.bits")


def split_lists(config: Any) -> None:
    """Splits strings with commas, which is what a command line gives, in place.

    Raises:
        ValueError: A list is empty that must not be, or an entry is in it twice.
    """
    for field in (*_NAMES, *_LISTS):
        value = get(config, field)
        entries = (value,) if isinstance(value, str) else tuple(value)
        if field in _NAMES:
            entries = tuple(name.strip() for text in entries for name in str(text).split(","))
        entries = tuple(entry for entry in entries if entry != "")
        if not entries and field not in _MAY_BE_EMPTY:
            raise ValueError(f"{field} is empty; expected at least one entry")
        twice = next((entry for entry in entries if entries.count(entry) > 1), None)
        if twice is not None:
            raise ValueError(f"{field}: {twice!r} is given twice; expected each entry once")
        config.update_from_flattened_dict({field: entries})


def check_numbers(config: Any) -> None:
    """Checks the range of every whole number, and that batches can be spread over the devices.

    Raises:
        ValueError: One is out of range; the message names the field and the nearest valid value.
    """
    whole("k", config.k, *_RANGES["k"])
    check_enough(config, ("num_samples", "reference.num_images"))
    for field, (low, high) in _RANGES.items():
        whole(field, get(config, field), low, high)
    for field, (low, high) in _LISTS.items():
        for number in get(config, field):
            whole(field, number, low, high)
    devices = jax.local_device_count()
    for field in ("batch_size", "features.batch_size"):
        size = get(config, field)
        if size % devices:
            raise ValueError(
                f"{field} = {size} is not a multiple of the {devices} devices; the nearest is "
                f"{max(devices, round(size / devices) * devices)}"
            )


def check_enough(config: Any, fields: tuple[str, ...]) -> None:
    """Checks numbers of images against k; of the reference, 0 stands for all that there are.

    Raises:
        ValueError: One is too small; the message gives the least.
    """
    for field in fields:
        number = get(config, field)
        if field == "reference.num_images" and isinstance(number, int) and number <= 0:
            continue  # all, or out of range
        if isinstance(number, int) and number < config.k + 2:
            raise ValueError(
                f"{field} = {number}; k = {config.k} needs at least {config.k + 2} images"
            )


def check_min_count(config: Any, n: int) -> None:
    """Checks that buckets of so many reference points are possible.

    Raises:
        ValueError: LSH is asked for, and the reference is too small for `hash.min_count`.
    """
    count = config.hash.min_count
    if "lsh" in config.metrics and 1 <= n - 2 < count:
        raise ValueError(
            f"hash.min_count = {count} needs a reference of at least {count + 2}, and this one has "
            f"{n}; the nearest valid value is {n - 2}"
        )


def get(config: Any, field: str) -> Any:
    """The value of a field, "hash.seed" for example."""
    for name in field.split("."):
        config = config[name]
    return config
