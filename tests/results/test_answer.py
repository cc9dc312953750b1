"""The answer of a sweep, and the paired comparison that it rests on."""

import math

import numpy as np
import pandas as pd
import pytest

from lsh_gan.results.answer import answers, mark, mean_and_error, retention


def row(seed=0, name="a", precision=0.5, recall=0.5):
    return {"row_hash": name, "seed": seed, "knn_precision": precision, "knn_recall": recall}


def drawn(rng, n, kept=0.8, full=0.6):
    """Hits at full precision, and of a setting that loses some of them and gains others."""
    before = rng.random(n) < full
    after = np.where(before, rng.random(n) < kept, rng.random(n) < 0.1)
    return after, before


def kept_of(after, before, score="precision"):
    """Retention of several seeds, `[seeds, n]` hits."""
    group, full = (
        [row(i, **{score: x.mean()}) | {"hits": {f"knn_{score}_hits": x}} for i, x in enumerate(of)]
        for of in (after, before)
    )
    return retention(group, full, "knn", score)


def test_the_standard_error_is_the_spread_over_draws():
    rng = np.random.default_rng(0)
    pairs = [drawn(rng, 400) for _ in range(2_000)]
    found = np.array([kept_of([after], [before]) for after, before in pairs])
    shares, errors = found.T
    assert errors.mean() == pytest.approx(shares.std(), rel=0.05)
    unpaired = np.sqrt(sum(np.var([x.mean() for x in side]) for side in zip(*pairs, strict=True)))
    assert errors.mean() * 0.6 < 0.8 * unpaired  # of the difference; mean(b) = .6


def test_a_share_of_none_has_an_error():
    """None of 200 after 3 of 200: as if one of them were left."""
    assert kept_of([np.zeros(200)], [np.arange(200) < 3]) == pytest.approx((0, 1 / 3))


def test_seeds_share_the_reference_but_not_the_samples():
    """A reference sample that both seeds assess alike counts once, two generated ones twice."""
    after, before = drawn(np.random.default_rng(0), 1_000)
    one = kept_of([after], [before])
    precision = kept_of([after] * 2, [before] * 2)
    recall = kept_of([after] * 2, [before] * 2, "recall")
    assert precision.stderr == pytest.approx(one.stderr / 2**0.5, rel=1e-3)
    assert recall == pytest.approx(one)


def test_errors_of_means_over_seeds_cover_what_seeds_share():
    group = [row(i, precision=0.8, recall=0.8) for i in range(4)]  # alike by chance
    group = [x | {f"knn_{score}_stderr": 0.02 for score in ("precision", "recall")} for x in group]
    assert mean_and_error(group, "knn_recall") == pytest.approx((0.8, 0.01))
    assessed = np.arange(400) % 5 > 0  # 80 %: 2 % of error
    hits = {f"knn_{score}_hits": assessed for score in ("precision", "recall")}
    group = [x | {"hits": hits} for x in group]
    assert mean_and_error(group, "knn_recall") == pytest.approx((0.8, 0.02), rel=2e-3)
    assert mean_and_error(group, "knn_precision") == pytest.approx((0.8, 0.01), rel=2e-3)


def test_the_reference_that_seeds_share_does_not_average_out_of_precision_by_hashes():
    """As many reference rows as samples: several seeds have the samples' error of one."""
    hits = {"lsh_precision_hits": np.arange(400) % 5 > 0}  # 80 %: 2 % of error
    row = {"n": 400, "lsh_num_tables": 32, "lsh_precision": 0.8, "hits": hits}
    group = [{"seed": i, **row} for i in range(4)]
    assert mean_and_error(group, "lsh_precision") == pytest.approx((0.8, 0.02), rel=2e-3)
    full = [row | {"lsh_precision": 1.0, "hits": {"lsh_precision_hits": np.ones(400)}}
            for row in group]  # fmt: skip
    assert retention(group, full, "lsh", "precision") == pytest.approx((0.8, 0.02), rel=2e-3)
    few = [group[0] | {"n": 100}], full[:1]  # so do more samples of one seed
    assert retention(*few, "lsh", "precision") == pytest.approx((0.8, 0.04), rel=2e-3)


def test_the_reference_that_seeds_share_does_not_average_out_of_distances():
    """The part of the error that is the samples' does: half of its square, or all of it."""
    one = {"kid_distance": 0.5, "kid_distance_stderr": 0.01, "m": 100}
    for n, squared in ((100, 1 / 2 + 1 / 8), (10**9, 1 / 4)):
        group = [one | {"n": n}] * 4
        expected = pytest.approx((0.5, 0.01 * squared**0.5))
        assert mean_and_error(group, "kid_distance") == expected


def test_rows_share_the_hash_and_its_error():
    """What tables add to both scores alike is no error of a share; what differs is."""
    rng = np.random.default_rng(0)
    after, before = drawn(rng, 1_000)
    u, v = rng.normal(size=(2, 2, 8)) / 50  # of two seeds, and groups of tables

    def error(u, v):
        fields = ("knn_precision_hits", "knn_precision_deviations")
        group, full = (
            [row(i, precision=x.mean()) | {"hits": dict(zip(fields, (x, of_hash[i]), strict=True))}
             for i in range(2)]
            for x, of_hash in ((after, u), (before, v))
        )  # fmt: skip
        return retention(group, full, "knn", "precision")

    without = kept_of([after] * 2, [before] * 2)
    share = without.share
    assert error(share * v, v).stderr == pytest.approx(without.stderr)
    of_hash = np.linalg.norm((u - share * v).mean(axis=0)) / before.mean()
    assert error(u, v) == pytest.approx((share, np.hypot(without.stderr, of_hash)))


def test_what_cannot_be_compared_is_nan():
    group = [row(name="a", precision=0.4)]
    assert all(map(math.isnan, retention(group, [row(precision=0.0)], "knn", "precision")))
    share, stderr = retention(group, [row(name="b")], "knn", "precision")
    assert share == pytest.approx(0.8)
    assert math.isnan(stderr)  # no hits


def line(bits, precision, recall, *, metric="knn", size=None, stderr=0.01, setting="mse", **fields):
    """A line of `report.summarise`; scores are shares of full precision, .7 and .5."""
    return {
        "generator": "known", "bits": str(bits), "setting": setting if bits != "full" else "",
        "bytes": size or 1_000 * (32 if bits == "full" else bits), "file": f"packed/{bits}.packed",
        "ratio": 32.0 if bits == "full" else 32 / bits,
        f"{metric}_precision": 0.7 * precision, f"{metric}_precision_ceiling": 0.8,
        f"{metric}_precision_stderr": 0.01, f"{metric}_precision_kept": precision,
        f"{metric}_precision_kept_stderr": stderr, f"{metric}_recall": 0.5 * recall,
        f"{metric}_recall_stderr": 0.01, f"{metric}_recall_ceiling": 0.8,
        f"{metric}_recall_kept": recall, f"{metric}_recall_kept_stderr": stderr, **fields,
    }  # fmt: skip


SWEEP = [line("full", 1, 1), line(8, 1, 0.99), line(4, 0.97, 0.945), line(3, 0.91, 0.64)]


def test_the_answer_is_the_smallest_width_within_the_error_and_what_is_lost_next():
    (text,) = answers(pd.DataFrame(SWEEP), ["knn"], 0.95)
    assert text == (
        "known: 4 bits keeps 95% of precision and recall within the error by KNN (recall −6 ± 1 %, "
        "precision −3 ± 1 %): packed/4.packed, 4,000 bytes, 8.0× smaller. 3 bits: 10.7× smaller, "
        "recall −36 ± 1 %, precision −9 ± 1 %: diversity is lost."
    )


def test_the_next_width_is_lost_under_the_best_of_its_settings():
    other = [line(4, 0.9, 0.9, setting="no"), line(3, 0.9, 0.8, setting="no")]
    (text,) = answers(pd.DataFrame([*SWEEP, *other]), ["knn"], 0.95)
    assert " 3 bits (no): 10.7× smaller, recall −20 ± 1 %, precision −10 ± 1 %: " in text
    close = pd.DataFrame([SWEEP[0], line(4, 0.9926, 1, stderr=0.003)])
    assert "(precision −0.7 ± 0.3 %, recall +0.0 ± 0.3 %)" in answers(close, ["knn"], 0.95)[0]


@pytest.mark.parametrize(
    ("precision", "recall", "stderr", "lost"),
    [
        (0.6, 0.9, 0.01, "quality is lost"),
        (0.02, 0.1, 0.01, "quality and diversity are lost"),
        (0.6, 0.61, 0.01, "quality and diversity are lost"),
        (0.96, 0.77, 0.1, "diversity is lost, too few samples to say if quality is"),
    ],
)
def test_the_answer_says_what_is_lost(precision, recall, stderr, lost):
    narrow = line(3, precision, recall, stderr=stderr)
    (text,) = answers(pd.DataFrame([*SWEEP[:2], narrow]), ["knn"], 0.95)
    assert "8 bits keeps 95% of precision and recall by KNN (" in text
    assert text.endswith(f" %: {lost}.")


def test_an_error_larger_than_what_may_be_lost_is_of_too_few_samples():
    (text,) = answers(pd.DataFrame([*SWEEP[:2], line(3, 0.98, 0.8, stderr=0.2)]), ["knn"], 0.95)
    assert "3 bits keeps 95% of precision and recall within the error of too few samples" in text


def test_metrics_that_disagree_are_named():
    other = [
        {k: v for k, v in line(bits, share, share, metric="lsh").items() if k.startswith("lsh")}
        for bits, share in (("full", 1), (8, 1), (4, 0.8), (3, 0.7))
    ]
    lines = pd.DataFrame([a | b for a, b in zip(SWEEP, other, strict=True)])
    assert answers(lines, ["lsh", "knn"], 0.95)[0].endswith(" LSH says 8 bits.")
    assert (
        "known: 8 bits keeps 95% of precision and recall by LSH" in answers(lines, ["lsh"], 0.95)[0]
    )
    assert answers(lines, ["lsh", "knn"], 0.6)[0].endswith("that was measured. LSH agrees.")
    (text,) = answers(lines.assign(lsh_recall_kept=math.nan), ["lsh", "knn"], 0.95)
    assert text.endswith(" LSH says nothing (0 at full precision).")


def test_answers_where_there_is_none():
    none = pd.DataFrame([line("full", 1, 1), line(2, 0.3, 0.1)])
    (text,) = answers(none, ["knn"], 0.995)
    assert text.startswith("known: no width keeps 99.5% of precision and recall by KNN; 2 bits: ")
    noisy = pd.DataFrame([SWEEP[0], line(2, 0.85, 0.86, stderr=0.09)])
    assert answers(noisy, ["knn"], 0.95)[0].endswith(": too few samples to say which is lost.")
    assert answers(pd.DataFrame(SWEEP[:1]), ["knn"], 0.95) == []  # nothing was compressed
    (text,) = answers(pd.DataFrame([line(4, math.nan, math.nan)]), ["knn"], 0.95)
    assert "no row at full precision" in text
    nothing = line("full", math.nan, math.nan) | {"knn_recall": 0.0}
    (text,) = answers(pd.DataFrame([nothing, line(4, 0.9, math.nan)]), ["knn"], 0.95)
    assert text == "known: recall by KNN is 0 at full precision: no share of it can be kept."


def test_given_samples_get_their_scores():
    given = pd.DataFrame([line("full", 1, 1, samples="a hash")])
    (text,) = answers(given, ["lsh", "knn"], 0.95)
    assert text == "known: precision / recall by KNN 0.700 / 0.500, ceiling 0.800 / 0.800."


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (line(4, 0.99, 1.015), "≈≈"),
        (line(4, 0.99, 0.97), "≈"),
        (line(2, 1.3, 0.05), "!"),  # .91, ceiling .8
        (line(2, 1.3, 0, knn_recall_stderr=None, knn_precision_stderr=None), "!"),  # errors of 0
        (line(2, 1.1, 0.05), ""),  # .77: bad, and says so
        (line(2, 1.1, 0.05, knn_crowding=0.6), "!"),
        (line(2, 0.99, 0.05, knn_crowding=0.6), "!"),  # rather than ≈
        (line(2, 1.3, 0.79), ""),  # recall .395, not for sure below half of its ceiling
        (line(2, 1.3, 0.99), "≈"),  # of recall
        (line(2, 1.3, 0.9), ""),  # recall .45, above half of its ceiling
        (line("full", 1, 1), ""),
        (line("full", 1.3, 0.05), "!"),
        (line(2, 1.3, 0.05, knn_recall_kept=math.nan), "!"),  # none at full precision
        (line(2, 1.3, 0.05, knn_precision_ceiling=None), ""),
    ],
)
def test_marks(fields, expected):
    assert mark(fields, "knn", "precision") + mark(fields, "knn", "recall") == expected
