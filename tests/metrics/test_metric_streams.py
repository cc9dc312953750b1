"""Features in batches: scored as one array is, and refused with the batch or row at fault."""

import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw
from metric_functions import KEY, PAIRS, SINGLES, SPEC, G, R, every_function

from lsh_gan.metrics import fit_hash, lsh_precision_recall


@every_function
def test_not_finite_in_a_stream(name):
    """The row is counted in the whole set."""
    function, source = SINGLES[name]
    x = draw(35, 5, 2)
    x[17, 3] = np.nan
    with pytest.raises(ValueError, match=rf"({source}) has NaN or Inf.* in row 17\b"):
        function([x[:10], x[10:20], x[20:]])


@pytest.mark.parametrize("stream", [list, iter])
@every_function
def test_not_floating_point_in_a_stream(name, stream):
    function, source = SINGLES[name]
    x = draw(35, 5, 2)
    with pytest.raises(TypeError, match=rf"batch 1 of ({source}) has dtype int64"):
        function(stream([x[:20], x[20:].astype(np.int64)]))


@pytest.mark.parametrize("stream", [list, iter])
@every_function
def test_d_that_changes_in_a_stream(name, stream):
    function, source = SINGLES[name]
    with pytest.raises(
        ValueError, match=rf"batch 1 of ({source}) has d = 4; earlier batches have d = 5"
    ):
        function(stream([R[:20], R[20:, :4]]))


def test_another_d_than_the_other_set_in_a_stream():
    with pytest.raises(ValueError, match="batch 0 of generated has d = 4; the other set has d = 5"):
        lsh_precision_recall(KEY, R, [G[:, :4]])


@pytest.mark.parametrize("stream", [list, iter])
@pytest.mark.parametrize("name", PAIRS)
def test_streams_are_arrays(name, stream):
    function = PAIRS[name]
    whole = function(R, G)
    parts = function(stream([R[:3], R[3:30], R[30:]]), stream([G[:29], G[29:]]))
    assert whole == parts


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", PAIRS)
def test_types_that_change_in_a_stream(name, array):
    """All are held exactly, half precision of both kinds and what follows it."""
    kinds, cuts = (jnp.float16, jnp.bfloat16, np.float32, jnp.float16), (10, 20, 25)
    mixed = [array(x.astype(kind)) for x, kind in zip(np.split(R, cuts), kinds, strict=True)]
    whole = np.concatenate([np.asarray(x).astype(np.float32) for x in mixed])
    assert PAIRS[name](mixed, G) == PAIRS[name](whole, G)
    half = [x for x in mixed if x.dtype.itemsize == 2]
    assert PAIRS[name](R, half) == PAIRS[name](R, [x.astype(np.float32) for x in half])


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", PAIRS)
def test_float64_in_a_stream_of_arrays_of_jax(name, place):
    """Stays float64, wherever it stands: differences far from the origin need it."""
    far = [x.astype(np.float64) + 1e6 for x in (R[:20], R[20:])]
    far[place] = far[place].astype(np.float32).astype(np.float64)
    expected = PAIRS[name](far, G.astype(np.float64) + 1e6)
    mixed = [jnp.asarray(x, jnp.float32) if i == place else x for i, x in enumerate(far)]
    assert PAIRS[name](mixed, G.astype(np.float64) + 1e6) == expected


def test_half_precision_of_both_kinds_makes_a_hash():
    r = draw(5000, 4)
    parts = [r[:4500].astype(np.float16), r[4500:].astype(jnp.bfloat16)]
    found = fit_hash(KEY, parts, SPEC)
    expected = fit_hash(KEY, np.concatenate([x.astype(np.float32) for x in parts]), SPEC)
    np.testing.assert_array_equal(found.thresholds, expected.thresholds)
