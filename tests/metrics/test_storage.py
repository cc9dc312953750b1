"""Files of sketches and references: what is read scores as what was saved."""

import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw
from sketches import KEY, SOURCE, SPEC, check_equal

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
)


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
