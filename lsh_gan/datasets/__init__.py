"""Images and features: reads what a path holds, and the named data sets."""

from lsh_gan.datasets.named import (
    FOLDER_VARIABLE,
    NAMED,
    NamedDataset,
    cache_folder,
    find_named,
    is_named,
    load_named,
    named_file,
)
from lsh_gan.datasets.paths import load_images, of_array, open_source, pad_to
from lsh_gan.datasets.source import BATCH, Decoding, Source, cut, has_bars, progress

__all__ = [
    "BATCH", "FOLDER_VARIABLE", "NAMED", "Decoding", "NamedDataset", "Source", "cache_folder",
    "cut", "find_named", "has_bars", "is_named", "load_images", "load_named", "named_file",
    "of_array", "open_source", "pad_to", "progress",
]  # fmt: skip
