"""What tests of sketches and of their files share."""

import jax
import numpy as np

from lsh_gan.metrics import HashSpec

KEY = jax.random.key(0)
SPEC = HashSpec(family="affine", num_tables=4, num_bits=5, radius_bins=3)
SOURCE = "a network, preprocessing 1"


def check_equal(a, b):
    """Bit for bit: values and types."""
    assert a.rows == b.rows
    parts = [(*s.hasher, s.counts, s.cells, *(s.directory or ())) for s in (a, b)]
    for x, y in zip(*parts, strict=True):
        assert type(x) is type(y) or isinstance(x, (np.ndarray, jax.Array))
        if isinstance(x, (np.ndarray, jax.Array)):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y
