"""Reads other people's tensor files without running any code in them.

Example::

    value = tensor_files.read("ffhq.pkl")  # arrays, values, stand-ins
    weights = tensor_files.state_dict(value["G_ema"])  # {dotted name: array}
"""

from lsh_gan.tensor_files.reader import read
from lsh_gan.tensor_files.values import FormatError, Standin, state_dict

__all__ = ["FormatError", "Standin", "read", "state_dict"]
