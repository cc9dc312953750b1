"""What the tensor file reader refuses: hostile, unfit and unknown files.

Each file of `goldens/malicious` would create a file `pwned_*` if it were unpickled the usual way.
"""

import copyreg
import os
import zipfile

import numpy as np
import pytest
from golden import FOLDER
from tensor_file_writers import call, raw, tensor, write_pickle, write_safetensors, write_zip

from lsh_gan import tensor_files
from lsh_gan.tensor_files import FormatError


def test_hostile_files_are_refused_by_name_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, message in [
        ("evil_zip.pth", "names os.system"),
        ("evil_legacy.pth", "names os.system"),
        ("evil_legacy_magic.pth", "names os.system"),
        ("evil_nested_storage.pkl", "names os.system"),
        ("evil_stack_global.pkl", "names os.system"),
        ("evil_builtins_eval.pkl", "names builtins.eval"),
    ]:
        with pytest.raises(FormatError, match=f"{name}: refused: it {message}"):
            tensor_files.read(FOLDER / "malicious" / name)
    value = tensor_files.read(FOLDER / "malicious" / "evil_persistence.pkl")
    assert tensor_files.state_dict(value) == {}
    assert os.listdir(tmp_path) == []


def test_calls_that_could_run_code_are_refused_by_name(tmp_path):
    for name in (
        "posix.system", "builtins.getattr", "__builtin__.exec", "subprocess.Popen",
        "importlib.reload", "torch.hub.load", "torch.load", "numpy.load", "numpy.testing.run",
        "copyreg.add_extension",
    ):  # fmt: skip
        path = write_pickle(tmp_path / "a.pkl", call(name, raw("x")))
        with pytest.raises(FormatError, match=f"a.pkl: refused: it .* {name}"):
            tensor_files.read(path)


def test_unfit_tensors_and_pickles_are_refused(tmp_path):
    for operations, message in [
        (tensor(offset=1), "7 elements in a storage of 6"),
        (tensor(shape=(3, 3)), "9 elements in a storage of 6"),
        (tensor(shape=(-1, 3)), r"shape, strides \(0, -1, 3"),
        (tensor(shape=(2,)), "damaged pickle"),
        (tensor(strides=(0, -1)), "-1"),
        (tensor(metadata={"neg": True}), "only marked as conjugated or negated; expected its"),
        (tensor(kind="QInt8Storage"), "QInt8Storage, which has no plain array form"),
        (tensor(key="9"), "no item named 'archive/data/9' in the archive"),
        (call("torch._utils._rebuild_tensor_v2", *map(raw, (1, 0, (1,), (1,)))), "damaged pickle"),
        (raw(1) + raw("not a class") + b")R", "calls a value that is not a class"),
        (b"]]a" + b"h\x07", "damaged pickle"),
        (b"", "damaged pickle"),
        (b"}" + b"]" + raw(1) + b"s", "unhashable type: 'list'"),
        (b"\xee", "damaged pickle"),
        (b"\x96" + (2**40).to_bytes(8, "little") + b"abc", "damaged pickle"),
    ]:
        path = write_zip(tmp_path / "a.pth", operations, {"0": np.zeros(6, np.float32)})
        with pytest.raises(FormatError, match=message):
            tensor_files.read(path)


def test_zip_files_that_were_not_written_to_their_end(tmp_path):
    path = write_zip(tmp_path / "a.pth", tensor(), {"0": np.zeros(6, np.float32)})
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FormatError, match="damaged file: the zip file has no end"):
        tensor_files.read(tmp_path / "cut.pth")
    with zipfile.ZipFile(tmp_path / "failed.pth", "w") as archive:  # torch.save raised an error
        archive.writestr("failed/version", "3")
    with pytest.raises(FormatError, match=r"is incomplete: torch\.save did not end"):
        tensor_files.read(tmp_path / "failed.pth")


def test_what_other_programs_have_registered_is_not_called(tmp_path, monkeypatch):
    registered = {"_extension_cache": {7: os.system}, "_inverted_registry": {7: ("os", "system")}}
    for name, value in registered.items():
        monkeypatch.setattr(copyreg, name, value)
    with pytest.raises(FormatError, match="registry of extensions, which is not read"):
        tensor_files.read(write_pickle(tmp_path / "a.pkl", b"\x82\x07" + raw("echo") + b"\x85R"))


def test_a_container_that_holds_itself_has_no_names(tmp_path):
    cycle = tensor_files.read(write_pickle(tmp_path / "a.pkl", b"]q\x00h\x00a"))
    with pytest.raises(FormatError, match="or 200 levels"):
        tensor_files.state_dict(cycle)
    far = b"Nr" + (2**32 - 1).to_bytes(4, "little")  # as of a damaged file: a memo of one entry
    assert tensor_files.read(write_pickle(tmp_path / "b.pkl", far)) is None


def test_messages_are_one_printable_line(tmp_path):
    name = "os.\x1b[31m" + "x" * 5000
    path = write_pickle(tmp_path / "a.pkl", raw("os") + raw(name) + b"\x93")
    with pytest.raises(FormatError) as caught:
        tensor_files.read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 500


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such file"):
        tensor_files.read(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="not a file"):
        tensor_files.read(tmp_path)
    for data, message in [
        (b"", r"is empty \(0 bytes\)"),
        (b"\x89HDF\r\n\x1a\n", r"is an HDF5 file \(Keras.* save its arrays .* np.savez"),
        (b'{"a": 1}', "is a text file in JSON"),
        (b"\n<!DOCTYPE html><html>", "is a web page: the download went to a page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer.*git lfs pull"),
        (b"\x08\x07\x12\x07pytorch\x1a", "is an ONNX model"),
        (b"\x1c\x00\x00\x00TFL3\x00", "is a TensorFlow Lite model"),
        (b"\x1f\x8b\x08\x00", "is a gzip archive: unpack it first"),
        (b"a/".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive: unpack it first"),
        (b"\x81\xa6params\x82", "is a msgpack file"),
        (b"%PDF-1.4", "is a PDF document"),
        (b"\x89PNG\r\n\x1a\n", "is an image; expected a torch, pickle, safetensors, npz or npy"),
        (b"qqqqqqqqqq", "starts with b'qqqqqqqq'; expected a torch"),
    ]:
        (tmp_path / "a.pth").write_bytes(data)
        with pytest.raises(FormatError, match=f"a.pth: {message}"):
            tensor_files.read(tmp_path / "a.pth")
    (tmp_path / "model.ckpt.index").write_bytes(b"\0\0\1\2")
    with pytest.raises(FormatError, match="is a part of a TensorFlow checkpoint"):
        tensor_files.read(tmp_path / "model.ckpt.index")
    for members, message in [
        (["readme.txt"], "is a zip file of readme.txt, not of torch"),
        (["config.json", "model.weights.h5"], "is a Keras model"),
        (["a/archive_format", "a/.data/version"], "is a program of torch.export: save its tens"),
        (["a/data.pkl", "a/code/b.py", "a/constants.pkl"], r"is a TorchScript program.*state_dict"),
    ]:
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            for name in members:
                archive.writestr(name, "x")
        with pytest.raises(FormatError, match=message):
            tensor_files.read(tmp_path / "b.zip")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(
        FormatError, match=r"holds Python objects.* \(Object arrays cannot be loaded"
    ):
        tensor_files.read(tmp_path / "objects.npy")
    zeros = {"0": np.zeros(6, np.float32)}
    path = write_zip(tmp_path / "d.pth", tensor(), zeros, byte_order="middle")
    with pytest.raises(FormatError, match="byte order 'middle'"):
        tensor_files.read(path)


def test_unfit_safetensors_are_refused(tmp_path):
    tensors = {"a": ("F32", np.zeros(2, "<f4")), "b": ("F32", np.zeros(2, "<f4"))}
    for changes, message in [
        ({"dtype": "F4"}, "invalid shape, data type"),
        ({"dtype": "F9"}, "unknown variant `F9`"),
        ({"data_offsets": [0, 99]}, "invalid shape, data type, or offset"),
        ({"data_offsets": [0, 8]}, "invalid offset for tensor"),  # shared bytes
        ({"shape": [3]}, "invalid shape"),
        ({"shape": [-2]}, "invalid value: integer `-2`"),
        ({"shape": None}, "invalid type: null"),
        ({"shape": [9] * 33}, "overflow"),
        ({"shape": [2**48, 0]}, "invalid"),
        ({"shape": [10**4000] * 3000}, "number out of range"),
    ]:
        path = write_safetensors(tmp_path / "a.safetensors", tensors, **changes)
        with pytest.raises(FormatError, match=f"a.safetensors: damaged file: .*{message}"):
            tensor_files.read(path)
    path = write_safetensors(tmp_path / "a.safetensors", {"a": ("F8_E5M2", np.zeros(2, "u1"))})
    with pytest.raises(FormatError, match=r"tensor a has a type without array form: .*float8_e5m2"):
        tensor_files.read(path)
