"""The directory of codes against Python's dict."""

import jax.numpy as jnp
import numpy as np
import pytest
from draws import draw

from lsh_gan.metrics import HashSpec, LshReference, build, fit_hash, lsh_score, merge
from lsh_gan.metrics.directory import joined, list_keys, look_up, mix
from lsh_gan.metrics.encoding import encode
from lsh_gan.metrics.hashing import cell_keys


def key_of_table(seed):
    """Keys of which some crowd one bucket, with the least and the largest there are."""
    rng = np.random.default_rng(seed)
    crowded = (7 << 28) + np.arange(9)
    ends = 0, 1, 2**32 - 2, 2**32 - 1
    return np.concatenate([rng.integers(0, 2**32, 80), crowded, ends]).astype(np.uint32)


@pytest.mark.parametrize("without", [(), (0, 2**32 - 1)])
def test_addresses_are_the_places_in_the_list(without):
    tables = [np.setdiff1d(key_of_table(seed), np.uint32(without)) for seed in (0, 1)]
    directory = list_keys([np.tile(keys, 2)[::-1] for keys in tables], 128)
    asked = np.stack([np.concatenate([key_of_table(s), key_of_table(s + 5)]) for s in (0, 1)])
    found = np.asarray(look_up(directory, jnp.asarray(asked)))
    for keys, row, places in zip(tables, asked, found, strict=True):
        place = {key: i for i, key in enumerate(sorted(keys.tolist()))}
        assert places.tolist() == [place.get(key, 127) for key in row.tolist()]


def test_a_table_may_be_empty():
    directory = list_keys([np.zeros(0, np.uint32), np.uint32([0, 5])], 4)
    found = look_up(directory, jnp.asarray(np.uint32([[0, 5, 9], [0, 5, 9]])))
    np.testing.assert_array_equal(found, [[3, 3, 3], [0, 1, 3]])


def test_mixing_loses_nothing():
    codes = np.concatenate([np.arange(2**16), (np.arange(2**16) << 16) + 77]).astype(np.uint32)
    mixed = np.asarray(mix(jnp.asarray(codes)))
    assert len(np.unique(mixed)) == len(np.unique(codes))
    # Even over the first bits: 512 buckets of 256 on average, 6 standard deviations of a Poisson.
    counts = np.bincount(mixed >> 23, minlength=512)
    assert abs(counts - 256).max() < 6 * 16


def test_joined_lists_all():
    a, b = (key_of_table(seed) for seed in (0, 1))
    both = joined(list_keys([a], 128), list_keys([b], 128), 256)
    whole = list_keys([np.concatenate([b, a])], 256)
    for x, y in zip(both, whole, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("num_bits", [3, 8])
def test_garbage_gets_nothing_however_much_there_is(num_bits):
    """Tables are never full: neither of a reference larger than the fit, nor of many samples."""
    r, far = draw(5000, 12), 50 * draw(20000, 12, 1)
    hasher = fit_hash(np.uint32([0, 1]), r[:100], HashSpec(num_bits=num_bits, num_tables=8))
    scores = lsh_score(LshReference(build(hasher, r), 1, None, True, None), far)
    of_r, of_g = (cell_keys(hasher, encode(hasher, x)) for x in (r, far))
    shared = [np.isin(a, b).mean() for a, b in zip(of_g, of_r, strict=True)]
    assert scores.precision == pytest.approx(np.mean(shared), abs=1e-9)
    assert max(scores.precision, scores.recall) < 0.001
    assert scores.precision_ceiling > 0.05


def test_counts_of_a_stream_are_those_of_the_whole():
    """More batches than are waited for, so that parts are merged several times."""
    x = draw(13000, 5)
    hasher = fit_hash(np.uint32([0, 2]), x[:500], HashSpec(num_bits=4, num_tables=3))
    whole = build(hasher, x, keep_codes=False)
    stream = build(hasher, (x[i : i + 900] for i in range(0, 13000, 900)), keep_codes=False)
    for a, b in zip(
        (stream.counts, *stream.directory), (whole.counts, *whole.directory), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert np.asarray(whole.counts).sum() == 3 * 13000
    unlisted = np.asarray(whole.counts).reshape(3, -1, whole.directory.size)
    for table, listed in zip(unlisted, whole.directory.listed, strict=True):
        assert (table[:, listed:] == 0).all()


def test_a_second_sample_is_looked_up_in_the_first():
    r, second = draw(300, 6), np.concatenate([draw(200, 6, 1), 30 * draw(100, 6, 2)])
    hasher = fit_hash(np.uint32([0, 3]), r, HashSpec(num_bits=3, num_tables=4))
    first, other = build(hasher, r), build(hasher, second)
    scores = lsh_score(LshReference(first, 1, None, True, other), second, membership=True)
    assert scores.precision_ceiling == scores.precision
    assert scores.recall_ceiling == scores.recall
    assert scores.precision_membership[200:].max() == 0
    both = merge(first, other)
    again = lsh_score(LshReference(both, 1, None, True, None), second)
    assert again.precision == 1
