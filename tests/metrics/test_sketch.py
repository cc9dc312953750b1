"""Sketches: counts, streams, merging, files, and scores from counts alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from draws import draw

from lsh_gan.metrics import (
    HashSpec,
    LshReference,
    Share,
    build,
    file_hash,
    fit_hash,
    hashing,
    load,
    lsh_fit,
    lsh_score,
    lsh_score_streams,
    merge,
    save,
)

KEY = jax.random.key(0)
SPEC = HashSpec(num_tables=6, num_bits=2, radius_bins=3)
N, M, D = 120, 90, 4


@pytest.fixture(scope="module")
def hasher():
    return fit_hash(KEY, draw(N, D), SPEC, source="network 1")


def check_equal(a, b):
    np.testing.assert_array_equal(a.counts, b.counts)
    assert (a.normal is None) == (a.places is None)
    jax.tree.map(np.testing.assert_array_equal, (a.places, a.normal), (b.places, b.normal))
    assert a.rows == b.rows


def test_counts_are_those_of_the_addresses(hasher):
    sketch = build(hasher, draw(N, D))
    assert sketch.counts.shape == (6, 2**hasher.address_bits)
    for counts, at in zip(sketch.counts, sketch.places.addresses, strict=True):
        np.testing.assert_array_equal(counts, np.bincount(at, minlength=len(counts)))


@pytest.mark.parametrize("keep", [True, False])
def test_parts_are_the_whole(hasher, keep):
    x = draw(N, D, 1)
    whole = build(hasher, x, keep_addresses=keep)
    assert (whole.places is not None) == keep
    check_equal(build(hasher, (x[i : i + 7] for i in range(0, N, 7)), keep_addresses=keep), whole)
    parts = [build(hasher, part, keep_addresses=keep) for part in (x[:50], x[50:51], x[51:])]
    check_equal(merge(*parts), whole)


def test_merging_with_counts_alone_leaves_counts(hasher):
    x = draw(N, D)
    mixed = merge(build(hasher, x[:50]), build(hasher, x[50:], keep_addresses=False))
    check_equal(mixed, build(hasher, x, keep_addresses=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": jax.random.key(1)}, "directions differs"),
        ({"source": "network 2"}, r"source differs \('network 1' and 'network 2'\)"),
        ({"sample": 2 * draw(N, D) + 1}, "origin differs"),
        ({"spec": dataclasses.replace(SPEC, num_bits=3)}, "spec differs"),
        ({"rows": 10**6}, "address_bits differs"),
    ],
)
def test_other_hashers_do_not_merge(hasher, options, message):
    options = {"key": KEY, "sample": draw(N, D), "spec": SPEC, "source": "network 1"} | options
    other = fit_hash(**options)
    with pytest.raises(ValueError, match=f"come from different hashers: {message}"):
        merge(build(hasher, draw(N, D)), build(other, draw(N, D)))


def test_counts_alone_give_precision_alone(hasher):
    r, g = draw(N, D), draw(M, D, 1)
    whole, counts = (build(hasher, r, keep_addresses=keep) for keep in (True, False))
    expected = lsh_score(LshReference(whole, min_level=None), g)
    found = lsh_score(LshReference(counts, min_level=None), g, recall=False)
    assert found.precision == expected.precision
    assert found.recall is found.recall_ceiling is found.precision_ceiling is None
    assert "recall" not in repr(found)
    with pytest.raises(ValueError, match="holds counts alone, and recall needs the addresses"):
        lsh_score(LshReference(counts), g)
    with pytest.raises(ValueError, match="holds counts alone, and min_level needs the addresses"):
        lsh_score(LshReference(counts), g, recall=False)


@pytest.mark.parametrize("second", [None, draw(N, D, 2)])
def test_a_reference_read_back_scores_the_same(tmp_path, second):
    fitted = lsh_fit(KEY, draw(N, D), spec=SPEC, min_count=2, votes=None, second_reference=second)
    save(tmp_path / "r.safetensors", fitted)
    found = load(tmp_path / "r.safetensors")
    assert isinstance(found, LshReference)
    assert lsh_score(found, draw(M, D, 1)) == lsh_score(fitted, draw(M, D, 1))


def test_a_sketch_is_a_reference_with_default_options(hasher):
    sketch = build(hasher, draw(N, D))
    assert lsh_score(sketch, draw(M, D, 1)) == lsh_score(LshReference(sketch), draw(M, D, 1))


@pytest.mark.parametrize("keep", [True, False])
def test_a_sketch_read_back_is_the_same(tmp_path, hasher, keep):
    sketch = build(hasher, draw(N, D), keep_addresses=keep)
    save(tmp_path / "s.safetensors", sketch)
    found = load(tmp_path / "s.safetensors", source="network 1")
    check_equal(found, sketch)
    check_equal(merge(found, sketch), merge(sketch, sketch))  # the hashers are the same
    save(tmp_path / "again.safetensors", found)
    assert file_hash(tmp_path / "s.safetensors") == file_hash(tmp_path / "again.safetensors")


def test_others_can_read_the_file(tmp_path, hasher):
    from safetensors.numpy import load_file

    sketch = build(hasher, draw(N, D))
    save(tmp_path / "s.safetensors", sketch)
    tensors = load_file(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(tensors["addresses"], sketch.places.addresses)
    np.testing.assert_array_equal(tensors["directions"], hasher.directions)
    (tmp_path / "plain").touch()
    assert (tmp_path / "s.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_files_that_are_refused(tmp_path, hasher):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "s.safetensors"
    save(path, build(hasher, draw(N, D)))
    with pytest.raises(ValueError, match="made of 'network 1'; expected 'network 2'"):
        load(path, source="network 2")
    with pytest.raises(FileNotFoundError, match=r"no.safetensors: no such file"):
        load(tmp_path / "no.safetensors")
    tensors, data = load_file(path), path.read_bytes()
    for broken in (data[:-100], data[:50], b"", b"hello" * 100):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"s.safetensors: no sketch, or a damaged one"):
            load(path)
    save_file(tensors, path, metadata={"lsh_gan": json.dumps({"version": 8})})
    with pytest.raises(ValueError, match=r"s.safetensors: layout 8; expected 9: make it again"):
        load(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"s.safetensors: layout none; expected 9"):
        load(path)


def test_tables_that_do_not_fit_are_refused_before_the_hash_is_fitted(monkeypatch):
    monkeypatch.setattr(hashing, "fit", None)
    with pytest.raises(ValueError, match=r"num_tables = 6: .*2\^34.* take 412316860416 b"):
        fit_hash(KEY, draw(N, D), SPEC, rows=10**9)


def test_streams_score_as_sets_do():
    r, g = draw(4 * N, D), 1.2 * draw(N + M, D, 1)
    hasher = fit_hash(KEY, r, SPEC)
    fitted = LshReference(build(hasher, r))
    streams = (lambda x=x: np.split(x, range(N, len(x), N)) for x in (r, g))
    whole, parts = lsh_score(fitted, g), lsh_score_streams(hasher, *streams)
    stderrs, facts = ("precision_stderr", "recall_stderr"), ("crowding", "load", "n", "m")
    for field in ("precision", "recall", *stderrs, *facts):
        assert getattr(parts, field) == pytest.approx(getattr(whole, field), rel=1e-12), field
    assert parts.precision_ceiling == whole.precision_ceiling
    assert repr(lsh_score_streams(hasher, lambda: r, lambda: g)) == repr(parts)
    bad = np.where(np.arange(N + M)[:, None] == 61, np.nan, g)
    with pytest.raises(ValueError, match="generated has NaN or Inf in row 61"):
        lsh_score_streams(hasher, lambda: r, lambda: [bad[:40], bad[40:]])


def test_shares_are_checked():
    r, bad = draw(N, D), draw(M, D, 1)
    bad[61, 0] = np.nan
    share, options = Share([r], N, N), {"spec": SPEC, "sample": r}
    fitted = lsh_fit(KEY, share, **options)
    with pytest.raises(ValueError, match="generated has NaN or Inf in row 61"):
        lsh_score(fitted, Share([bad[:40], bad[:0], bad[40:]], M, M))
    with pytest.raises(ValueError, match="generated has 90 rows in this process; expected 120 of"):
        lsh_score(fitted, Share([r[:M]], N, N))
    with pytest.raises(ValueError, match="sample has NaN or Inf in row 61"):
        lsh_fit(KEY, share, spec=SPEC, sample=bad)
    with pytest.raises(ValueError, match="sample = None; a Share needs"):
        lsh_fit(KEY, share, spec=SPEC)
    with pytest.raises(ValueError, match="votes = 50; expected a share"):
        lsh_score(fitted._replace(votes=50), r)


def test_streams_have_the_ceiling_of_as_many_rows_as_are_generated():
    r, g = draw(4 * N, D), draw(N, D, 1)
    hasher = fit_hash(KEY, r, dataclasses.replace(SPEC, num_bits=3))
    whole = lsh_score(LshReference(build(hasher, r)), g)
    parts = lsh_score_streams(hasher, lambda: np.split(r, 4), lambda: [g])
    assert whole.recall_ceiling < whole.precision_ceiling - 0.1
    # Of N other rows of R: four standard errors of a share.
    assert parts.recall_ceiling == pytest.approx(
        whole.recall_ceiling, abs=4 * (0.25 / len(r)) ** 0.5
    )


def test_tables_of_a_given_size():
    small = fit_hash(KEY, draw(N, D), SPEC, rows=10**9, table_bytes=2**22)
    assert 4 * SPEC.num_tables * 2**small.address_bits <= 2**22
    assert build(small, draw(N, D)).counts.nbytes <= 2**22
