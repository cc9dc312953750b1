"""Flax generators, and how a checkpoint becomes one."""

from lsh_gan.generators.generator import FAMILIES, Generator, abstract, build, load

__all__ = ["FAMILIES", "Generator", "abstract", "build", "load"]
