"""Packed trees: exact bit counts, exact round trips, and files that are refused."""

import hashlib
import json
import os
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsh_gan.compression import (
    CompressionSpec,
    Rule,
    compress,
    load_packed,
    pack,
    save_packed,
    unpack,
)
from lsh_gan.compression.packing import pack_codes, packed_bytes, unpack_codes


def _params():
    keys = jax.random.split(jax.random.key(1))
    return {
        "params": {
            "project": {"kernel": jax.random.normal(keys[0], (6, 20)), "bias": jnp.arange(20.0)},
            "conv": {"kernel": jax.random.laplace(keys[1], (3, 3, 4, 7))},
            "pruned": {"kernel": jnp.where(jnp.arange(36).reshape(6, 6) % 5 == 0, 0.7, 0)},
        },
        "batch_stats": {},
    }


def _assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype == jnp.float32
        np.testing.assert_array_equal(np.asarray(x).view(np.int32), np.asarray(y).view(np.int32))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1001])
@pytest.mark.parametrize("bits", range(1, 17))
def test_codes_take_exactly_their_bits(bits, count):
    codes = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint16)
    packed = pack_codes(codes, bits)
    assert packed.dtype == np.uint8
    # Above 8 bits the low bytes and the high bits are two runs, each ending on a byte.
    assert packed.size == packed_bytes(count, bits) == -(-count * bits // 8)
    np.testing.assert_array_equal(unpack_codes(packed, count, bits), codes)


def test_three_bit_codes_lie_low_bits_first():
    # 001 010 011, from the low end: 0b11_010_001, then the high bit of 011.
    np.testing.assert_array_equal(pack_codes(np.array([1, 2, 3], np.uint16), 3), [0b11010001, 0])


SPECS = [
    CompressionSpec(bits=bits, granularity=granularity, scheme=scheme, **options)
    for bits in (1, 3, 8, 11, 16)
    for granularity, options in (
        ("per_tensor", {"clipping": "mse"}),
        ("per_channel", {}),
        ("per_group", {"group_size": 2, "rules": [Rule(pattern=".*conv.*", group_size=9)]}),
    )
    for scheme in ("symmetric", "affine")
]


def _name(spec):
    return f"{spec.bits}-{spec.granularity}-{spec.scheme}"


@pytest.mark.parametrize("spec", [CompressionSpec(bits=None), *SPECS], ids=_name)
def test_unpacked_equals_compressed_bit_for_bit(spec, tmp_path):
    params = _params()
    compressed, report = compress(params, spec)
    packed = pack(params, spec)
    _assert_same_bits(unpack(packed), compressed)
    path = tmp_path / "g.packed"
    assert save_packed(path, packed) == os.path.getsize(path) == report.bytes
    _assert_same_bits(unpack(load_packed(path)), compressed)


def test_declared_channel_axes_survive(tmp_path):
    options = {"channel_axes": {".*conv.*": 2, ".*project.*": 0}}
    compressed, _ = compress(_params(), CompressionSpec(bits=3), **options)
    save_packed(tmp_path / "g", pack(_params(), CompressionSpec(bits=3), **options))
    _assert_same_bits(unpack(load_packed(tmp_path / "g")), compressed)


def test_three_bits_take_three_bits(tmp_path):
    params = {"kernel": jax.random.normal(jax.random.key(0), (1000, 64))}
    size = save_packed(tmp_path / "g", pack(params, CompressionSpec(bits=3)))
    # Codes, one scale a channel, and what the format adds.
    assert 0 <= size - (64000 * 3 // 8 + 64 * 4) < 200


def test_metadata_and_empty_subtrees_survive(tmp_path):
    metadata = {"generator": "dcgan", "config": {"channels": [256, 128], "name": "é"}}
    save_packed(tmp_path / "g", pack(_params(), CompressionSpec(bits=4), metadata=metadata))
    loaded = load_packed(tmp_path / "g")
    assert loaded.metadata == metadata
    assert unpack(loaded)["batch_stats"] == {}


def test_saving_leaves_one_file_and_replaces_it_whole(tmp_path):
    path = tmp_path / "g"
    save_packed(path, pack(_params(), CompressionSpec(bits=4)))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_packed(path, pack(_params(), CompressionSpec(bits=4), metadata={"a": object()}))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["g"]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "generator.packed"
    save_packed(path, pack(_params(), CompressionSpec(bits=4, scheme="affine")))
    return path


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"generator\.packed: (truncated|damaged|not a packed)"):
        load_packed(saved)


def test_any_changed_byte_is_noticed(saved):
    data = saved.read_bytes()
    for position in [*range(60), *range(60, len(data), 37), len(data) - 1]:
        changed = bytearray(data)
        changed[position] ^= 0x10
        saved.write_bytes(changed)
        with pytest.raises(ValueError, match=r"generator\.packed: "):
            load_packed(saved)


def test_appended_bytes_are_noticed(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="checksum"):
        load_packed(saved)


def test_another_version_is_refused_by_number(saved):
    data = bytearray(saved.read_bytes())
    data[8:12] = struct.pack("<I", 7)
    saved.write_bytes(data)
    with pytest.raises(ValueError, match="format version 7; this program reads 1"):
        load_packed(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_packed(tmp_path / "absent")


def _rewrite(path, change):
    """Writes a file with a valid checksum around a changed header."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[12:20])[0]
    header, payload = json.loads(data[52 : 52 + length]), data[52 + length :]
    body = change(header)
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    prefix = data[:12] + struct.pack("<Q", len(body))
    digest = hashlib.sha256(prefix + body + payload).digest()
    path.write_bytes(prefix + digest + body + payload)


def _tensor(index, value):
    def change(header):
        header["tensors"][0][index] = value
        return header

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda header: b"[" * 100_000,
        lambda header: b"\xff\xfe",
        lambda header: [],
        lambda header: {"tensors": header["tensors"]},
        _tensor(0, []),
        _tensor(0, [1]),
        _tensor(1, [10**12, 10**12]),
        _tensor(1, [-3, 3, 4, 7]),
        _tensor(1, "shape"),
        _tensor(2, 17),
        _tensor(2, 0),
        _tensor(2, True),
        _tensor(2, 2),
        _tensor(3, 9),
        _tensor(4, "other"),
        _tensor(5, [1, 2, 7]),
        _tensor(5, [1, 1, 6]),
        _tensor(5, [5, 1, 7]),
    ],
)
def test_impossible_headers_are_refused(saved, change):
    _rewrite(saved, change)
    with pytest.raises(ValueError, match=r"generator\.packed: "):
        load_packed(saved)


def test_a_checkpoint_that_is_not_converted(tmp_path):
    file = tmp_path / "network.pth"
    file.write_bytes(b"PK" + bytes(100))
    with pytest.raises(
        ValueError, match=r"network\.pth: not a packed .* checkpoints_tools\.convert"
    ):
        load_packed(file)
