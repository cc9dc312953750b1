"""Flax generators, one file a family, and how a checkpoint becomes one."""

from lsh_gan.generators.generator import FAMILIES, Generator, build, load

__all__ = ["FAMILIES", "Generator", "build", "load"]
