"""The suites and sweeps that judge metrics judge as described, at sizes that take no time."""

import jax
import numpy as np
import pytest

from benchmarks import image_damage, suite_checks, suite_metrics, suites
from benchmarks.suite_metrics import METRICS, Scores

KEY = jax.random.key(0)


def test_published_tables_are_whole():
    # Of six metrics, as the source counts them; single criteria likewise.
    counts = {"fidelity": [11, 18, 11, 10, 10, 13], "diversity": [9, 13, 9, 13, 9, 10]}
    assert set(suite_checks.PUBLISHED) == set(suite_checks.SANITY)
    for i, side in enumerate(suite_checks.SIDES):
        parts = [part[i] for pair in suite_checks.PUBLISHED.values() for part in pair]
        assert [sum(part[j] != "f" for part in parts) for j in range(6)] == counts[side]
    single = {side: 0 for side in suite_checks.SIDES}
    for check in suite_checks.SANITY.values():
        for side in single:
            single[side] += sum(
                suite_checks.criterion_of(entry, line, side) is not None
                for line in check.lines
                for entry in (*check.bounds.values(), *check.purpose.values())
            )
    assert single == {"fidelity": 119, "diversity": 113}


def test_criteria():
    away = np.abs(np.linspace(-1, 1, 51))
    passes = {
        suite_checks.bell(25): (1 - away, away),
        suite_checks.falls(): (np.linspace(1, 0, 9), np.linspace(0, 1, 9)),
        suite_checks.falls(drop_at=3): (np.linspace(1, 0, 9), np.array([1, 1, 1, 0.95, 0])),
        suite_checks.rises: (np.linspace(0, 1, 9), np.ones(9)),
        suite_checks.flat: (np.array([0.3, 0.34]), np.array([0.3, 0.36])),
        suite_checks.settles: (np.array([1, 0, 0, 0]), np.array([0, 0, 0, 1])),
        suite_checks.near(-1, 0.2): (np.array([0, 0.25]), np.array([0.2, 0.26])),
    }
    for criterion, (good, bad) in passes.items():
        assert criterion(good).passed
        assert criterion(bad).passed is False
    assert suite_checks.low_or_high(0)(np.array([0.97])).passed == "high"
    assert [suites.letter((True, "low", "high")[:i]) for i in (1, 2, 3)] == ["T", "L", "f"]


def perfect(key, reference, generated):
    """Knows the mean of what it judges: identical sets get 1, others 0."""
    same = float(np.abs(generated.mean() - reference.mean()) < 0.3)
    return Scores(same, same, 0.5, 0.5)


def blind(key, reference, generated):
    """Sees no difference, and counts balls."""
    return Scores(1.0, 1.0, 0.9, 0.9, 1.1, 0.9)


def test_a_suite_is_measured_once_and_reported(tmp_path, monkeypatch, capsys):
    known = {"perfect": perfect, "KNN": blind}
    command = [
        "suites", "--repeats=2", "--rows=200", "--linear_rows=40",
        "--checks=mean difference,modes kept", f"--out={tmp_path}/out", f"--workdir={tmp_path}",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    suites.main(known)
    text = (tmp_path / "out.md").read_text()
    assert "| perfect over ceiling | **2** of 2 | 12 of 12 | **2** of 2 | 12 of 12 | 2 |" in text
    assert "| KNN | fidelity |" not in text.split("Against the published")[0]
    assert "| density/coverage |" in text
    assert "modes kept: diversity" in text
    kept = (tmp_path / "fresh.jsonl").read_text()
    assert kept.count("\n") == 2 * 2 * 4
    capsys.readouterr()
    suites.main(known)
    assert "1 of" not in capsys.readouterr().out.split("# Two published suites")[0]
    assert (tmp_path / "fresh.jsonl").read_text() == kept


@pytest.mark.parametrize("name", ["symmetric", "P-precision/P-recall", "clipped"])
def test_peers(name):
    rng = np.random.default_rng(0)
    reference, same, far = rng.normal(size=(3, 400, 4)) + np.array([0, 0, 50])[:, None, None]
    half = np.concatenate([same[:200], far[:200]])
    alike, mixed, apart = (METRICS[name](KEY, reference, g) for g in (same, half, far))
    assert min(alike.precision, alike.recall) > 0.7
    assert mixed.precision == pytest.approx(alike.precision / 2, abs=0.05)
    assert (apart.precision, apart.recall) == (0, 0)
    if name == "clipped":
        assert mixed.recall == pytest.approx(0.5, abs=0.05)


def test_columns():
    scores = Scores(0.4, 0.2, 0.8, 0.0, 1.1, 0.9)
    found = suite_metrics.columns("X", scores)
    assert found == {"X": (0.4, 0.2), "X over ceiling": (0.5, 0), "density/coverage": (1.1, 0.9)}


def test_damage_grows_with_the_step():
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 1), np.uint8)
    images[:, :8] = 200
    for name, kind in image_damage.DAMAGES.items():
        damaged = [image_damage.damage(images, name, level) for level in kind.levels]
        moved = [np.abs(x.astype(int) - images).mean() for x in damaged]
        assert all(x.dtype == np.uint8 and x.shape == images.shape for x in damaged), name
        assert moved[0] > 0, name
        if name != "shift":  # of noise, any shift is as far
            assert np.diff(moved).min() > 0, name


def test_image_damage_is_reported(tmp_path):
    rng = np.random.default_rng(0)
    reference, base = rng.normal(size=(2, 60, 5)).astype(np.float32)
    images = np.zeros((1, 8, 8, 1), np.uint8)
    makers = image_damage._images("none", images)
    made = {name: base + 0.1 * i for i, name in enumerate(makers)}
    sets = image_damage.Sets(images, reference, base, base, np.arange(60) % 10, made)
    steps = list(image_damage.calibration_cases(sets))
    judged = {"undamaged": base, **made, **{f"{c} {share:g}": g for c, share, g in steps}}
    setting = {"data": "none", "seeds": "fresh"}
    known, file = {"KNN": METRICS["KNN"]}, tmp_path / "scores.jsonl"
    found = image_damage.score(judged, reference, known, file, setting, 1)
    assert image_damage.score(judged, reference, {"KNN": None}, file, setting, 1) == found
    truth = image_damage.truth_of(sets)
    named = [(case, share) for case, share, _ in steps]
    text = image_damage.report("none", found, truth, named)
    assert text.count("\n| blur") == 5 + 1
    assert "| classes kept: recall |" in text
    image_damage.plot("none", found, truth, tmp_path / "out.png")
    image_damage.show(sets, "none", found, tmp_path / "images.png")
    assert all(file.stat().st_size > 10_000 for file in tmp_path.glob("*.png"))
