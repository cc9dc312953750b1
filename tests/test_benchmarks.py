"""Benchmarks find what the metrics find, at sizes that take no time."""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import errors, gpu, measuring, metric_growth, metric_peers, modes, study_outliers
from benchmarks import metrics as benchmark
from configs import smoke
from lsh_gan import metrics

BENCHMARKS = Path(benchmark.__file__).parent.glob("*.py")
KINDS = ("device arrays", "NumPy arrays")


@pytest.fixture
def hasty(monkeypatch):
    """As many calls as rounds, however short they are."""
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0)


def features(n, m, d=16):
    return measuring.draw(n, d, 1), measuring.draw(m, d, 2)


def test_growth_assesses_as_the_metrics_do():
    r, g = features(300, 60)  # as many as where errors are compared
    key = jax.random.key(0)
    by_lsh = metric_growth.assess_lsh(300, 16, m=60)
    assert by_lsh.rows == 60
    expected = metrics.lsh_precision_recall(key, r, g, ceiling=False).precision
    assert by_lsh.run().precision == expected
    by_lsh_knn = metric_growth.assess_lsh_knn(300, 16)
    assert by_lsh_knn.rows == 600
    expected = metrics.lsh_knn_precision_recall(key, *features(300, 300), ceiling=False)
    assert by_lsh_knn.run() == expected
    by_knn = metric_growth.assess_knn(300, 16, m=60)
    sq = np.square(r[:, None] - np.concatenate([r, g])).sum(axis=-1)
    sq_radius = np.median(np.sort(sq[:31, :300])[:, 3])  # of all balls that KNN is measured with
    expected = (sq[:, 300:] <= sq_radius).any(axis=0)
    assert by_knn.run().tolist() == expected.tolist()
    assert 0 < expected.sum() < by_knn.rows == 60


def test_slopes_begin_at_1e4():
    sizes = [1000, 10_000, 100_000, 1_000_000]
    assert metric_growth.slope(sizes, [9, 1, 10, 100]) == pytest.approx(1)
    lines = metric_growth.table(sizes, {"LSH": [2e-6] * 4, "old: LSH": [1e-6, 1e-6, 2e-6, 3e-6]})
    assert "| LSH | 2.00 | 2.00 | 2.00 | 2.00 | 0.00 | 1.00× (at most 1.5×) |" in lines
    assert "| old: LSH | 1.00 | 1.00 | 2.00 | 3.00 | 0.24 | 3.00× |" in lines


def test_errors_are_compared_with_the_spread_of_draws():
    r, g = features(900, 180)
    table = errors.compare(r, {None: g, 4: 0.9 * g}, 300, 60)
    assert [line[:2] for line in table[:2]] == [["KNN", "precision"], ["KNN", "recall"]]
    drawn = [(r[i * 300 :][:300], g[i * 60 :][:60]) for i in range(3)]
    scores = [metrics.knn_precision_recall(*sets) for sets in drawn]
    spread = np.std([x.recall for x in scores], ddof=1)
    stated = np.mean([x.recall_stderr**2 for x in scores]) ** 0.5
    assert float(table[1][2]) == pytest.approx(stated / spread, abs=0.006)
    assert all(float(x) > 0 for line in table for x in line[2:])


def test_few_wide_balls_carry_recall_by_knn_alone():
    rng = np.random.default_rng(0)
    modes = rng.normal(size=(300, 16)) + np.repeat([[0], [20]], 150, axis=0)
    generated = rng.normal(size=(300, 16))
    generated[:8] = 20 + 30 * rng.normal(size=(8, 16))  # around the mode that is not covered
    config = smoke.get_config()
    lines = study_outliers.compare(config, modes.astype("f"), {4: generated.astype("f")})
    knn, lsh_knn, lsh = lines
    assert (knn["metric"], knn["name"]) == ("knn", 4)
    assert knn["outliers"] == 8 / 300
    assert knn["recall_change"] < -0.3
    assert knn["recall_change"] < -6 * knn["recall_stderr"]
    assert abs(lsh_knn["recall_change"]) < 0.1
    assert abs(lsh["recall_change"]) < 0.1


def test_modes_are_counted_by_channel_and_compared_with_the_data():
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    params = jax.jit(modes.Reader().init)(jax.random.key(0), images[..., :1])
    found, sure = modes.describe(params, [images[:4], images[4:]])
    digits = [np.asarray(modes.read(params, images[..., c, None])[0]) for c in range(3)]
    expected = np.bincount(np.array([100, 10, 1]) @ digits, minlength=1_000)
    np.testing.assert_array_equal(found, expected)
    assert 0 <= sure <= 1
    assert modes.divergence(np.array([4, 0]), np.array([2, 2])) == pytest.approx(np.log(2))


def test_the_package_of_another_checkout_is_measured(tmp_path):
    """Another checkout is one folder; its functions say what they find."""
    package = tmp_path / "lsh_gan"
    (package / "metrics").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "errors.py").write_text("choose = None\n")
    (package / "metrics" / "__init__.py").write_text(
        "HashSpec = PrecisionRecall = None\n"
        "def knn_precision_recall(r, g):\n    assert len(r) == len(g) == 300\n"
    )
    for name in ("distances", "knn"):
        (package / "metrics" / f"{name}.py").touch()
    setting = benchmark.Setting(300, 16, 1, {}, tmp_path)
    in_mib, beyond = setting.child(tmp_path, "memory", "KNN")
    assert in_mib == 2 * 300 * 16 * 4 / 2**20
    assert 0 <= beyond < 10


def test_peers_and_the_rate_stand_beside_ours(tmp_path, monkeypatch, hasty):
    monkeypatch.setattr(benchmark, "SIDES", (64, 128))
    monkeypatch.setattr(metric_peers, "installed", lambda r, g: {"prdc": lambda: len(r)})
    monkeypatch.setattr(
        benchmark.Setting,
        "child",
        lambda self, root, part, name="": benchmark.CHILDREN[part](name, *self[:3]),
    )
    packages = {"": benchmark.ROOT, "old: ": benchmark.ROOT}
    setting = benchmark.Setting(300, 16, 1, packages, tmp_path)
    lines = benchmark.measure_peers(setting).rstrip().split("\n")
    names = [f"{name}, {kind}" for name in ("KNN", "LSH default") for kind in KINDS]
    names = ["prdc", *names, *(f"old: {name}" for name in names)]
    assert [line.split(" | ")[0][2:] for line in lines[2:11]] == names
    assert "KNN needs half of R·R, half of G·G and R·G: 0.00576 GFLOP" in lines[-1]
    assert "old: KNN, device arrays: " in lines[-1]
    lines = benchmark.measure_lsh_knn(setting).split("\n")
    assert lines[0] == "|  | first call, s | s | × KNN | × old: KNN |"


def test_best_counts_rounds_after_the_first_call(hasty):
    calls = []
    assert min(measuring.best(lambda: calls.append(0), 3)) >= 0
    assert len(calls) == 4


def test_best_goes_on_until_the_time_is_spent(monkeypatch):
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0.01)
    calls = []
    measuring.best(lambda: calls.append(0), 1)
    assert len(calls) > 2


def test_calls_alternate(monkeypatch):
    calls = []
    ticks = iter([0, 5, 10, 13, 20, 24, 30, 39])
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(ticks))
    assert measuring.best_in_turn(runs, 2) == {"a": 4, "b": 3}
    assert calls == ["a", "b", "a", "b"]


def test_more_features_begin_with_fewer():
    x = measuring.draw(1500, 70, 1)
    assert x.shape == (1500, 70)
    assert x.dtype == np.float32
    assert x.min() == 0
    np.testing.assert_array_equal(x[:1024], measuring.draw(1024, 70, 1))
    wide = measuring.draw(1500, 70, 1, np.float64)
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(x, wide)
    assert (x != measuring.draw(1500, 70, 2)).any()


def test_a_gpu_is_measured(hasty):
    r, g = gpu.draw(300, 16, 1), gpu.draw(300, 16, 2)
    assert (r.shape, r.dtype, r.min()) == ((300, 16), np.float32, 0)
    exact, hashed, local = gpu.measure_metrics(r, g, 1)
    assert (exact.name, hashed.name, local.name) == ("KNN", "LSH", "LSH+KNN")
    assert exact.flops == 2 * 16 * (2 * 300**2)
    text = gpu.report(300, 16, 1)
    for name in (
        "hash 300 rows",
        "look up 300 rows",
        "nearest others of 300",
        "KNN",
        "LSH",
        "LSH+KNN",
    ):
        assert f"\n| {name}" in text
    assert "Memberships moved at n = m = 300: 0.0e+00 (at most 1e-4)." in text


def test_torch_finds_what_knn_finds():
    pytest.importorskip("torch")
    r, g = features(300, 20)
    name, run = metric_peers.cdist(r, g, rows=100)
    scores = metrics.knn_precision_recall(r, g, ceiling=False)
    assert name.startswith("cdist + kthvalue, torch ")
    assert run() == pytest.approx((scores.precision, scores.recall), rel=1e-6)


@pytest.mark.parametrize("name", sorted(p.stem for p in BENCHMARKS if "__main__" in p.read_text()))
def test_every_benchmark_says_what_it_does(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"benchmarks.{name}").main()
    assert "--" in capsys.readouterr().out
