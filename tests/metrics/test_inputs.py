"""The one checked door: bad features and options are one clear line, of every public function."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
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
    lsh,
    lsh_fit,
    lsh_knn_fit,
    lsh_knn_precision_recall,
    lsh_precision_recall,
    lsh_score_streams,
    merge,
    save,
)

KEY = jax.random.key(0)
N, M, D = 120, 90, 4  # sets of as many rows need fewer programs
R, G = draw(N, D), draw(N, D, 1)
SPEC = HashSpec(num_tables=6)
METRICS = {
    "knn": knn_precision_recall,
    "lsh": lambda r, g, **options: lsh_precision_recall(KEY, r, g, spec=SPEC, **options),
    "lsh_knn": lambda r, g, **options: lsh_knn_precision_recall(KEY, r, g, spec=SPEC, **options),
}
# Function of one set, what messages call it.
DOORS = {
    "knn": (lambda x: knn_precision_recall(R, x), "generated"),
    "knn_fit": (knn_fit, "reference"),
    "knn second": (lambda x: knn_fit(R, second_reference=x), "second reference"),
    "lsh": (lambda x: lsh_precision_recall(KEY, R, x, spec=SPEC), "generated"),
    "lsh_fit": (lambda x: lsh_fit(KEY, x), "reference"),
    "lsh_knn": (lambda x: lsh_knn_precision_recall(KEY, R, x), "generated"),
    "lsh_knn_fit": (lambda x: lsh_knn_fit(KEY, x), "reference"),
    "lsh_knn second": (lambda x: lsh_knn_fit(KEY, R, second_reference=x), "second reference"),
    "fit_hash": (lambda x: fit_hash(KEY, x), "reference"),
    "kid": (lambda x: kid(R, x), "generated"),
    "frechet": (lambda x: frechet_distance(x, R), "reference"),
}
every_door = pytest.mark.parametrize("door", DOORS)


@pytest.fixture(autouse=True)
def no_heavy_work(request, monkeypatch):
    """Refusals come before distances and hashes."""
    if "door" in request.fixturenames:

        def heavy(*_, **__):
            raise AssertionError("heavy work")

        monkeypatch.setattr(knn, "find_balls", heavy)
        monkeypatch.setattr(lsh.hashing, "fit", heavy)


def refusal(door, x, error):
    function, source = DOORS[door]
    with pytest.raises(error) as caught:
        function(x)
    message = str(caught.value)
    assert message.startswith(source), message
    assert "\n" not in message
    return message.removeprefix(source)


@every_door
def test_features_that_are_refused(door):
    bad = draw(N, D, 2)
    bad[17, 3] = np.nan
    bad[20, 0] = -np.inf
    for x in (bad, jnp.asarray(bad), bad.astype(np.float64), bad.astype(np.float16)):
        assert refusal(door, x, ValueError) == " has NaN or Inf in row 17."
    for x in (R[0], R[None], R[:, :0]):
        assert "; expected [rows, d]." in refusal(door, x, ValueError)
    assert " rows; " in refusal(door, R[:1], ValueError) if door != "lsh" else True
    for scale in (1e16, 1e-20):
        assert "from 1e-16 to 1e+15" in refusal(door, R.astype(np.float64) * scale, ValueError)
    for dtype in (np.int32, np.uint8, bool, np.complex64):
        expected = f" has dtype {np.dtype(dtype)}; expected floating-point features"
        assert expected in refusal(door, R.astype(dtype), TypeError)
    for sparse in (scipy.sparse.csr_matrix(R), scipy.sparse.csr_array(R)):
        assert "; expected a dense array: call toarray()." in refusal(door, sparse, TypeError)
    with pytest.raises(TypeError, match=r"is traced, by .*vmap or grad; expected values"):
        jax.jit(DOORS[door][0])(R)
    assert refusal(door, np.ma.masked_greater(R, 1), TypeError) == (
        " is a masked array; fill it first."
    )
    assert " is a list; expected one array [n, d]" in refusal(door, R.tolist(), TypeError)
    assert " is a str; expected one array" in refusal(door, "features.npy", TypeError)


@pytest.mark.parametrize("door", [x for x in DOORS if x not in ("knn_fit", "lsh_fit", "fit_hash", "lsh_knn_fit")])  # fmt: skip  # noqa: E501
def test_sets_of_different_dimensions(door):
    with pytest.raises(ValueError, match=r"has d = [34]; the other set has d = [34]\."):
        DOORS[door][0](R[:, :3])


@pytest.mark.parametrize("name", ["knn", "lsh_knn"])
def test_too_few_rows(name):
    for r, g, source in ((R[:4], G, "reference"), (R, G[:4], "generated")):
        with pytest.raises(ValueError, match=f"{source} has 4 rows; k = 3 needs at least 5"):
            METRICS[name](r, g)


@pytest.mark.parametrize("name", METRICS)
def test_second_reference_of_fewer_rows(name):
    with pytest.raises(ValueError, match=r"second reference has 90 rows; the reference has"):
        METRICS[name](R, G, second_reference=G[:M])


def test_what_is_not_of_the_type_that_is_asked_for():
    hasher, sketch = fit_hash(KEY, R, SPEC), build(fit_hash(KEY, R, SPEC), R)
    for function, given, message in (
        (lsh_fit, (KEY, R), "spec is a dict; expected a HashSpec"),
        (knn_score, (R, G), "fitted is a ndarray; expected a KnnReference, of knn_fit"),
        (merge, ([sketch, sketch],), r"part is a list; expected a Sketch: merge\(a, b\)"),
        (save, ("x.sketch", hasher), "fitted is a Hasher; expected a Sketch or LshReference"),
        (lsh_score_streams, (hasher, [R], [G]), "reference is a list; expected a function"),
    ):
        with pytest.raises(TypeError, match=message):
            function(*given, **({"spec": {"num_tables": 6}} if function is lsh_fit else {}))


def test_settings_of_the_session_change_no_score():
    def scores():
        return [str(METRICS[name](R, G, ceiling=False)) for name in METRICS] + [kid(R, G)]

    usual = scores()
    with (
        jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"),
        jax.debug_infs(True), jax.debug_nans(True), jax.threefry_partitionable(False),
        jax.enable_x64(True), jax.transfer_guard("disallow"),
    ):  # fmt: skip
        assert scores() == usual


def test_options_out_of_range():
    cases = [
        ("knn", "k", 0, r"k = 0; expected a whole number from 1 to 1024"),
        ("knn", "k", 2.5, r"k = 2.5; expected a whole number"),
        ("knn", "density_k", True, r"density_k = True; expected a whole number"),
        ("knn", "memory_mb", 0.5, r"memory_mb = 0.5; expected at least 1"),
        (
            "knn",
            "labels",
            np.zeros(120),
            r"labels have shapes \(120,\); expected those of both sets",
        ),
        ("knn", "memory_mb", "a", "memory_mb = 'a'; expected at least 1"),
        ("knn", "labels", 5, r"labels have shapes \(\); expected those of both sets"),
        ("lsh", "votes", "half", r"votes = 'half'; expected a share in \(0, 1\]"),
        ("lsh", "min_level", "a", "min_level = 'a'; expected a number, or None"),
        ("lsh", "min_count", None, "min_count = None; expected a whole number"),
        ("lsh", "votes", 0, r"votes = 0; expected a share in \(0, 1\]"),
        ("lsh", "votes", 1.1, r"votes = 1.1; expected a share"),
        ("lsh", "min_count", 0, r"min_count = 0; expected a whole number"),
        ("lsh_knn", "bucket_rows", 4, r"bucket_rows = 4; expected a whole number from 5 to 1024"),
        ("lsh_knn", "votes", -1, r"votes = -1; expected a share"),
        ("lsh_knn", "votes", None, r"votes = None; LSH\+KNN expects a share"),
    ]
    for name, option, value, expected in cases:
        with pytest.raises(ValueError, match=expected):
            METRICS[name](R, G, **{option: value})


def test_hashes_that_are_refused_and_numbers_of_numpy():
    cases = [
        ({"family": "afine"}, "hash family 'afine' is unknown; did you mean 'affine'"),
        ({"num_bits": "atuo"}, r"num_bits = 'atuo'; expected .* 0 to 10 \(or 'auto'\)"),
        ({"num_bits": 25, "family": "affine"}, "num_bits = 25; expected .* 0 to 24"),
        ({"num_tables": 0}, "num_tables = 0; expected a whole number from 1 to 65535"),
        ({"radius_bins": 1001}, "radius_bins = 1001; expected a whole number from 0 to 1000"),
        ({"width": 0.0}, "width = 0.0; expected a positive number"),
        ({"width": "1"}, "width = '1'; expected a positive number"),
        ({"num_directions": 4, "num_bits": 5}, "num_directions = 4; expected .* from 5 to 65536"),
        ({"ceiling_target": 1.0}, r"ceiling_target = 1.0; expected it in \(0, 1\)"),
    ]
    for options, expected in cases:
        with pytest.raises(ValueError, match=expected):
            HashSpec(**options)
    spec = HashSpec(num_tables=np.int64(4), num_directions=np.int32(8), width=np.float32(2))
    assert (type(spec.num_tables), type(spec.num_directions), type(spec.width)) == (int, int, float)


def test_rows_of_batches_are_numbered_through():
    bad = G.copy()
    bad[61, 0] = np.nan
    batches = [bad[:40], bad[40:]]
    with pytest.raises(ValueError, match="generated has NaN or Inf in row 61"):
        METRICS["lsh"](R, batches)
    with pytest.raises(ValueError, match="features has NaN or Inf in row 61"):
        build(fit_hash(KEY, R, SPEC), iter(batches))
    with pytest.raises(ValueError, match="generated has no rows"):
        METRICS["lsh"](R, iter([]))
    with pytest.raises(
        TypeError, match=r"^generated: a batch is a tuple; .*\(batch\[0\] for batch"
    ):
        METRICS["lsh"](R, iter([(G, np.zeros(N))]))
    with pytest.raises(ValueError, match="generated has d = 3; the other set has d = 4"):
        METRICS["lsh"](R, [G[:40], G[40:, :3]])


class Tensor:
    """What torch has, in as far as a metric looks: values that need detaching."""

    def __init__(self, values, attached=True):
        self.values, self.attached, self.shape = values, attached, values.shape

    def detach(self):
        return Tensor(self.values, False)

    def __array__(self, dtype=None, copy=None):
        if self.attached:
            raise RuntimeError("call detach() first")
        return self.values


@pytest.mark.parametrize("name", METRICS)
def test_tensors_and_jax_arrays_score_as_numpy(name):
    expected = METRICS[name](R, G, membership=True)
    for convert in (Tensor, jnp.asarray, lambda x: x.astype(np.float64)):
        found = METRICS[name](convert(R), convert(G), membership=True)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", METRICS)
def test_torch_tensors_score_as_numpy(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of when it is imported
        torch = pytest.importorskip("torch")
    expected = METRICS[name](R, G)
    assert METRICS[name](torch.tensor(R, requires_grad=True), torch.tensor(G)) == expected
    half = [torch.tensor(x).bfloat16() for x in (R, G)]  # NumPy has no bfloat16
    assert METRICS[name](*half) == METRICS[name](*(x.float().numpy() for x in half))


def test_a_seed_is_no_key():
    with pytest.raises(TypeError, match=r"^key = 0; expected jax\.random\.key\(SEED\)$"):
        lsh.lsh_precision_recall(0, R, G)
    for features in (R, jnp.asarray(R)):
        with pytest.raises(TypeError, match=r"^key = an array \(\d+, \d+\); expected jax\."):
            lsh.lsh_precision_recall(features, R, G)
    with pytest.raises(TypeError, match=r"^key = .*Tracer.*; expected jax\.random\.key\(SEED\)"):
        jax.vmap(lambda key: lsh.lsh_precision_recall(key, R, G).recall)(jax.random.split(KEY))


def test_large_features_are_taken():
    """Up to 1e15, far above where sums of float32 overflow in squares."""
    scores = [METRICS["knn"](np.float32(x) * R, np.float32(x) * G) for x in (1, 2**45)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("name", METRICS)
def test_results_print_in_a_few_lines(name):
    scores = METRICS[name](R, G)
    lines = repr(scores).splitlines()
    assert 3 <= len(lines) <= 4
    assert lines[0].startswith(f"precision  {scores.precision:.3f} ± ")
    assert f"(ceiling {scores.precision_ceiling:.3f})" in lines[0]
    assert "n = 120, m = 120" in lines[-1]
    assert "n = 123456, m = 120" in repr(scores._replace(n=123_456))
    assert scores._repr_html_().startswith("<table><tr><th>precision</th>")
