"""Bad features in every public function: one clear error, before any heavy work."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw
from metric_functions import KEY, PAIRS, SINGLES, G, R, every_function

from lsh_gan.metrics import (
    knn,
    knn_precision_recall,
    lsh_knn,
    lsh_knn_precision_recall,
    lsh_precision_recall,
)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_function
def test_not_finite(name, value):
    function, source = SINGLES[name]
    x = draw(35, 5, 2)
    x[17, 3] = value
    x[20, 0] = value
    for features in (x, jnp.asarray(x), x.astype(np.float64), x.astype(np.float16)):
        with pytest.raises(ValueError, match=rf"({source}) has NaN or Inf.* in row 17\b"):
            function(features)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.complex64, object])
@every_function
def test_not_real_floating_point(name, dtype):
    function, source = SINGLES[name]
    message = rf"({source}) has dtype {np.dtype(dtype)}; expected floating-point features"
    with pytest.raises(TypeError, match=message):
        function(draw(35, 5, 2).astype(dtype))


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_floating_point_of_other_machines(dtype):
    for name in PAIRS:
        with pytest.raises(TypeError, match=r"generated has dtype .*; expected floating"):
            PAIRS[name](R, G.astype(dtype))


@every_function
def test_masked_arrays(name):
    """What lies under a mask would be scored like all else."""
    function, source = SINGLES[name]
    with pytest.raises(TypeError, match=rf"({source}) is a masked array; expected one without"):
        function(np.ma.masked_greater(draw(35, 5, 2), 1))


@pytest.mark.parametrize("features", [3.0, None, "features.npy"])
@every_function
def test_not_an_array(name, features):
    function, source = SINGLES[name]
    if features is None and "second" in name:
        pytest.skip("None means that there is none")
    kind = type(features).__name__
    message = rf"({source}) is a {kind}; expected a NumPy or JAX array \[n, d\] or an iterable"
    with pytest.raises(TypeError, match=message):
        function(features)


@every_function
def test_nested_lists(name):
    function, source = SINGLES[name]
    with pytest.raises(TypeError, match=rf"batch 0 of ({source}) has a list; expected floating"):
        function(R.tolist())


@pytest.mark.parametrize("shape", [(5,), (7, 5, 1), ()])
@every_function
def test_rank(name, shape):
    function, source = SINGLES[name]
    message = rf"({source}) has shape \({', '.join(map(str, shape))},?\); expected \[rows, d\]"
    with pytest.raises(ValueError, match=message):
        function(np.zeros(shape, np.float32))


@every_function
def test_no_dimensions(name):
    function, source = SINGLES[name]
    with pytest.raises(ValueError, match=rf"({source}) has shape \(35, 0\); expected d >= 1"):
        function(np.zeros((35, 0), np.float32))


@pytest.mark.parametrize(
    "name",
    [
        "knn generated",
        "lsh generated",
        "lsh_knn generated",
        "kid generated",
        "frechet generated",
        "knn second",
        "lsh second",
        "lsh_knn second",
        "knn_score",
        "lsh_score",
        "lsh_knn_score",
        "build",
    ],
)
def test_other_d(name):
    function, source = SINGLES[name]
    with pytest.raises(ValueError, match=rf"({source}) has d = 4; the other set has d = 5"):
        function(draw(35, 4))


@pytest.mark.parametrize("features", [R[:0], [], [R[:0]]], ids=["array", "nothing", "batch"])
@every_function
def test_empty(name, features):
    function, source = SINGLES[name]
    with pytest.raises(ValueError, match=rf"({source}) (has no rows|has 0 rows|is an iterable w)"):
        function(features)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("knn reference", 5), ("knn generated", 5), ("knn_fit", 5), ("knn_score", 5),
        ("lsh_knn reference", 5), ("lsh_knn generated", 5), ("lsh_knn_fit", 5),
        ("lsh_knn_score", 5), ("lsh reference", 3), ("lsh auto reference", 3), ("lsh_fit", 3),
        ("fit_hash", 3), ("kid reference", 2), ("kid generated", 2), ("frechet reference", 2),
        ("frechet generated", 2),
    ],
)  # fmt: skip
def test_too_few_rows(name, rows):
    function, source = SINGLES[name]
    few = rows - 1
    with pytest.raises(ValueError, match=rf"{source} has {few} rows; .* at least {rows}\."):
        function(draw(few, 5))
    function(draw(rows, 5))  # so many are enough


def test_values_that_overflow_float32():
    """A score of the reference's own scale cannot be had; an error, not NaN."""
    far = G * np.float32(1e25)
    for name in ("knn", "lsh", "lsh_knn"):
        with pytest.raises(ValueError, match=r"generated .*overflows"):
            PAIRS[name](R, far)


def test_all_sets_are_checked_before_heavy_work(monkeypatch):
    def never(*_, **__):
        raise AssertionError("heavy work has begun")

    monkeypatch.setattr(knn, "nearest_others", never)
    monkeypatch.setattr(lsh_knn, "draw_hash", never)
    bad = np.where(np.arange(30)[:, None] == 7, np.nan, G)
    for score in (knn_precision_recall, functools.partial(lsh_knn_precision_recall, KEY)):
        with pytest.raises(ValueError, match="generated has NaN or Inf in row 7"):
            score(R, bad)
        with pytest.raises(ValueError, match="second reference has NaN or Inf in row 7"):
            score(R, G, second_reference=bad)
        with pytest.raises(AssertionError, match="heavy work has begun"):
            score(R, G)


def test_lsh_looks_at_what_it_can_before_it_reads_the_reference():
    def unread():
        raise AssertionError("the reference was read")
        yield

    with pytest.raises(TypeError, match="generated is a str"):
        lsh_precision_recall(KEY, unread(), "images")
    with pytest.raises(TypeError, match="second reference is a int"):
        lsh_precision_recall(KEY, unread(), G, second_reference=3, ceiling=False)
    with pytest.raises(TypeError, match="key is a int"):
        lsh_precision_recall(0, unread(), G)
    with pytest.raises(ValueError, match="generated has d = 4; the other set has d = 5"):
        lsh_precision_recall(KEY, R, G[:, :4])
    with pytest.raises(AssertionError, match="the reference was read"):
        lsh_precision_recall(KEY, unread(), G)


EXTREMES = [
    (2.0**125, np.float32), (2.0**-130, np.float32), (2.0**125, jnp.bfloat16),
    (2.0**400, np.float64), (2.0**-400, np.float64), (2.0**-1040, np.float64),
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("factor", "dtype"), EXTREMES)
def test_extreme_features_score_as_ordinary_ones(factor, dtype):
    """In steps of 1 / 8, which all types hold, subnormal ones too: multiples of powers of two."""
    r, g = (np.round(8 * draw(80, 6, seed)).clip(-31, 31) / 8 for seed in (1, 2))
    extreme = [np.asarray(x, np.float64) * factor for x in (r, g)]
    extreme = [x.astype(dtype) for x in extreme]
    for score in (
        functools.partial(knn_precision_recall, ceiling=False),
        functools.partial(lsh_precision_recall, KEY),
        functools.partial(lsh_knn_precision_recall, KEY),
    ):
        # A hash that is fitted in float64 has other last bits: a row or so changes its cell.
        assert score(*extreme)[:2] == pytest.approx(score(r, g)[:2], abs=1.1 / 80)
        assert score(r, g).precision < 1


@pytest.mark.parametrize(
    "score", [knn_precision_recall, functools.partial(lsh_precision_recall, KEY)]
)
def test_features_whose_squares_overflow_float64(score):
    x = 1e300 * draw(80, 6).astype(np.float64)
    with pytest.raises(ValueError, match=r"span .*e\+300; expected less than 3.3e\+150"):
        score(x, x)
