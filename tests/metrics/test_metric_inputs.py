"""Bad input of every public function: one clear error, before any heavy work."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw

from lsh_gan.metrics import (
    HashSpec,
    build,
    fit_hash,
    frechet_distance,
    kid,
    knn,
    knn_fit,
    knn_precision_recall,
    knn_score,
    lsh_fit,
    lsh_knn,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_knn_score,
    lsh_precision_recall,
    lsh_score,
    merge,
)

KEY = jax.random.key(0)
SPEC = HashSpec(family="affine", num_tables=4, num_bits=3, radius_bins=2)


R, G = draw(40, 5), draw(30, 5, 1)

PAIRS = {
    "knn": knn_precision_recall,
    "lsh": lambda r, g: lsh_precision_recall(KEY, r, g, spec=SPEC),
    "lsh auto": lambda r, g: lsh_precision_recall(KEY, r, g),
    "lsh_knn": lambda r, g: lsh_knn_precision_recall(KEY, r, g, spec=SPEC),
    "kid": kid,
    "frechet": frechet_distance,
}
# What takes one set, and the name it goes by in messages.
SINGLES = {
    **{f"{name} reference": (lambda x, f=f: f(x, G), "reference") for name, f in PAIRS.items()},
    **{f"{name} generated": (lambda x, f=f: f(R, x), "generated") for name, f in PAIRS.items()},
    "knn second": (lambda x: knn_fit(R, second_reference=x), "second reference"),
    "lsh second": (
        lambda x: lsh_fit(KEY, R[:35], spec=SPEC, second_reference=x), "second reference",
    ),
    "lsh_knn second": (
        lambda x: lsh_knn_fit(KEY, R, spec=SPEC, second_reference=x), "second reference",
    ),
    "knn_fit": (knn_fit, "reference"),
    "knn_score": (lambda x: knn_score(knn_fit(R), x), "generated"),
    "lsh_fit": (lambda x: lsh_fit(KEY, x, spec=SPEC), "reference"),
    "lsh_score": (lambda x: lsh_score(lsh_fit(KEY, R, spec=SPEC), x), "generated"),
    "lsh_knn_fit": (lambda x: lsh_knn_fit(KEY, x, spec=SPEC), "reference"),
    "lsh_knn_score": (lambda x: lsh_knn_score(lsh_knn_fit(KEY, R, spec=SPEC), x), "generated"),
    "fit_hash": (lambda x: fit_hash(KEY, x, SPEC), "sample"),
    "build": (lambda x: build(fit_hash(KEY, R, SPEC), x), "features"),
}  # fmt: skip
every_function = pytest.mark.parametrize("name", SINGLES)


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


@every_function
def test_not_finite_in_a_stream(name):
    """The row is counted in the whole set."""
    function, source = SINGLES[name]
    x = draw(35, 5, 2)
    x[17, 3] = np.nan
    with pytest.raises(ValueError, match=rf"({source}) has NaN or Inf.* in row 17\b"):
        function([x[:10], x[10:20], x[20:]])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, np.complex64, object])
@every_function
def test_not_real_floating_point(name, dtype):
    function, source = SINGLES[name]
    message = rf"({source}) has dtype {np.dtype(dtype)}; expected floating-point features"
    with pytest.raises(TypeError, match=message):
        function(draw(35, 5, 2).astype(dtype))


@pytest.mark.parametrize("stream", [list, iter])
@every_function
def test_not_floating_point_in_a_stream(name, stream):
    function, source = SINGLES[name]
    x = draw(35, 5, 2)
    with pytest.raises(TypeError, match=rf"batch 1 of ({source}) has dtype int64"):
        function(stream([x[:20], x[20:].astype(np.int64)]))


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


@pytest.mark.parametrize("stream", [list, iter])
@every_function
def test_d_that_changes_in_a_stream(name, stream):
    function, source = SINGLES[name]
    with pytest.raises(
        ValueError, match=rf"batch 1 of ({source}) has d = 4; earlier batches have d = 5"
    ):
        function(stream([R[:20], R[20:, :4]]))


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


def test_another_d_than_the_other_set_in_a_stream():
    with pytest.raises(ValueError, match="batch 0 of generated has d = 4; the other set has d = 5"):
        lsh_precision_recall(KEY, R, [G[:, :4]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"votes": 0.0}, r"votes = 0.0; expected a share in \(0, 1\], or None"),
        ({"votes": 1.5}, r"votes = 1.5; expected a share"),
        ({"min_count": 0}, r"min_count = 0; expected at least 1"),
    ],
)
def test_voting_options(options, message):
    with pytest.raises(ValueError, match=message):
        lsh_precision_recall(KEY, R, G, **options)
    with pytest.raises(ValueError, match=message):
        fit_hash(KEY, R, **options)


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


def test_options_of_knn():
    with pytest.raises(ValueError, match=r"k = 0, density_k = 5; expected 1 <= k <= n - 2 and"):
        knn_precision_recall(R, G, k=0)
    for memory_mb in (0, np.inf, np.nan, 10**400):
        for score in (knn_precision_recall, functools.partial(lsh_knn_precision_recall, KEY), kid):
            with pytest.raises(ValueError, match=r"memory_mb = .*; expected at least 1, at mo"):
                score(R, G, memory_mb=memory_mb)
    with pytest.raises(ValueError, match=r"reference has 40 rows; k = 40 needs at least 42"):
        knn_precision_recall(R, G, k=40)
    with pytest.raises(ValueError, match=r"k = 3, max_cell = 2; expected 1 <= k < max_cell"):
        lsh_knn_precision_recall(KEY, R, G, max_cell=2)


@pytest.mark.parametrize("value", ["half", [0.5], True])
def test_numbers(value):
    message = rf" = {re.escape(repr(value))}; expected a number"
    for score in (lsh_precision_recall, lsh_knn_precision_recall):
        with pytest.raises(TypeError, match="votes" + message):
            score(KEY, R, G, votes=value)
    for score in (knn_precision_recall, functools.partial(lsh_knn_precision_recall, KEY)):
        with pytest.raises(TypeError, match="memory_mb" + message):
            score(R, G, memory_mb=value)
    for field in ("width", "ceiling_target"):
        with pytest.raises(TypeError, match=field + message):
            HashSpec(**{field: value})


@pytest.mark.parametrize("value", [None, [4], 2.0, True])
def test_number_of_bits(value):
    message = rf"num_bits = {re.escape(repr(value))}; pstable takes 0 to 10, or 'auto'"
    with pytest.raises(TypeError, match=message):
        HashSpec(num_bits=value)


def test_rows_of_fit_hash():
    with pytest.raises(ValueError, match="rows = -5; expected at least 1"):
        fit_hash(KEY, R, rows=-5)
    with pytest.raises(TypeError, match=r"rows = 1000000.0; expected a whole number"):
        fit_hash(KEY, R, rows=1e6)
    with pytest.raises(TypeError, match="source is a int; expected a string"):
        fit_hash(KEY, R, source=3)


@pytest.mark.parametrize("key", [np.zeros((3, 2), np.uint32), np.zeros(2), jax.random.split(KEY)])
def test_keys(key):
    message = rf"key has shape {re.escape(str(key.shape))} and dtype .*; expected jax.random.key"
    for score in (lsh_precision_recall, lsh_knn_precision_recall):
        with pytest.raises(TypeError, match=message):
            score(key, R, G)
    old = jax.random.PRNGKey(0)
    assert lsh_precision_recall(old, R, G) == lsh_precision_recall(KEY, R, G)


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


def test_min_count_beyond_the_rows_that_the_hash_is_fitted_on():
    r = draw(5000, 2)
    spec = HashSpec(family="affine", num_tables=2, num_bits=0, radius_bins=0)
    options = {"spec": spec, "ceiling": False}
    assert lsh_precision_recall(KEY, r, G[:, :2], min_count=4998, **options).precision == 1
    for reference in (r, [r[:2000], r[2000:]]):
        with pytest.raises(
            ValueError, match="reference has 5000 rows; min_count = 4999 needs at least 5001"
        ):
            lsh_precision_recall(KEY, reference, G[:, :2], min_count=4999, **options)


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_floating_point_of_other_machines(dtype):
    for name in PAIRS:
        with pytest.raises(TypeError, match=r"generated has dtype .*; expected floating"):
            PAIRS[name](R, G.astype(dtype))


@pytest.mark.parametrize("value", [2.5, "3", True, None])
def test_whole_numbers(value):
    message = rf" = {value!r}; expected a whole number"
    for options in ({"k": value}, {"density_k": value}):
        with pytest.raises(TypeError, match=next(iter(options)) + message):
            knn_precision_recall(R, G, **options)
    with pytest.raises(TypeError, match=f"k{message}"):
        lsh_knn_precision_recall(KEY, R, G, k=value)
    with pytest.raises(TypeError, match=f"min_count{message}"):
        lsh_precision_recall(KEY, R, G, min_count=value)
    for field in ("num_tables", "radius_bins", "num_directions"):
        with pytest.raises(TypeError, match=field + message):
            HashSpec(**{field: value})


def test_numbers_of_another_type_say_their_range():
    far = functools.partial(lsh_precision_recall, KEY)
    near = functools.partial(lsh_knn_precision_recall, KEY)
    for score, options, message in (
        (
            knn_precision_recall,
            {"k": "3"},
            r"k = .*; expected a whole number of at least 1 \(k",
        ),
        (near, {"k": 3.0}, r"k = 3.0; expected a whole number; 1 <= k < max_cell"),
        (near, {"votes": "half"}, r"expected a number in \(0, 1\], or None"),
        (far, {"votes": "half"}, r"expected a number in \(0, 1\], or None"),
        (far, {"min_count": 1.0}, r"expected a whole number of at least 1"),
        (knn_precision_recall, {"memory_mb": "1"}, r"expected a number of at least 1"),
    ):
        with pytest.raises(TypeError, match=message):
            score(R, G, **options)


@pytest.mark.parametrize("number", [np.uint8, np.int8, np.int64, np.uint64])
def test_whole_numbers_of_numpy(number):
    """The smallest ones too, whose sums would overflow, are what Python's are."""
    near = functools.partial(lsh_knn_precision_recall, KEY)
    for score, options in (
        (knn_precision_recall, {"k": 3, "density_k": 20}),
        (knn_precision_recall, {"k": 20, "density_k": 5, "memory_mb": 100}),
        (near, {"k": 3, "max_cell": 100, "memory_mb": 100}),
        (functools.partial(lsh_precision_recall, KEY), {"min_count": 2}),
        (kid, {"memory_mb": 100}),
    ):
        expected = score(R, G, **options)
        found = score(R, G, **{name: number(value) for name, value in options.items()})
        assert repr(found) == repr(expected)
    most = number(np.iinfo(number).max) if number in (np.uint8, np.int8) else number(126)
    message = rf"reference has 40 rows; (k|min_count) = {most} needs at least {int(most) + 2}"
    for score in (knn_precision_recall, near):
        with pytest.raises(ValueError, match=message):
            score(R, G, k=most)
    for score in (lambda r, **options: lsh_precision_recall(KEY, r, G, **options), knn_fit):
        with pytest.raises(ValueError, match=message):
            score(R, **{"k" if score is knn_fit else "min_count": most})
    with pytest.raises(ValueError, match=message.replace("reference", "sample")):
        fit_hash(KEY, R, min_count=most)
    assert fit_hash(KEY, R, rows=number(120)).num_bits == fit_hash(KEY, R, rows=120).num_bits


def test_numbers_of_numpy_make_the_same_hash():
    options = {"num_tables": 32, "num_bits": 8, "radius_bins": 100, "num_directions": 127}
    numbers = {"width": 1.5, "ceiling_target": 0.75}
    expected = HashSpec(family="affine", **options, **numbers)
    found = HashSpec(
        family="affine",
        **{name: np.int8(value) for name, value in options.items()},
        **{name: np.float32(value) for name, value in numbers.items()},
    )
    assert repr(found) == repr(expected)
    assert [type(getattr(found, name)) for name in options] == [int] * 4
    assert [type(getattr(found, name)) for name in numbers] == [float] * 2
    assert type(HashSpec(width=2).width) is float
    assert lsh_precision_recall(KEY, R, G, spec=found) == lsh_precision_recall(
        KEY, R, G, spec=expected
    )
    with pytest.raises(ValueError, match=r"width = 1000.*; expected a positive number"):
        HashSpec(width=10**400)


@pytest.mark.parametrize("value", ["no", None, 0, 1.0, np.array(True)])
def test_flags(value):
    hasher, near = fit_hash(KEY, R, SPEC), functools.partial(lsh_knn_precision_recall, KEY)
    far = functools.partial(lsh_precision_recall, KEY)
    fitted = lsh_fit(KEY, R, spec=SPEC)
    takes = [(score, (R, G), name) for score in (knn_precision_recall, near)
             for name in ("inclusive", "membership", "ceiling")]  # fmt: skip
    takes += [(far, (R, G), name) for name in ("membership", "ceiling")]
    takes += [(knn_fit, (R,), name) for name in ("inclusive", "ceiling")]
    takes += [
        (functools.partial(lsh_knn_fit, KEY), (R,), name) for name in ("inclusive", "ceiling")
    ]
    takes += [
        (functools.partial(lsh_fit, KEY), (R,), "ceiling"),
        (functools.partial(knn_score, knn_fit(R)), (G,), "membership"),
        (functools.partial(lsh_score, fitted), (G,), "membership"),
        (functools.partial(lsh_knn_score, lsh_knn_fit(KEY, R)), (G,), "membership"),
        (functools.partial(build, hasher), (R,), "keep_codes"),
    ]
    for function, sets, name in takes:
        message = rf"^{name} = {re.escape(repr(value))}; expected True or False"
        with pytest.raises(TypeError, match=message):
            function(*sets, **{name: value})
    with pytest.raises(TypeError, match=r"ceiling = .*; expected True or False"):
        lsh_score(fitted._replace(ceiling=value), G)
    for score in (knn_precision_recall, near, far):
        assert score(R, G, ceiling=np.False_) == score(R, G, ceiling=False)


def test_things_of_another_kind():
    sketch = build(fit_hash(KEY, R, SPEC), R)
    cases = [
        (lambda: knn_score(R, G), "fitted is a ndarray; expected a KnnReference, see knn_fit"),
        (lambda: lsh_score(sketch, G), "fitted is a Sketch; expected an LshReference, see lsh_fit"),
        (lambda: lsh_knn_score(None, G), "fitted is a NoneType; expected an LshKnnReference"),
        (lambda: merge(sketch, R), "part is a ndarray; expected a Sketch, see build"),
        (lambda: lsh_precision_recall(0, R, G), r"key is a int; expected jax\.random\.key\(seed"),
        (lambda: lsh_precision_recall(KEY, R, G, spec={}), "spec is a dict; expected a HashSpec"),
    ]
    for function, message in cases:
        with pytest.raises(TypeError, match=message):
            function()


def test_values_that_overflow_float32():
    """A score of the reference's own scale cannot be had; an error, not NaN."""
    far = G * np.float32(1e25)
    for name in ("knn", "lsh", "lsh_knn"):
        with pytest.raises(ValueError, match=r"generated .*overflows"):
            PAIRS[name](R, far)
