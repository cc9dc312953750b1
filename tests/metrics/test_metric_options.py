"""Options and other arguments of the metrics: one clear error for bad ones."""

import functools
import re

import jax
import numpy as np
import pytest
from draws import draw
from metric_functions import KEY, SPEC, G, R

from lsh_gan.metrics import (
    HashSpec,
    LshReference,
    build,
    fit_hash,
    kid,
    knn_fit,
    knn_precision_recall,
    knn_score,
    lsh_fit,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_knn_score,
    lsh_precision_recall,
    lsh_score,
    merge,
)


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


def test_min_count_beyond_the_rows_of_a_sketch():
    hasher = fit_hash(KEY, R, HashSpec(num_tables=4, num_bits=1))
    fitted = LshReference(build(hasher, R), 39, 0.5, False, None)
    with pytest.raises(ValueError, match="reference has 40 rows; min_count = 39 needs at least 41"):
        lsh_score(fitted, G)


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
