"""Packed trees: exact bit counts, exact round trips, and files that are refused."""

import importlib
import itertools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

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
            "a/%2F é": {"kernel": jnp.where(jnp.arange(36).reshape(6, 6) % 5 == 0, 0.7, 0)},
        },
        "batch_stats": {},
    }


def _assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype == jnp.float32
        np.testing.assert_array_equal(np.asarray(x).view(np.int32), np.asarray(y).view(np.int32))


def test_codes_take_exactly_their_bits():
    for bits, count in itertools.product(range(1, 17), (1, 7, 8, 9, 64, 1001)):
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
    CompressionSpec(bits=None),
    *(
        CompressionSpec(bits=bits, granularity=granularity, scheme=scheme, **options)
        for bits, granularity, options in (
            (1, "per_tensor", {"clipping": "mse"}),
            (3, "per_channel", {}),
            (11, "per_group", {"group_size": 2, "rules": [Rule(pattern=".*conv.*", group_size=9)]}),
        )
        for scheme in ("symmetric", "affine")
    ),
    CompressionSpec(bits=8),
    CompressionSpec(bits=16, scheme="affine"),
]


def _name(spec):
    return f"{spec.bits}-{spec.granularity}-{spec.scheme}"


@pytest.mark.parametrize("spec", SPECS, ids=_name)
def test_unpacked_equals_compressed_bit_for_bit(spec, tmp_path):
    params = _params()
    compressed, report = compress(params, spec)
    packed = pack(params, spec)
    _assert_same_bits(unpack(packed), compressed)
    path = tmp_path / "g.packed"
    assert save_packed(path, packed) == os.path.getsize(path) == report.bytes
    _assert_same_bits(unpack(load_packed(path)), compressed)


def test_declared_channel_axes_metadata_and_empty_subtrees_survive(tmp_path):
    axes = {"channel_axes": {".*conv.*": 2, ".*project.*": 0}}
    metadata = {"generator": "dcgan", "config": {"channels": [256, 128], "name": "é"}}
    compressed, _ = compress(_params(), CompressionSpec(bits=3), **axes)
    save_packed(tmp_path / "g", pack(_params(), CompressionSpec(bits=3), metadata=metadata, **axes))
    loaded = load_packed(tmp_path / "g")
    _assert_same_bits(unpack(loaded), compressed)
    assert loaded.metadata == metadata
    assert unpack(loaded)["batch_stats"] == {}


@pytest.mark.parametrize("reader", ["numpy", "torch"])
def test_others_read_the_file_by_the_names_that_are_documented(saved, reader):
    pytest.importorskip(reader)
    read = importlib.import_module(f"safetensors.{reader}").load_file
    tensors = {name: np.asarray(tensor) for name, tensor in read(saved).items()}
    name = "params/project/kernel"
    names = [name, f"{name}/scale", f"{name}/zero_point", "params/project/bias"]
    assert sorted(names) == sorted(n for n in tensors if "project" in n)
    codes, zeros = (
        unpack_codes(tensors[n], count, 4).astype(np.float32)
        for n, count in ((name, 6 * 20), (f"{name}/zero_point", 20))
    )
    values = (codes.reshape(6, 20) - zeros) * tensors[f"{name}/scale"][0]
    expected = unpack(load_packed(saved))["params"]["project"]["kernel"]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert tensors["params/project/bias"].tolist() == list(range(20))


@pytest.mark.parametrize("ending", ["scale", ".scale", "/scale", "%2Fscale"])
def test_tensors_whose_names_end_like_a_part_of_another_survive(tmp_path, ending):
    conv = _params()["params"]["conv"]["kernel"]
    params = {"conv": conv, f"conv{ending}": conv + 1, f"conv{ending}{ending}": conv[0, 0, 0]}
    spec = CompressionSpec(bits=4)
    save_packed(tmp_path / "g", pack(params, spec))
    _assert_same_bits(unpack(load_packed(tmp_path / "g")), compress(params, spec)[0])


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


def test_any_change_is_noticed(saved):
    data = saved.read_bytes()
    ends = [0, 5, len(data) // 50, len(data) // 2, len(data) - 1]
    changed = [data[:end] for end in ends] + [data + b"\0"]
    length = int.from_bytes(data[:8], "little")
    for position in [*range(0, length, 5), *range(8 + length, len(data), 37), len(data) - 1]:
        changed.append(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
    for content in changed:
        saved.write_bytes(content)
        with pytest.raises(ValueError, match=r"generator\.packed: (damaged|not a packed)"):
            load_packed(saved)


def _rewrite(path, change):
    """Writes a file with a valid checksum around a changed header or changed tensors."""
    from lsh_gan.compression.packing import _digest

    with safetensors.safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["lsh_gan"])
    arrays = safetensors.numpy.load_file(path)
    del header["sha256"]
    header = change(header, arrays) or header
    if isinstance(header, dict):
        header = json.dumps(header | {"sha256": _digest(header, arrays)})
    safetensors.numpy.save_file(arrays, path, {"lsh_gan": header})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda *_: "[" * 100_000, "recursion"),
        (lambda *_: "[]", "list indices"),
        (lambda *_: "{}", "'version'"),
        (lambda header, _: header.update(version=7), "version 7; this program reads 3"),
        (lambda header, _: header["quantized"].clear(), "zip"),
    ],
)
def test_impossible_headers_are_refused(saved, change, message):
    _rewrite(saved, change)
    with pytest.raises(ValueError, match=rf"generator\.packed: damaged .*({message})"):
        load_packed(saved)


def test_other_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_packed(tmp_path / "absent")
    file = tmp_path / "network.pth"
    for content, message in [
        (b"PK" + bytes(100), r"not a packed .* checkpoints_tools\.convert"),
        (safetensors.numpy.save({"a": np.ones(1)}), r"not a packed .*metadata.*\.convert"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"network\.pth: {message}"):
            load_packed(file)
