"""Codes against NumPy, what a fit promises about them, and what they do not depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw

from lsh_gan.metrics import Hasher, HashSpec, fit_hash, hashing

FAMILIES = ["affine", "hyperplane", "pstable"]
KEY = jax.random.key(0)
# Of all sets [400, 6], so that few programs are compiled.
SPEC = HashSpec(num_tables=20, num_bits=8, num_directions=40)


def exact_hasher(family, radius_bins, digits):
    """A hasher whose arithmetic on `exact_features` has no rounding, so that ties are decided."""
    rng = np.random.default_rng(5)
    spec = HashSpec(family=family, num_tables=3, num_bits=7, num_directions=7)
    edges = [0.4, 0.7, 0.95, 1.15] if radius_bins else []
    return Hasher(
        spec,
        origin=np.array([1.0, -2.0, 0.0, 0.5]),
        centre=jnp.array([0.5, 0.0, -0.25, 1.0]),
        directions=jnp.asarray(rng.choice([-0.5, 0.0, 0.5], (8, 4)), jnp.float32),
        members=jnp.asarray(np.stack([rng.permutation(8)[:7] for _ in range(3)])),
        thresholds=jnp.asarray(rng.integers(-4, 5, (3, 7)) / 8, jnp.float32),
        width=jnp.float32(0.375 if family == "pstable" else 1),
        radius_edges=jnp.asarray(edges, jnp.float32),
        regions=jnp.asarray(rng.integers(-8, 9, (len(digits), 4)) / 2, jnp.float32),
        digits=jnp.asarray(digits, jnp.int32),
    )


def offsets(hasher, features):
    """Projections less thresholds, `[t, n, digits]`, and norms `[n]`, in float64."""
    x = np.asarray(features, np.float64) - hasher.origin - np.asarray(hasher.centre, np.float64)
    along = x @ np.asarray(hasher.directions, np.float64).T
    members, thresholds = np.asarray(hasher.members), np.asarray(hasher.thresholds, np.float64)
    return np.stack([along[:, m] - t for m, t in zip(members, thresholds, strict=True)]), (
        np.linalg.norm(x, axis=1)
    )


def widths(hasher):
    return float(hasher.width) / np.where(np.arange(hasher.members.shape[1]) < 6, 1, 3)


def digits_by_hand(hasher, features):
    beyond, norms = offsets(hasher, features)
    if hasher.spec.family == "pstable":
        digits = np.floor(beyond / widths(hasher)) % 8
    else:
        digits = beyond > 0
    edges = np.asarray(hasher.radius_edges, np.float64)
    return digits.astype(int), (norms[:, None] > edges).sum(axis=1)


def digits_of(hasher, features):
    """The same from codes."""
    codes = hashing.encode(hasher, features)
    bits = 3 if hasher.spec.family == "pstable" else 1
    count = hasher.members.shape[1]
    shifts = bits * np.arange(count)[::-1].astype(np.uint32)
    digits = np.asarray(codes.digits)[:, :, None] >> shifts & np.uint32(2**bits - 1)
    return digits.astype(int), np.asarray(codes.radius_bin)


@pytest.mark.parametrize("radius_bins", [0, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_digits_equal_those_by_hand_ties_included(family, radius_bins):
    x = np.random.default_rng(0).integers(-8, 9, (400, 4)).astype(np.float32) / 2
    hasher = exact_hasher(family, radius_bins, [(7, 7, 7)])
    for found, expected in zip(digits_of(hasher, x), digits_by_hand(hasher, x), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(np.unique(digits_of(hasher, x)[0])) == (8 if family == "pstable" else 2)


@pytest.mark.parametrize("digits", [[(7, 4, 4), (2, 3, 4)], [(1, 1, 1)], [(0, 0, 0)] * 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_buckets_are_the_first_digits_and_the_radius_bin(family, digits):
    """As many digits as the region of the row, the nearest centroid, lets count."""
    x = np.random.default_rng(0).integers(-8, 9, (400, 4)).astype(np.float32) / 2
    hasher = exact_hasher(family, 3, digits)
    found = np.asarray(hashing.buckets(hasher, hashing.encode(hasher, x)))
    of_tables, radius = digits_by_hand(hasher, x)
    away = (x - hasher.origin)[:, None] - np.asarray(hasher.regions)
    counts = np.array(digits)[np.argmin(np.sum(away**2, axis=2), axis=1)]
    for buckets, of_table, of_rows in zip(found, of_tables, counts.T, strict=True):
        expected = {}
        for bucket, row, radius_bin, count in zip(buckets, of_table, radius, of_rows, strict=True):
            assert expected.setdefault((*row[:count], radius_bin, count), bucket) == bucket
        assert len(set(expected.values())) == len(expected)


def small_spec(family):
    return HashSpec(family=family, num_tables=5, num_bits=6, num_directions=32)


@pytest.mark.parametrize("family", FAMILIES)
def test_fitted_digits_equal_those_by_hand(family):
    hasher = fit_hash(jax.random.key(3), draw(300, 16), small_spec(family))
    g = 1.3 * draw(200, 16, 1)
    beyond, _ = offsets(hasher, g)
    parts = beyond / widths(hasher)
    sure = np.abs(parts - np.round(parts)) > 1e-5  # no digit that hangs on rounding
    found, radius = digits_of(hasher, g)
    expected, expected_radius = digits_by_hand(hasher, g)
    np.testing.assert_array_equal(found[sure], expected[sure])
    assert sure.mean() > 0.99
    assert np.mean(radius != expected_radius) < 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_depend_on_the_row_alone(family):
    """Not on the size of a batch, the order, or what stands behind."""
    x = draw(2500, 16) + 1
    hasher = fit_hash(KEY, x[:300], small_spec(family))
    whole = hashing.encode(hasher, x)
    order = np.random.default_rng(0).permutation(len(x))
    for rows in (order, *(slice(37, 37 + size) for size in (1, 7, 1023, 1500))):
        for part, expected in zip(hashing.encode(hasher, x[rows]), whole, strict=True):
            np.testing.assert_array_equal(part, np.asarray(expected)[..., rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_does_not_see_few_outliers(family):
    r = draw(400, 6) + np.float32(3)
    far = r.copy()
    far[1:21] *= 1000
    spec = dataclasses.replace(SPEC, family=family)
    near, hasher = fit_hash(KEY, r, spec), fit_hash(KEY, far, spec)
    np.testing.assert_array_equal(near.directions, hasher.directions)
    np.testing.assert_allclose(near.centre, hasher.centre, atol=0.1)
    np.testing.assert_allclose(near.width, hasher.width, rtol=0.1)
    np.testing.assert_allclose(near.radius_edges[1:-1], hasher.radius_edges[1:-1], rtol=0.1)
    assert np.abs(near.thresholds - hasher.thresholds).mean() < 0.15


def test_regions_begin_and_stay_among_the_central_rows():
    r = draw(400, 6)
    r[1:39] += 1000
    assert np.abs(fit_hash(KEY, r, SPEC).regions + r[0]).max() < 10


def test_fit_follows_its_description():
    r = draw(400, 6) + np.float32(3)
    hasher = fit_hash(KEY, r, SPEC)
    x = r.astype(np.float64) - hasher.origin
    norms = np.linalg.norm(x - x.mean(axis=0), axis=1)
    centre = x[norms <= np.quantile(norms, 0.9)].mean(axis=0)
    np.testing.assert_allclose(hasher.centre, centre, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(hasher.directions, axis=1), 1, rtol=1e-6)
    assert all(len(np.unique(row)) == len(row) for row in np.asarray(hasher.members))
    norms = np.linalg.norm(x - centre, axis=1)
    along = (x - centre)[norms <= np.quantile(norms, 0.9)] @ np.asarray(hasher.directions).T
    assert float(hasher.width) == pytest.approx(1.5 * along.std(), rel=1e-5)
    u = -np.asarray(hasher.thresholds) / float(hasher.width)
    assert 0 <= u.min() < 0.05 < 0.95 < u.max() < 1.00001


def test_radius_bins_hold_equal_shares():
    r = draw(400, 6)
    hasher = fit_hash(KEY, r, SPEC)
    counts = np.bincount(hashing.encode(hasher, r).radius_bin, minlength=11)
    assert counts[0] == counts[10] == 0
    assert counts[9] == 40  # the outer tenth
    np.testing.assert_allclose(counts[1:9], 45, atol=1)
    centre = np.asarray(hasher.centre) + hasher.origin.astype(np.float32)
    far = np.stack([centre, centre + 100])
    np.testing.assert_array_equal(hashing.encode(hasher, far).radius_bin, [0, 10])


def test_hyperplane_collision_rate():
    """Charikar 2002: one bit of x and y agrees with probability 1 − θ/π."""
    spec = HashSpec(
        family="hyperplane", num_tables=30, num_bits=24, radius_bins=0, num_directions=2**13
    )
    hasher = fit_hash(KEY, draw(100, 12), spec)
    for degrees in (10, 90, 170):
        a, b = np.linalg.qr(draw(12, 2, degrees).astype(np.float64))[0].T
        angle = np.deg2rad(degrees)
        pair = np.stack([a, 3 * (np.cos(angle) * a + np.sin(angle) * b)])
        digits, _ = digits_of(hasher, pair + np.asarray(hasher.centre) + hasher.origin)
        p = 1 - degrees / 180
        # 720 directions, few of them twice; 4.5 standard deviations of a binomial.
        agree = np.mean(digits[:, 0] == digits[:, 1])
        assert agree == pytest.approx(p, abs=4.5 * np.sqrt(p * (1 - p) / 720))


def test_same_key_same_hash():
    r = draw(400, 6)
    first, same, other = (fit_hash(jax.random.key(k), r, SPEC) for k in (0, 0, 1))
    for name in ("centre", "directions", "members", "thresholds", "radius_edges", "regions"):
        np.testing.assert_array_equal(getattr(first, name), getattr(same, name))
    for name in ("directions", "members", "thresholds"):
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def test_dense_regions_get_more_digits():
    """A narrow mode among broad ones has a region of its own."""
    rng = np.random.default_rng(0)
    mode = np.arange(256) % 4
    centres, spread = 4 * np.eye(4, 8), np.array([0.3, 1, 1, 1])
    r = (centres[mode] + spread[mode, None] * rng.normal(size=(256, 8))).astype(np.float32)
    few, many = (fit_hash(KEY, r, HashSpec(num_tables=8), rows=rows) for rows in (256, 512))
    region = np.asarray(hashing.encode(few, r).region)
    narrow = region[0]
    np.testing.assert_array_equal(region == narrow, mode == 0)
    total = np.asarray(few.digits).sum(axis=1)
    assert total[narrow] > np.delete(total, narrow).max() == np.delete(total, narrow).min()
    # One bit more in each table, of three bits a digit.
    np.testing.assert_array_equal(np.asarray(many.digits).sum(axis=1), total + 3)
