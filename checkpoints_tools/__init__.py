"""Conversion of other people's checkpoints, and training of the packaged generators."""
