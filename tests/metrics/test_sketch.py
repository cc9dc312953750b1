"""Sketches: streams, merging, files, and what is refused."""

import logging
import re
import tokenize
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw

from lsh_gan import cache
from lsh_gan.metrics import (
    HashSpec,
    LshReference,
    build,
    file_hash,
    fit_hash,
    knn_fit,
    knn_score,
    load,
    lsh_fit,
    lsh_score,
    merge,
    save,
    storage,
)
from lsh_gan.metrics.hashing import cell_keys, encode

KEY = jax.random.key(0)
SPEC = HashSpec(family="affine", num_tables=4, num_bits=5, radius_bins=3)
SOURCE = "a network, preprocessing 1"


@pytest.fixture(scope="module")
def hasher():
    return fit_hash(KEY, draw(200, 6), SPEC, source=SOURCE)


def check_equal(a, b):
    """Bit for bit: values and types."""
    assert a.rows == b.rows
    parts = [(*s.hasher, s.counts, s.cells, *(s.directory or ())) for s in (a, b)]
    for x, y in zip(*parts, strict=True):
        assert type(x) is type(y) or isinstance(x, (np.ndarray, jax.Array))
        if isinstance(x, (np.ndarray, jax.Array)):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y


@pytest.mark.parametrize("family", ["affine", "hyperplane", "pstable"])
def test_counts_are_those_of_the_cells(family):
    r = draw(200, 6)
    spec = HashSpec(family=family, num_tables=4, num_bits=3, radius_bins=3)
    sketch = build(fit_hash(KEY, r, spec), r)
    assert sketch.rows == 200
    assert sketch.cells.shape == (4, 200)
    for counts, cells in zip(sketch.counts, sketch.cells, strict=True):
        np.testing.assert_array_equal(counts, np.bincount(cells, minlength=len(counts)))


@pytest.mark.parametrize("family", ["affine", "pstable"])
@pytest.mark.parametrize("keep_codes", [True, False])
def test_merged_halves_are_the_whole(family, keep_codes):
    x = draw(301, 6, 1)
    spec = HashSpec(family=family, num_tables=4, num_bits=5, radius_bins=3)
    hasher = fit_hash(KEY, draw(200, 6), spec)
    whole = build(hasher, x, keep_codes=keep_codes)
    a, b = (build(hasher, part, keep_codes=keep_codes) for part in (x[:120], x[120:]))
    check_equal(merge(a, b), whole)
    assert (whole.cells is not None) == keep_codes
    np.testing.assert_array_equal(merge(b, a).counts, whole.counts)


def test_rows_have_the_same_cells_in_a_batch_of_any_size():
    """Products of few rows may be rounded otherwise, and a row near a threshold would move."""
    x = np.random.default_rng(2).standard_normal((2000, 64)).astype(np.float32) + 1
    hasher = fit_hash(KEY, x, HashSpec(num_bits=10))
    whole = cell_keys(hasher, encode(hasher, x))
    for rows in (1, 7, 16, 250):
        starts = range(0, 2000 if rows > 7 else 60 * rows, rows)
        parts = [cell_keys(hasher, encode(hasher, x[i : i + rows])) for i in starts]
        found = np.concatenate(parts, axis=1)
        np.testing.assert_array_equal(found, whole[:, : found.shape[1]])


def test_parts_of_a_reference_belong_together(hasher, tmp_path):
    r, g = draw(120, 6), draw(50, 6, 1)
    sketch, other = build(hasher, r), build(fit_hash(jax.random.key(9), r, SPEC), r)
    counts = build(hasher, r, keep_codes=False)
    cases = [
        (LshReference(sketch, 1, 0.5, True, other), "come from different hashers"),
        (LshReference(sketch, 1, 0.5, True, counts), "second sample's sketch holds counts only"),
        (LshReference(sketch, 0, 0.5, True, None), "min_count = 0; expected at least 1"),
        (LshReference(sketch, 1, 3.0, True, None), "votes = 3.0; expected a share"),
    ]
    for reference, message in cases:
        with pytest.raises(ValueError, match=message):
            lsh_score(reference, g)
        with pytest.raises(ValueError, match=message):
            save(tmp_path / "reference", reference)
    with pytest.raises(TypeError, match="second is a ndarray; expected a Sketch"):
        lsh_score(LshReference(sketch, 1, 0.5, True, r), g)


def test_merging_with_counts_alone_leaves_counts(hasher):
    x = draw(100, 6)
    mixed = merge(build(hasher, x[:50]), build(hasher, x[50:], keep_codes=False))
    check_equal(mixed, build(hasher, x, keep_codes=False))


@pytest.mark.parametrize("size", [1, 7, 64, 100])
@pytest.mark.parametrize("d", [6, 300])
def test_streams_are_arrays(size, d):
    """Rows of the fit lie on thresholds: the smallest difference in rounding would show."""
    x = draw(100, d)
    hasher = fit_hash(KEY, x, HashSpec(family="affine", num_tables=8, num_bits=8))
    whole = build(hasher, x)
    check_equal(build(hasher, (x[i : i + size] for i in range(0, 100, size))), whole)
    check_equal(build(hasher, [jnp.asarray(x[:size]), x[size:]]), whole)


@pytest.mark.parametrize("family", ["affine", "hyperplane", "pstable"])
@pytest.mark.parametrize("num_bits", ["auto", 0, 5])
@pytest.mark.parametrize("keep_codes", [True, False])
def test_round_trip(tmp_path, family, num_bits, keep_codes):
    r = draw(150, 6)
    spec = HashSpec(family=family, num_tables=4, num_bits=num_bits, radius_bins=3)
    sketch = build(fit_hash(KEY, r, spec, source=SOURCE), r, keep_codes=keep_codes)
    path = tmp_path / "reference.sketch"
    save(path, sketch)
    read = load(path, source=SOURCE)
    check_equal(read, sketch)
    check_equal(load(str(path)), sketch)
    assert [p.name for p in tmp_path.iterdir()] == ["reference.sketch"]
    # What matters in the end: new rows count as before.
    check_equal(merge(read, build(read.hasher, r)), merge(sketch, build(sketch.hasher, r)))


def test_content_hash_is_of_the_content(tmp_path, hasher):
    x = draw(100, 6)
    first = save(tmp_path / "a", build(hasher, x))
    assert first == save(tmp_path / "b", build(hasher, x))
    x[3] += 5
    assert first != save(tmp_path / "c", build(hasher, x))
    other = hasher._replace(source="another network")
    assert first != save(tmp_path / "d", build(other, draw(100, 6)))


def test_a_sketch_scores_without_its_reference(tmp_path):
    r, g = draw(200, 6), draw(150, 6, 1)
    fitted = lsh_fit(KEY, r, spec=SPEC)
    expected = lsh_score(fitted, g, membership=True)
    save(tmp_path / "s", fitted.sketch)
    read = lsh_score(fitted._replace(sketch=load(tmp_path / "s")), g, membership=True)
    assert read[:6] == expected[:6]
    np.testing.assert_array_equal(read.recall_membership, expected.recall_membership)


@pytest.mark.parametrize("min_count", [1, 2])
def test_counts_alone_give_the_share_of_tables(hasher, min_count):
    r, g = draw(200, 6), draw(250, 6, 1)
    scores = [
        lsh_score(LshReference(build(hasher, r, keep_codes=keep), min_count, None, True, None), g)
        for keep in (True, False)
    ]
    # Sums of the same yeses in another order.
    assert scores[0][:2] == pytest.approx(scores[1][:2], rel=1e-12)
    assert scores[0].precision_ceiling == pytest.approx(scores[1].precision_ceiling, rel=1e-12)
    assert scores[0].recall_ceiling == pytest.approx(scores[1].recall_ceiling, rel=1e-12)


@pytest.mark.parametrize(("votes", "membership"), [(0.5, False), (None, True)])
def test_counts_alone_cannot_vote(hasher, votes, membership):
    sketch = build(hasher, draw(50, 6), keep_codes=False)
    with pytest.raises(ValueError, match=r"holds counts only; .* keep_codes=True"):
        lsh_score(LshReference(sketch, 1, votes, True, None), draw(50, 6), membership=membership)


def test_other_hashers_do_not_merge(hasher):
    r = draw(200, 6)
    sketch = build(hasher, r)
    for other, message in (
        (fit_hash(jax.random.key(1), r, SPEC, source=SOURCE), "directions differs"),
        (fit_hash(KEY, r, SPEC, source="other"), "source differs .*preprocessing 1' and 'other'"),
        (fit_hash(KEY, 2 * r + 1, SPEC, source=SOURCE), "shift differs"),
        (
            fit_hash(KEY, r, HashSpec(family="affine", num_tables=3, num_bits=5), source=SOURCE),
            "spec differs",
        ),
    ):
        with pytest.raises(ValueError, match=f"different hashers: {message}"):
            merge(sketch, build(other, r))
    check_equal(
        merge(sketch, build(fit_hash(KEY, r, SPEC, source=SOURCE), r)), merge(sketch, sketch)
    )


def test_unfitted_hasher(hasher):
    with pytest.raises(TypeError, match="hasher is a HashSpec; expected a Hasher, see fit_hash"):
        build(SPEC, draw(50, 6))
    with pytest.raises(ValueError, match="features has d = 5"):
        build(hasher, draw(50, 5))


def test_save_refuses_other_things(tmp_path):
    with pytest.raises(TypeError, match="Cannot save a ndarray; expected Sketch, LshRef"):
        save(tmp_path / "x", draw(5, 5))
    assert not list(tmp_path.iterdir())


def test_other_source_is_refused_whatever_the_name(tmp_path, hasher):
    path = tmp_path / "preprocessing 2"
    save(path, build(hasher, draw(50, 6)))
    with pytest.raises(ValueError, match=r"preprocessing 2: fitted on .*'a network, preproc") as e:
        load(path, source="a network, preprocessing 2")
    assert "not of 'a network, preprocessing 2'" in str(e.value)


def test_other_version_is_refused(tmp_path, hasher, monkeypatch):
    path = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "VERSION", storage.VERSION + 1)
        save(path, build(hasher, draw(50, 6)))
    with pytest.raises(ValueError, match=rf"s: version {storage.VERSION + 1}; this code reads"):
        load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.here: no such file"):
        load(tmp_path / "nothing.here")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive", b"\x93NUMPY\x01\x00"])
def test_files_of_another_kind(tmp_path, content):
    path = tmp_path / "odd.sketch"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.sketch: not a readable"):
        load(path)


def test_archives_and_arrays_of_others(tmp_path):
    np.savez(tmp_path / "odd.npz", features=draw(5, 5))
    np.save(tmp_path / "odd.npy", draw(5, 5))
    np.savez(tmp_path / "object.npz", header=np.array([{}], object))  # would need a pickle
    for name in ("odd.npz", "odd.npy", "object.npz"):
        with pytest.raises(ValueError, match=f"{name}: not a readable"):
            load(tmp_path / name)


@pytest.fixture(scope="module")
def file(hasher, tmp_path_factory):
    path = tmp_path_factory.mktemp("sketch") / "whole"
    save(path, build(hasher, draw(30, 6)))
    return path


def test_truncated_files(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "cut.sketch"
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.sketch: "):
            load(path)


def test_flipped_bytes(file, tmp_path):
    """Each damaged file is refused by name, or was damaged where it does not matter (a date)."""
    whole, path, sketch = file.read_bytes(), tmp_path / "flipped.sketch", load(file)
    refused = harmless = tried = 0
    for place in range(0, len(whole), 11):
        for bits in (0x01, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= bits
            path.write_bytes(damaged)
            try:
                read = load(path)
            except ValueError as error:
                refused += "flipped.sketch: " in str(error)
            else:
                check_equal(read, sketch)
                harmless += 1
            tried += 1
    assert refused > 100
    assert refused + harmless == tried


def test_flipped_bytes_of_array_headers(tmp_path):
    """Of members so large that their headers are read before their checksums are."""
    path, r = tmp_path / "large.knn", draw(1000, 8)
    save(path, knn_fit(r))
    whole, kinds = path.read_bytes(), set()
    places = [m.start() for m in re.finditer(rb"\x93NUMPY", whole)]
    assert len(places) == 5
    for place in (p + offset for p in places for offset in range(0, 128)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x20
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"large\.knn: ") as e:
            load(path)
        kinds.add(type(e.value.__cause__))
    assert tokenize.TokenError in kinds


def test_a_damaged_array_header_is_computed_again(tmp_path, caplog):
    path, r = tmp_path / "large.knn", draw(1000, 8)
    save(path, knn_fit(r))
    whole = path.read_bytes()
    closing = whole.index(b"(1000, 8)") + len("(1000, 8")
    path.write_bytes(whole[:closing] + b"\t" + whole[closing + 1 :])
    with caplog.at_level(logging.WARNING, "absl"):
        fitted = cache.kept(path, read=load, make=lambda: knn_fit(r), write=save)
    assert "large.knn: not a readable" in caplog.text
    assert "computed again" in caplog.text
    assert knn_score(load(path), r) == knn_score(fitted, r)


@pytest.mark.parametrize("shape", ["(99999999999999,)", "(1,", "(-5,)", "(2,'a')", "(1e9,)"])
def test_crafted_array_headers(tmp_path, shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(tmp_path / "x.sketch", "w") as archive:
        size = len(text).to_bytes(2, "little")
        archive.writestr("header.npy", b"\x93NUMPY\x01\x00" + size + text + b"abc")
    with pytest.raises(ValueError, match=r"x\.sketch: not a readable"):
        load(tmp_path / "x.sketch")


def without(parts, name):
    return {field: value for field, value in parts.items() if field != name}


def changed(name, change):
    return lambda arrays, header: ({**arrays, name: change(arrays[name])}, header)


def headed(**fields):
    return lambda arrays, header: (arrays, {**header, **fields})


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("sketch", lambda arrays, header: (arrays, without(header, "kind"))),
        ("sketch", headed(kind=["sketch"])),
        ("sketch", lambda arrays, header: (arrays, without(header, "spec"))),
        ("sketch", headed(spec={"tables": 3})),
        ("sketch", headed(rows=49)),
        ("sketch", headed(rows="many")),
        ("sketch", headed(scale=None)),
        ("sketch", lambda arrays, header: ({}, header)),
        ("sketch", lambda arrays, header: (without(arrays, "members"), header)),
        ("sketch", changed("occupied", lambda x: x + 10**9)),
        ("sketch", changed("occupied_counts", lambda x: -x)),
        ("sketch", changed("occupied_counts", lambda x: x[:-1])),
        ("sketch", changed("cells", lambda x: x[:, :-1])),
        ("sketch", changed("cells", lambda x: x.astype(np.int32) + 10**6)),
        ("sketch", changed("cells", lambda x: x.astype(np.int32) - 10**6)),
        ("sketch", changed("members", lambda x: x + 1000)),
        ("sketch", changed("digits", lambda x: x + 100)),
        ("sketch", changed("directions", lambda x: x[:, :-1])),
        ("listed", changed("keys", lambda x: x[:-1])),
        ("listed", changed("keys", np.zeros_like)),
        ("listed", changed("listed", lambda x: x[:-1])),
        ("listed", changed("listed", lambda x: x - 1)),
        ("lsh", changed("second_cells", lambda x: x.astype(np.int32) + 10**6)),
        ("lsh", headed(min_count=0)),
        ("lsh", headed(votes="half")),
        ("lsh", headed(ceiling="no")),
        ("knn", headed(size="large")),
        ("knn", headed(size=10**15)),
        ("knn", headed(k=100)),
        ("knn", headed(features="other")),
        ("knn", headed(ceiling=[1])),
        ("knn", changed("shift", lambda x: x[:-1])),
        ("knn", changed("nearest_rows", lambda x: x + 1000)),
        ("knn", changed("nearest_sq", lambda x: x[:-1])),
        ("knn", lambda arrays, header: (without(arrays, "nearest_sq"), header)),
    ],
)
def test_contents_that_do_not_fit_together(tmp_path, hasher, kind, edit):
    """Of files whose SHA-256 is right; KeyError, IndexError and the like would not name them."""
    r, path = draw(50, 6), tmp_path / "odd.file"
    fitted = {
        "sketch": lambda: build(hasher, r),
        "listed": lambda: build(fit_hash(KEY, r, HashSpec(num_bits=3, num_tables=3)), r),
        "lsh": lambda: lsh_fit(KEY, r, spec=SPEC, second_reference=r),
        "knn": lambda: knn_fit(r),
    }[kind]()
    save(path, fitted)
    load(path)
    arrays, header = storage.read(path)
    storage.write(path, *edit(arrays, without(header, "sha256")))
    with pytest.raises(ValueError, match=r"odd\.file: "):
        load(path)


def test_edited_contents(file, tmp_path):
    """A well-formed archive with another number in it."""
    path = tmp_path / "edited.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    arrays["occupied_counts"] = arrays["occupied_counts"] + 1
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="do not match their SHA-256; the file is damaged"):
        load(path)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(("votes", "keep"), [(0.5, True), (None, True), (None, False)])
def test_lsh_reference_round_trip(tmp_path, second, votes, keep):
    """Scores of the file are those of the reference, with their ceilings, for any m."""
    r = draw(120, 6)
    other = draw(120, 6, 2) if second else None
    fitted = lsh_fit(KEY, r, spec=SPEC, min_count=2, votes=votes, second_reference=other)
    if not keep:
        whole = fitted
        fitted = fitted._replace(sketch=fitted.sketch._replace(cells=None))
        pair = lsh_score(whole, other if second else r), lsh_score(fitted, other if second else r)
        # Sums of the same yeses in another order.
        assert pair[0].recall_ceiling == pytest.approx(pair[1].recall_ceiling, rel=1e-12)
    path = tmp_path / "reference.sketch"
    saved = save(path, fitted)
    read = load(path)
    assert isinstance(read, LshReference)
    assert (read.min_count, read.votes, read.ceiling) == (2, votes, True)
    assert saved == file_hash(path)
    for g in (draw(50, 6, 1), draw(200, 6, 1)):
        assert lsh_score(read, g)[:6] == lsh_score(fitted, g)[:6]


def test_hash_of_a_file_is_of_its_content(tmp_path, hasher):
    x = draw(100, 6)
    first = save(tmp_path / "a", build(hasher, x))
    assert first == file_hash(tmp_path / "a")
    save(tmp_path / "a", build(hasher, x[:-1]))
    assert first != file_hash(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="b: no such file"):
        file_hash(tmp_path / "b")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16])
def test_radii_without_their_features(tmp_path, dtype):
    r, g, path = draw(120, 6).astype(dtype), draw(90, 6, 1), tmp_path / "radii"
    fitted = knn_fit(r)
    save(path, fitted, source=SOURCE, keep_features=False)
    read = load(path, source=SOURCE, features=r)
    for a, b in zip(knn_score(fitted, g), knn_score(read, g), strict=True):
        np.testing.assert_array_equal(a, b)
    other = r.copy()
    other[70, 2] += 1
    with pytest.raises(ValueError, match=r"radii: .* made of other features \(SHA-256 differs\)"):
        load(path, features=other)
    with pytest.raises(ValueError, match="radii: holds radii only; give the features"):
        load(path)


@pytest.mark.parametrize("density_k", [5, 200])
def test_knn_reference_round_trip(tmp_path, density_k):
    r, g = draw(120, 6), draw(90, 6, 1)
    fitted = knn_fit(r, density_k=density_k)
    save(tmp_path / "knn", fitted, source=SOURCE)
    read = load(tmp_path / "knn", source=SOURCE)
    first, second = (knn_score(f, g, membership=True) for f in (fitted, read))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="knn: fitted on features of"):
        load(tmp_path / "knn", source="other")


@pytest.mark.parametrize("family", ["affine", "pstable"])
@pytest.mark.parametrize("second", [False, True])
def test_counts_alone_give_voted_precision(family, second):
    r, g = draw(200, 6), draw(150, 6, 1)
    spec = HashSpec(family=family, num_tables=4, num_bits=3)
    whole = lsh_fit(KEY, r, spec=spec, second_reference=draw(220, 6, 2) if second else None)
    counts = whole._replace(sketch=whole.sketch._replace(cells=None))
    expected = lsh_score(whole, g, membership=True)
    found = lsh_score(counts, g, membership=True, recall=False)
    assert found.precision == expected.precision
    assert found.precision_stderr == expected.precision_stderr
    np.testing.assert_array_equal(found.precision_membership, expected.precision_membership)
    assert found.precision_ceiling == (expected.precision_ceiling if second else None)
    assert (found.recall, found.recall_stderr, found.recall_ceiling) == (None, None, None)
    assert found.recall_membership is None
    with pytest.raises(ValueError, match=r"holds counts only; voted recall .* or recall=False"):
        lsh_score(counts, g)


def test_a_second_sample_has_as_many_rows(hasher):
    r, few = draw(100, 6), draw(99, 6, 1)
    message = "second reference has 99 rows; the reference has 100: give at least as many"
    for second in (few, [few[:50], few[50:]]):
        with pytest.raises(ValueError, match=message):
            lsh_fit(KEY, r, spec=SPEC, second_reference=second)
    with pytest.raises(ValueError, match=message):
        lsh_score(LshReference(build(hasher, r), 1, None, True, build(hasher, few)), r)


@pytest.mark.parametrize("keep_features", [True, False])
def test_a_second_sample_of_knn_is_kept_with_the_features(tmp_path, keep_features):
    r, g = draw(60, 6), draw(30, 6, 1)
    fitted = knn_fit(r, second_reference=draw(70, 6, 2))
    save(tmp_path / "r", fitted, keep_features=keep_features)
    read = load(tmp_path / "r", features=r)
    if not keep_features:
        assert read.second is None
        read = read._replace(second=draw(70, 6, 2))
    assert knn_score(read, g) == knn_score(fitted, g)
    # Fewer samples than the reference: the ceiling is of so many rows of the second sample.
    assert knn_score(read, g).recall_ceiling != knn_score(read, r).recall_ceiling


def test_keep_features_is_a_flag(tmp_path):
    with pytest.raises(TypeError, match="keep_features = 'no'"):
        save(tmp_path / "r", knn_fit(draw(60, 6)), keep_features="no")
