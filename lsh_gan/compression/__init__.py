"""Post-training compression of parameter trees: clipping, quantization, rules, packed files.

Example::

    spec = CompressionSpec(bits=4, clipping="mse", granularity="per_channel")
    compressed, report = compress(params, spec)
    save_packed("generator_4bit.packed", pack(params, spec))
    compressed = unpack(load_packed("generator_4bit.packed"))
"""

from lsh_gan.compression import activations
from lsh_gan.compression.clipping import METHODS
from lsh_gan.compression.packing import PackedTree, load_packed, save_packed
from lsh_gan.compression.pipeline import (
    GeneratorSpec,
    correct_biases,
    pack_generator,
    reestimate_batch_norms,
)
from lsh_gan.compression.rules import CompressionSpec, Rule
from lsh_gan.compression.tree import (
    CompressionReport,
    TensorReport,
    compress,
    format_report,
    pack,
    unpack,
)

__all__ = [
    "METHODS", "CompressionReport", "CompressionSpec", "GeneratorSpec", "PackedTree", "Rule",
    "TensorReport", "activations", "compress", "correct_biases", "format_report", "load_packed",
    "pack", "pack_generator", "reestimate_batch_norms", "save_packed", "unpack",
]  # fmt: skip
