"""The tensor file reader on files that torch, NVIDIA's code and NumPy wrote.

`goldens/files/kinds.*` were written by torch 2.13 (`torch.save` in both formats, and `pickle.dump`)
and hold one tensor `arange(6).reshape(2, 3)` of each type, views of shared storages, and plain
values. The other files there are networks, which `test_conversion.py` converts.
"""

import ml_dtypes
import numpy as np
import pytest
from golden import FOLDER
from tensor_file_writers import (
    call,
    legacy,
    named,
    raw,
    storage,
    tensor,
    write_pickle,
    write_safetensors,
    write_zip,
)

from lsh_gan import tensor_files
from lsh_gan.tensor_files import Standin

FILES = FOLDER / "files"
KINDS = ["kinds.zip.pth", "kinds.legacy.pth", "kinds.pkl"]


@pytest.mark.parametrize("name", KINDS)
def test_every_type_of_tensor(name):
    tensors = tensor_files.read(FILES / name)["tensors"]
    types = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16"]
    types = [np.dtype(t) for t in [*types, "complex64"]]
    types += [np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)]
    for dtype in types:
        assert tensors[dtype.name].dtype == dtype
        expected = np.arange(6).reshape(2, 3)
        np.testing.assert_array_equal(tensors[dtype.name].astype(np.complex64), expected)
    np.testing.assert_array_equal(tensors["bool"], [[True, False, True], [False, True, False]])


@pytest.mark.parametrize("name", KINDS)
def test_views_of_storages(name):
    tensors = tensor_files.read(FILES / name)["tensors"]
    base = np.arange(24, dtype=np.float32)
    grid = base.reshape(2, 3, 4)
    expected = {
        "shared_first": base[:12],
        "shared_last": base[12:],
        "transposed": grid.transpose(2, 0, 1),
        "stepped": grid[1, :, ::2],
        "expanded": np.full((3, 2), 7, np.float32),
        "scalar": np.float32(3.5),
        "empty": np.zeros((0, 4), np.float32),
        "parameter": base[:2],
        "tagged": base[:3],
    }
    for key, values in expected.items():
        assert tensors[key].dtype == np.float32
        assert tensors[key].shape == values.shape
        np.testing.assert_array_equal(tensors[key], values)


@pytest.mark.parametrize("name", KINDS)
def test_plain_values_and_standins(name):
    value = tensor_files.read(FILES / name)
    assert value["numbers"] == [1, -2, 2**70, 0.5, True, None, "text", b"bytes"]
    assert value["nested"] == ({"a": (1, (2,))}, {1, 2})
    assert value["size"] == (2, 3)
    assert value["dtype"].name == "torch.float16"
    assert (value["device"].name, value["device"].args) == ("torch.device", ("cuda", 0))
    np.testing.assert_array_equal(value["numpy"], np.arange(6.0).reshape(2, 3))
    assert value["numpy"].dtype.isnative
    np.testing.assert_array_equal(value["fortran"], np.arange(6).reshape(2, 3))
    assert value["numpy_scalar"] == 1.5


def test_shared_storages_are_read_once():
    tensors = tensor_files.read(FILES / "kinds.zip.pth")["tensors"]
    ends = [np.lib.array_utils.byte_bounds(tensors[k]) for k in ("shared_first", "shared_last")]
    assert ends[0][1] == ends[1][0]


def test_persistent_object_gives_class_and_arguments_and_drops_its_source():
    generator = tensor_files.read(FILES / "stylegan2_uncond_skip.pkl")["G_ema"]
    assert generator.name == "Generator"
    assert generator.init_kwargs["img_resolution"] == 32
    assert generator.init_kwargs["mapping_kwargs"] == {"num_layers": 3}
    assert "must never be executed" not in repr(generator)


def test_standin_keeps_arguments_state_elements_and_entries(tmp_path):
    built = call("lib.Thing", raw(1)) + raw(((), {"a": 2, "_non": 3})) + b"b"
    grown = b"]" + named("lib.Bag") + b")\x81" + raw("x") + b"a" + b"a"
    keyed = named("lib.Box") + b")\x81" + raw("k") + raw(5) + b"s"
    value = tensor_files.read(write_pickle(tmp_path / "a.pkl", built + grown + keyed + b"\x87"))
    thing, bag, box = value
    assert (thing.name, thing.args, thing.attributes) == ("lib.Thing", (1,), {"a": 2, "_non": 3})
    assert bag[0].elements == ["x"]
    assert box.entries == {"k": 5}
    assert isinstance(box, Standin)


def test_state_dict_leaves_out_buffers_that_torch_does_not_save():
    one = np.ones(1)
    inner = Standin("M", state={"_parameters": {"w": one}, "_buffers": {}, "_modules": {}})
    state = {
        "_parameters": {"bias": one, "absent": None},
        "_buffers": {"kept": one, "hidden": one},
        "_non_persistent_buffers_set": {"hidden"},
        "_modules": {"0": inner},
        "other": one,
    }
    flat = tensor_files.state_dict({"net": Standin("M", state=state), "list": [one, "text"]})
    assert list(flat) == ["net.bias", "net.kept", "net.0.w", "list.0"]


def test_tensors_in_attributes_of_other_objects_are_found_once():
    average = Standin("EMA", state={"shadow": {"w": np.ones(1)}})
    average.state["trainer"] = average  # objects may refer to each other
    assert list(tensor_files.state_dict({"ema": average})) == ["ema.shadow.w"]


@pytest.mark.parametrize("byte_order", ["big", "little", None])
def test_byte_order_of_a_torch_zip(tmp_path, byte_order):
    order = ">" if byte_order == "big" else "<"
    storages = {"0": np.arange(6, dtype=f"{order}f4"), "1": np.arange(6, dtype=f"{order}i8")}
    operations = tensor() + tensor(kind="LongStorage", key="1") + b"\x86"
    path = write_zip(tmp_path / "a.pth", operations, storages, byte_order=byte_order)
    floats, integers = tensor_files.read(path)
    np.testing.assert_array_equal(floats, np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(integers, np.arange(6).reshape(2, 3))


def test_other_metadata_of_a_tensor_is_ignored(tmp_path):
    operations = tensor(metadata={}) + tensor(metadata={"backend": True}) + b"\x86"
    path = write_zip(tmp_path / "a.pth", operations, {"0": np.arange(6, dtype=np.float32)})
    for array in tensor_files.read(path):
        np.testing.assert_array_equal(array, np.arange(6).reshape(2, 3))


def test_tensors_as_keys_are_numbered(tmp_path):
    """As in an optimizer that was saved whole."""
    for form in (b"}%s%ss", b"}(%s%su"):
        operations = form % (tensor(), raw("moments"))
        path = write_zip(tmp_path / "a.pth", operations, {"0": np.arange(6, dtype=np.float32)})
        assert tensor_files.read(path) == {"0": "moments"}


@pytest.mark.parametrize("protocol", [2, 5])
def test_legacy_files_of_every_protocol(tmp_path, protocol):
    storages = {"0": np.arange(6, dtype=np.float32)}
    (tmp_path / "a.pth").write_bytes(legacy(tensor(), storages, protocol=protocol))
    value = tensor_files.read(tmp_path / "a.pth")
    np.testing.assert_array_equal(value, np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("name", ["float8_e5m2", "float8_e4m3fn", "complex128"])
def test_strided_tensors_of_untyped_storages(tmp_path, name):
    values = np.arange(6).astype(np.dtype(getattr(ml_dtypes, name, name)))
    untyped = storage(kind="UntypedStorage", count=values.nbytes)
    args = [*map(raw, (1, (2, 2), (1, 3), False, None)), named(f"torch.{name}")]
    operations = call("torch._utils._rebuild_tensor_v3", untyped, *args)
    value = tensor_files.read(write_zip(tmp_path / "a.pth", operations, {"0": values}))
    assert value.dtype == values.dtype
    np.testing.assert_array_equal(value.astype(np.complex64), [[1, 4], [2, 5]])


def test_empty_arrays_of_old_protocols(tmp_path):
    made = call("numpy.core.multiarray._reconstruct")
    dtype = call("numpy.dtype", raw("f4"))
    state = b"(" + raw(1) + raw((0, 3)) + dtype + raw(False) + call("__builtin__.bytes") + b"t"
    path = write_zip(tmp_path / "a.pth", made + state + b"b", {})
    value = tensor_files.read(path)
    assert (value.shape, value.dtype) == ((0, 3), np.float32)
    given = tensor_files.read(write_pickle(tmp_path / "a.pkl", call("builtins.bytes", raw(3))))
    assert (given.name, given.args) == ("builtins.bytes", (3,))


def test_safetensors(tmp_path):
    tensors = {
        "a.weight": ("F16", np.arange(6, dtype="<f2").reshape(2, 3)),
        "b": ("BF16", np.arange(2).astype(ml_dtypes.bfloat16)),
        "flag": ("BOOL", np.array([True, False])),
        "empty": ("F32", np.zeros((0, 3), "<f4")),
        "scalar": ("I64", np.array(7, "<i8")),
    }
    value = tensor_files.read(write_safetensors(tmp_path / "a.safetensors", tensors))
    assert value["__metadata__"] == {"format": "pt"}
    assert list(tensor_files.state_dict(value)) == list(tensors)
    for name, (_, array) in tensors.items():
        assert value[name].dtype == array.dtype
        np.testing.assert_array_equal(value[name], array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_and_npy(tmp_path, save):
    arrays = {
        "big_endian": np.arange(6, dtype=">i4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        "half": np.ones(3, np.float16),
        "text": np.array(["a", "bc"]),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 2)),
        "flag": np.array([True]),
    }
    save(tmp_path / "a.npz", **arrays)
    value = tensor_files.read(tmp_path / "a.npz")
    assert list(value) == list(arrays)
    for name, array in arrays.items():
        assert value[name].dtype.isnative
        np.testing.assert_array_equal(value[name], array)
    np.save(tmp_path / "a.npy", arrays["fortran"])
    np.testing.assert_array_equal(tensor_files.read(tmp_path / "a.npy"), arrays["fortran"])
