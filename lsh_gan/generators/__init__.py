"""Flax generators, and functions that load checkpoints into them."""

from lsh_gan.generators.generator import FAMILIES, Generator, abstract, build, load

__all__ = ["FAMILIES", "Generator", "abstract", "build", "load"]
