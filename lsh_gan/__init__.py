"""Evaluate post-training compression of GAN generators by precision and recall."""

__version__ = "0.1.0"
