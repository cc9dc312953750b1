"""Every kernel lowers for a CPU, and for processors that are not at hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsh_gan import devices
from lsh_gan.metrics import (
    HashSpec,
    distances,
    hashing,
    inputs,
    knn,
    lsh,
    lsh_knn,
    moments,
    scores,
    sketch,
)

SPEC = HashSpec(num_tables=6, radius_bins=3, num_directions=16)
D, DIGITS, EDGES = 4, 10, 5


def array(*shape, dtype=jnp.float32):
    with jax.enable_x64(True):
        return jax.ShapeDtypeStruct(shape, dtype)


def kernels():
    """Function and abstract arguments of every jitted kernel."""
    width = 1024  # of no other test: what was traced for this CPU would be found again
    integers = functools.partial(array, dtype=jnp.int32)
    unsigned = functools.partial(array, dtype=jnp.uint32)
    tiles = distances.Tiles(array(2, width, D), array(2, width))
    n = 2 * width
    near = array(n, 8), integers(n, 8)
    radii = array(n, 3, dtype=jnp.float64), array(n, 1, dtype=jnp.float64)
    hash_arrays = (
        array(D), array(D), array(16, D), integers(6, DIGITS), array(6, DIGITS), array(),
        array(EDGES), array(5, D),
    )  # fmt: skip
    codes = hashing.Codes(unsigned(6, n), integers(n), integers(n))
    votes, order = (unsigned(6, n), np.arange(6)), integers(2 * n)
    key, one = jax.random.key(0), integers()
    of_all = {"inclusive": True, "extended": False}
    of_knn = {"k": 3, "density_k": 5, "inclusive": True}
    return {
        "put": (inputs._put, array(n, D), array(width, D), array(D), one),
        "tile": (distances._tile, array(n, D), one, width),
        "nearest others": (knn.nearest_others, tiles, 8),
        "balls": (functools.partial(knn._find_balls, **of_knn), tiles, *near),
        "compare": (functools.partial(knn._compare, **of_all), tiles, tiles, *radii),
        "compare more": (
            functools.partial(knn._compare, **of_all | {"extended": True}), tiles, tiles, *radii
        ),
        "extended": (
            functools.partial(knn._extended, n=n, m=n, k=5),
            knn.Compared(*(None,) * 4, integers(n), integers(n), array(n, dtype=bool)),
            array(n, dtype=bool), one,
        ),
        "fit": (functools.partial(hashing._fit, spec=SPEC), key, array(n, D), array()),
        "encode": (functools.partial(hashing._encode, bits=3), hash_arrays, array(1024, D)),
        "buckets": (functools.partial(hashing._buckets, spec=SPEC), codes, integers(5, 6)),
        "places": (
            functools.partial(hashing._find_places, spec=SPEC, bits=12, bins=9), codes,
            integers(5, 6),
        ),
        "bits": (
            functools.partial(hashing._fit_num_bits, spec=SPEC, regions=5), codes, one, one,
            array(), one,
        ),
        "count": (hashing._count, integers(6, n), integers(6, 2**12)),
        "look up": (sketch.look_up, integers(6, 2**12), integers(6, n), one, integers(n)),
        "counts and levels": (
            functools.partial(sketch._fill, bits=12, shape=(5, 12)),
            hashing.Places(integers(6, n), integers(n)),
        ),
        "joined votes": (
            functools.partial(lsh._join_votes, votes=0.5), integers(6, 2**12),
            *(array(7, 2, 60),) * 2, hashing.Places(integers(6, n), integers(n)), integers(n),
            integers(5, 6), array(), one, array(),
        ),
        "crowding": (lsh._count_crowded, *(integers(6, 2**12),) * 2, integers(6, n), one, one),
        "curve": (lsh._count_ratios, *(integers(6, 2**12),) * 2, integers(6, n), array(), array(9)),
        "votes": (
            functools.partial(scores.aggregate_votes, tables=6, votes=0.5),
            scores.Found(integers(8, n), integers(8, n), array(7, n)), integers(5, 6),
        ),
        "balls in buckets": (
            functools.partial(lsh_knn._find_radii, k=3, c=8), array(n, D), *votes, order,
        ),
        "hits of left-out rows": (
            functools.partial(lsh_knn._find_hits, n=0, k=3, c=8, inclusive=False),
            array(n, D), *votes, order, array(2, n),
        ),
        "hits in buckets": (
            functools.partial(lsh_knn._find_hits, n=width, k=3, c=8, inclusive=True),
            array(n, D), *votes, integers(n), array(1, n),
        ),
        "kid": (moments._kid, tiles, tiles),
        "frechet": (
            moments._frechet, array(n, D, dtype=jnp.float64), array(n, D, dtype=jnp.float64),
        ),
    }  # fmt: skip


PLATFORMS = ("cpu", "cuda", "tpu")


# Newer JAX warns of abstract float64 arguments outside of the context, of which arrays may be.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
@pytest.mark.parametrize("name", kernels())
def test_lowers(name, monkeypatch):
    monkeypatch.setattr(devices, "on_cpu", lambda: False)
    kernel, *arguments = kernels()[name]
    dynamic = [x for x in arguments if not isinstance(x, int)]
    static = [x for x in arguments if isinstance(x, int)]
    run = jax.jit(lambda *x: kernel(*x, *static))
    with jax.enable_x64(name in ("frechet", "normal")):
        exported = jax.export.export(run, platforms=PLATFORMS)(*dynamic)
    assert exported.platforms == PLATFORMS
