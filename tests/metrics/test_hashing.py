"""Codes against a plain NumPy re-implementation, and what a fit promises about them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw

from lsh_gan.metrics import (
    Hasher,
    HashSpec,
    fit_hash,
    hash_fit,
    lsh_fit,
    lsh_knn_fit,
    lsh_knn_precision_recall,
)
from lsh_gan.metrics.encoding import encode
from lsh_gan.metrics.hashing import cell_index, cell_keys, directory_of

FAMILIES = ["affine", "hyperplane", "pstable"]
# Float32 rounding of features scaled to norms near 1; only exact ties come closer to an edge here.
TIE = 1e-6


def exact_hasher(family, radius_bins, digits):
    """A hasher whose arithmetic on `exact_features` has no rounding, so that ties are decided."""
    rng = np.random.default_rng(5)
    directions = rng.choice([-0.5, 0.0, 0.5], (6, 4)).astype(np.float32)
    members = np.stack([rng.permutation(6)[:5] for _ in digits]).astype(np.int32)
    thresholds = rng.integers(-4, 5, (len(digits), 5)).astype(np.float32) / 8
    spec = HashSpec(
        family=family, num_tables=len(digits), num_bits=5, radius_bins=radius_bins,
        num_directions=5,
    )  # fmt: skip
    # Norms are roots of multiples of 1/64; the edges lie between.
    edges = np.array([0.4, 0.7, 0.95, 1.15], np.float32) if radius_bins else np.zeros(0, np.float32)
    return Hasher(
        spec, np.array(digits, np.int32), np.array([1.0, -2.0, 0.0, 0.5]), 0.25, directions,
        members, thresholds, 0.375 if family == "pstable" else 1.0, edges,
    )  # fmt: skip


def exact_features(n):
    return np.random.default_rng(n).integers(-8, 9, (n, 4)).astype(np.float32) / 2


def reference_codes(hasher, features, tie=0.0):
    """Digits `[t, n, b]` and radius bins `[n]`, by definition and in float64.

    Values closer than `tie` to an edge count as equal to it.
    """
    x = (np.asarray(features, np.float64) - hasher.shift) * hasher.scale
    digits = []
    for members, thresholds, b in zip(
        hasher.members, hasher.thresholds, hasher.digits, strict=True
    ):
        offset = x @ np.asarray(hasher.directions, np.float64)[members[:b]].T - thresholds[:b]
        if hasher.spec.family == "pstable":
            digits.append(np.clip(np.floor(offset / hasher.width), -4, 3).astype(int) + 4)
        else:
            digits.append((offset > tie).astype(int))
    norms = np.linalg.norm(x, axis=1)
    edges = hasher.radius_edges.astype(np.float64)
    # The innermost row of the fit lies above the first edge, all other ties below theirs.
    slack = np.where(np.arange(len(edges)) == 0, -tie, tie)
    return digits, (norms[:, None] > edges + slack).sum(axis=1)


def reference_cells(hasher, features, tie=0.0):
    """Radius bin and code of each row as one number, `[t, n]`."""
    bits = 3 if hasher.spec.family == "pstable" else 1
    digits, radius = reference_codes(hasher, features, tie)
    codes = [
        d.astype(int) @ (2**bits) ** np.arange(d.shape[1], dtype=int)[::-1]
        if d.size
        else 0 * radius
        for d in digits
    ]
    address = bits * int(max(hasher.digits))
    return np.stack(codes) + (radius << (address + address % 2))


def cells_of(hasher, features):
    codes = encode(hasher, features)
    return np.asarray(cell_index(hasher, codes, directory_of(hasher, codes)))


def check_cells(hasher, cells, expected):
    """Cells are the codes, or with a directory one number for each different code."""
    assert 0 <= cells.min() <= cells.max() < hasher.cells(cells.shape[1])
    if hasher.spec.family != "pstable":
        np.testing.assert_array_equal(cells, expected)
        return
    for found, of_table in zip(cells, expected, strict=True):
        pairs = np.unique(np.stack([found, of_table]), axis=1)
        assert pairs.shape[1] == len(np.unique(found)) == len(np.unique(of_table))


@pytest.mark.parametrize("digits", [(5, 5, 5), (4, 3, 3), (0, 0, 0)])
@pytest.mark.parametrize("radius_bins", [0, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_codes_equal_the_definition_ties_included(family, radius_bins, digits):
    hasher, x = exact_hasher(family, radius_bins, digits), exact_features(400)
    cells = cells_of(hasher, x)
    check_cells(hasher, cells, reference_cells(hasher, x))
    if digits[0]:
        assert len(np.unique(cells)) > 5


@pytest.mark.parametrize("num_directions", [0, 32])
@pytest.mark.parametrize("radius_bins", [0, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_fitted_codes_equal_the_definition(family, radius_bins, num_directions):
    spec = HashSpec(
        family=family, num_tables=5, num_bits=6, radius_bins=radius_bins,
        num_directions=num_directions,
    )  # fmt: skip
    r, g = draw(300, 16), 1.3 * draw(200, 16, 1)
    hasher = fit_hash(jax.random.key(3), r, spec)
    for x in (g, jnp.asarray(g), g.astype(np.float64)):
        check_cells(hasher, cells_of(hasher, x), reference_cells(hasher, x))
    if family != "pstable":  # rows of the fit lie on thresholds and edges
        check_cells(hasher, cells_of(hasher, r), reference_cells(hasher, r, TIE))


@pytest.mark.parametrize("num_bits", [1, 10])
def test_codes_are_looked_up_among_those_of_the_reference(num_bits):
    spec = HashSpec(family="pstable", num_tables=3, num_bits=num_bits, radius_bins=2)
    r, g = draw(700, 2), 2 * draw(900, 2, 1)
    hasher = fit_hash(jax.random.key(0), r, spec)
    codes, others = encode(hasher, r), encode(hasher, g)
    directory = directory_of(hasher, codes)
    cells, found = (np.asarray(cell_index(hasher, c, directory)) for c in (codes, others))
    own, other = cell_keys(hasher, codes), cell_keys(hasher, others)
    np.testing.assert_array_equal(own, reference_cells_as_keys(hasher, r))
    for table in range(3):
        at = dict(zip(own[table].tolist(), cells[table].tolist(), strict=True))
        assert len(set(at.values())) == len(at)
        known = {key & 0xFFFFFFFF for key in at}
        for key, cell in zip(other[table].tolist(), found[table].tolist(), strict=True):
            if key in at:
                assert cell == at[key]
            else:  # another radius bin of a known code, or the last place, where nothing is
                assert cell not in at.values()
                unknown = key & 0xFFFFFFFF not in known
                assert unknown == (cell % directory.size == directory.size - 1)
    assert (found % directory.size == directory.size - 1).any()


def reference_cells_as_keys(hasher, features):
    digits, radius = reference_codes(hasher, features)
    codes = [d @ 8 ** np.arange(d.shape[1])[::-1] for d in digits]
    return np.stack(codes) + (radius << 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shorter_code_is_a_prefix(family):
    r, key = draw(200, 8), jax.random.key(1)
    codes = []
    for b in (2, 6):
        hasher = fit_hash(key, r, HashSpec(family=family, num_tables=4, num_bits=b))
        codes.append(cell_keys(hasher, encode(hasher, r)))
    for short, long in zip(*codes, strict=True):
        assert len(np.unique(long)) == len(np.unique(np.stack([short, long]), axis=1).T)


@pytest.mark.parametrize("family", FAMILIES)
def test_fit_follows_its_description(family):
    spec = HashSpec(family=family, num_tables=20, num_bits=8, radius_bins=4, num_directions=40)
    r = draw(400, 6) + np.float32(3)
    r[:20] *= 30  # outliers, which no statistic may see much of
    hasher = fit_hash(jax.random.key(0), r, spec)
    x = r.astype(np.float64)
    shift = x.mean(0)
    radius = np.linalg.norm(x - shift, axis=1)
    shift = x[radius <= np.quantile(radius, 0.9)].mean(0)
    np.testing.assert_allclose(hasher.shift, shift, rtol=1e-5)  # sums in float32

    assert hasher.directions.shape == (40, 6)
    # Normalised in float32.
    np.testing.assert_allclose(np.linalg.norm(hasher.directions, axis=1), 1, rtol=1e-6)
    assert all(len(np.unique(row)) == len(row) for row in hasher.members)

    scaled = (x - hasher.shift) * hasher.scale
    norms = np.linalg.norm(scaled, axis=1)
    central = norms <= np.quantile(norms, 0.9)
    # Inner edges part the rows where the quantiles do; the outer ones hold every row.
    ordered, edges = np.sort(norms), np.quantile(norms[central], np.linspace(0, 1, 5)[1:])
    below = np.searchsorted(ordered, edges, side="right")
    np.testing.assert_array_equal(np.searchsorted(ordered, hasher.radius_edges[1:-1]), below)
    ends = hasher.radius_edges[[0, -1]]
    np.testing.assert_allclose(ends, ordered[[0, -1]], rtol=2e-5)
    assert ends[0] < ordered[0]
    assert ends[1] > ordered[-1]

    projections = scaled[central] @ np.asarray(hasher.directions, np.float64).T
    if family == "hyperplane":
        assert not hasher.thresholds.any()
    elif family == "affine":  # each threshold is midway between two neighbouring central rows
        rows = np.sort(projections, axis=0)
        middle = np.concatenate([(rows[:-1] + rows[1:]) / 2, rows[-1:]])
        gap = np.abs(middle[:, hasher.members] - hasher.thresholds).min(axis=0)
        assert gap.max() < TIE
    else:
        assert hasher.width == pytest.approx(1.5 * projections.std(), rel=1e-5)
        u = -hasher.thresholds / hasher.width
        # Both ends of a uniform draw of 480 values are within 0.05 but with a chance of 1e-10.
        assert 0 <= u.min() < 0.05 < 0.95 < u.max() < 1.000001


def test_affine_cells_follow_the_density():
    """One direction, b = 3 thresholds: the 4 cells of each table hold equal shares in the mean."""
    r = np.random.default_rng(0).lognormal(sigma=1, size=(400, 1)).astype(np.float32)
    spec = HashSpec(family="affine", num_tables=300, num_bits=3, radius_bins=0, num_directions=0)
    hasher = fit_hash(jax.random.key(0), r, spec)
    digits, _ = reference_codes(hasher, r, TIE)
    radius = np.abs(r.astype(np.float64) - hasher.shift)[:, 0]
    central = radius <= np.quantile(radius, 0.9)
    # In one dimension a direction is +1 or -1: the rank of a point's cell is its sum of digits,
    # with digits of direction -1 exchanged.
    shares = []
    for row, members in zip(digits, hasher.members, strict=True):
        upward = np.where(np.asarray(hasher.directions)[members, 0] > 0, row, 1 - row)
        shares.append(np.bincount(upward[central].sum(1), minlength=4) / central.sum())
    # Gaps of 3 uniform thresholds: each has mean 1/4 and variance 3/80.
    np.testing.assert_allclose(np.mean(shares, axis=0), 0.25, atol=4.5 * np.sqrt(3 / 80 / 300))


def test_radius_bins_hold_equal_shares():
    r = draw(400, 8)
    hasher = fit_hash(jax.random.key(0), r, HashSpec(num_bits=2, radius_bins=8))
    counts = np.bincount(np.asarray(encode(hasher, r).radius_bin), minlength=11)
    assert counts[0] == counts[10] == 0
    assert counts[9] == 40  # the outer tenth
    np.testing.assert_allclose(counts[1:9], 45, atol=1)
    far = np.stack([hasher.shift, hasher.shift + 100]).astype(np.float32)
    np.testing.assert_array_equal(encode(hasher, far).radius_bin, [0, 10])


@pytest.mark.parametrize("degrees", [10, 45, 90, 120, 170])
def test_hyperplane_collision_rate(degrees):
    """Charikar 2002: one bit of x and y agrees with probability 1 − θ/π."""
    spec = HashSpec(
        family="hyperplane", num_tables=30, num_bits=24, radius_bins=0, num_directions=0
    )
    hasher = fit_hash(jax.random.key(degrees), draw(100, 12) + np.float32(5), spec)
    a, b = np.linalg.qr(draw(12, 2, degrees).astype(np.float64))[0].T
    angle = np.deg2rad(degrees)
    pair = hasher.shift + np.stack([a, 3 * (np.cos(angle) * a + np.sin(angle) * b)])
    x, y = np.asarray(encode(hasher, pair).digits).T
    agree = 24 * 30 - sum(int(v).bit_count() for v in x ^ y)
    p = 1 - degrees / 180
    # 720 independent directions; 4.5 standard deviations of a binomial.
    assert agree / 720 == pytest.approx(p, abs=4.5 * np.sqrt(p * (1 - p) / 2400))


def test_codes_do_not_depend_on_scale_and_offset():
    """Powers of two scale exactly; μ takes an offset away."""
    r, key = draw(200, 8).astype(np.float64), jax.random.key(0)
    spec = HashSpec(num_tables=4, num_bits=6)
    first, scaled = fit_hash(key, r, spec), fit_hash(key, 1024 * r, spec)
    own = cell_keys(first, encode(first, r))
    np.testing.assert_array_equal(own, cell_keys(scaled, encode(scaled, 1024 * r)))
    moved = fit_hash(key, r + 1e6, spec)
    differ = own != cell_keys(moved, encode(moved, r + 1e6))
    # μ moves by rounding at 1e6 alone, which few thresholds notice.
    assert differ.mean() < 0.01


def test_same_key_same_hash():
    r, spec = draw(100, 8), HashSpec(num_tables=3, num_bits=4)
    first, same, other = (fit_hash(jax.random.key(k), r, spec) for k in (0, 0, 1))
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.directions, other.directions)
    assert not np.array_equal(first.members, other.members)
    assert not np.array_equal(first.thresholds, other.thresholds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "afine"}, "hash family 'afine' is unknown; did you mean 'affine'"),
        (
            {"num_bits": "atuo", "family": "affine"},
            "num_bits = 'atuo'; affine takes 0 to 24, or 'auto'",
        ),
        ({"num_bits": 25, "family": "affine"}, "num_bits = 25; affine takes 0 to 24"),
        ({"num_bits": -1}, "num_bits = -1"),
        ({"num_bits": 11, "family": "pstable"}, "num_bits = 11; pstable takes 0 to 10"),
        ({"num_tables": 0}, "num_tables = 0; expected at least 1"),
        ({"num_tables": 65536}, "num_tables = 65536; expected at most 65535"),
        ({"radius_bins": 4 * 10**8}, "radius_bins = 400000000; expected at most 32000"),
        ({"radius_bins": -1}, "radius_bins = -1; expected at least 0"),
        ({"width": 0.0}, "width = 0.0; expected a positive number"),
        ({"num_directions": 4, "num_bits": 5}, "num_directions = 4; a table draws 5"),
        ({"ceiling_target": 1.0}, r"ceiling_target = 1.0; expected it in \(0, 1\)"),
    ],
)
def test_bad_spec(options, message):
    with pytest.raises(ValueError, match=message):
        HashSpec(**options)


@pytest.mark.parametrize(
    ("options", "bytes_needed"),
    [
        # Directions alone, those of every table's own, the products with them, and their ranks.
        ({"num_directions": 10**9}, 4 * 10**9 * (2048 + 512)),
        ({"num_tables": 65535, "num_bits": 24, "num_directions": 0}, 4 * 1572840 * (2048 + 512)),
        ({"num_tables": 65535, "num_bits": 10, "num_directions": 0}, 4 * 655350 * (2048 + 512)),
        ({"num_tables": 65535, "num_directions": 8192}, 12 * 65535 * 8192),
    ],
    ids=str,
)
def test_directions_too_large_for_memory(options, bytes_needed, monkeypatch):
    """Said before anything is drawn."""
    monkeypatch.setattr(hash_fit, "_directions", None)
    monkeypatch.setattr(hash_fit, "_members", None)
    x, spec = draw(50, 2048), HashSpec(family="affine", **options)
    fields = " = .*, ".join(("num_tables", "num_bits", "num_directions"))
    for fit in (fit_hash, lsh_fit, lsh_knn_fit):
        with pytest.raises(ValueError, match=rf"{fields} = .* take \d+ bytes, more than") as e:
            fit(jax.random.key(0), x, spec=spec)
        found = int(re.search(r"take (\d+) bytes", str(e.value))[1])
        assert bytes_needed <= found <= 1.2 * bytes_needed


def test_most_radius_bins():
    r = draw(100, 4)
    spec = HashSpec(num_tables=2, num_bits=1, radius_bins=32000)
    edges = fit_hash(jax.random.key(0), r, spec).radius_edges
    assert len(edges) <= np.iinfo(np.int16).max
    assert 0 <= lsh_knn_precision_recall(jax.random.key(0), r, r + 9, spec=spec).precision <= 1


def test_tables_too_large_for_memory():
    with pytest.raises(ValueError, match=r"num_bits = 24: 32 tables .* take 23622320128 bytes"):
        fit_hash(
            jax.random.key(0), draw(50, 4), HashSpec(family="affine", num_bits=24, radius_bins=8)
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mean_near_the_origin_is_taken_off_the_products(family):
    """What is multiplied as it comes has the codes of what is shifted first, but for rounding."""
    r, spec = draw(400, 24) + np.float32(0.5), HashSpec(family=family, num_tables=4, num_bits=6)
    near, far = (fit_hash(jax.random.key(0), x, spec) for x in (r, r + 64))  # 64 is exact enough
    assert len(near.offsets) == 128
    assert len(far.offsets) == 0
    shifted = near._replace(offsets=np.zeros(0, np.float32))
    check_cells(near, cells_of(near, r), reference_cells(near, r, TIE))
    own = cell_keys(near, encode(near, r))
    differ = own != cell_keys(shifted, encode(shifted, r))
    assert differ.mean() < 0.002
    differ = own != cell_keys(far, encode(far, r + 64))
    assert differ.mean() < 0.02  # the mean and the thresholds are rounded at 64
    with pytest.raises(ValueError, match=r"NaN or Inf .* in row 7"):
        encode(near, np.where(np.arange(400)[:, None] == 7, np.float32(np.nan), r))
