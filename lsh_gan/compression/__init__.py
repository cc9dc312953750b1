"""Post-training compression of parameter trees: clipping, quantization, rules, packed files.

Example::

    spec = CompressionSpec(bits=4, clipping="mse", granularity="per_channel")
    compressed, report = compress(params, spec)
    save_packed("generator_4bit.packed", pack(params, spec))
    compressed = unpack(load_packed("generator_4bit.packed"))
"""

from lsh_gan.compression import activations
from lsh_gan.compression.clipping import METHODS
from lsh_gan.compression.corrections import correct_biases, reestimate_batch_norms
from lsh_gan.compression.files import load_packed, save_packed
from lsh_gan.compression.packing import PackedTree, pack, unpack
from lsh_gan.compression.pipeline import GeneratorSpec, pack_generator
from lsh_gan.compression.report import CompressionReport, TensorReport, compress, format_report
from lsh_gan.compression.spec import CompressionSpec, Rule

__all__ = [
    "METHODS",
    "CompressionReport",
    "CompressionSpec",
    "GeneratorSpec",
    "PackedTree",
    "Rule",
    "TensorReport",
    "activations",
    "compress",
    "correct_biases",
    "format_report",
    "load_packed",
    "pack",
    "pack_generator",
    "reestimate_batch_norms",
    "save_packed",
    "unpack",
]
