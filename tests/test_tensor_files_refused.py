"""What the tensor file reader refuses: hostile, unfit, too large and unknown files.

Each file of `goldens/malicious` would create a file `pwned_*` if it were unpickled the usual way.
"""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from golden import FOLDER
from tensor_file_writers import call, raw, tensor, write_pickle, write_safetensors, write_zip

from lsh_gan import tensor_files
from lsh_gan.tensor_files import FormatError, Limits, torch_files

FILES = FOLDER / "files"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("evil_zip.pth", "names os.system"),
        ("evil_legacy.pth", "names os.system"),
        ("evil_legacy_magic.pth", "names os.system"),
        ("evil_nested_storage.pkl", "names os.system"),
        ("evil_stack_global.pkl", "names os.system"),
        ("evil_builtins_eval.pkl", "names builtins.eval"),
    ],
)
def test_hostile_files_are_refused_by_name(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=f"{name}: refused: it {message}"):
        tensor_files.read(FOLDER / "malicious" / name)
    assert os.listdir(tmp_path) == []


def test_hostile_source_text_is_not_run_and_leaves_no_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = tensor_files.read(FOLDER / "malicious" / "evil_persistence.pkl")
    assert tensor_files.state_dict(value) == {}
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["posix.system", "builtins.getattr", "__builtin__.exec", "subprocess.Popen", "importlib.reload",
     "torch.hub.load", "torch.load", "numpy.load", "numpy.testing.run", "copyreg.add_extension"],
)  # fmt: skip
def test_calls_that_could_run_code_are_refused_by_name(tmp_path, name):
    path = write_pickle(tmp_path / "a.pkl", call(name, raw("x")))
    with pytest.raises(FormatError, match=f"a.pkl: refused: it .* {name}"):
        tensor_files.read(path)


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (tensor(offset=1), "7 elements in a storage of 6"),
        (tensor(shape=(3, 3)), "9 elements in a storage of 6"),
        (tensor(shape=(-1, 3)), r"shape, strides \(0, -1, 3"),
        (tensor(shape=(2,)), "with strides"),
        (tensor(strides=(0, -1)), "-1"),
        (tensor(shape=(2**40, 3), strides=(0, 1)), "expands 6 elements to"),
        (tensor(count=2**45), "24 bytes"),
        (tensor(kind="QInt8Storage"), "QInt8Storage, which has no plain array form"),
        (tensor(key="9"), "lacks its member archive/data/9"),
        (call("torch._utils._rebuild_tensor_v2", *map(raw, (1, 0, (), ()))), "from a int"),
        (raw(1) + raw("not a class") + b")R", "calls a value that is not a class"),
        (b"]]a" + b"h\x07", "damaged pickle"),
        (b"", "damaged pickle"),
        (b"}" + b"]" + raw(1) + b"s", "uses a list as"),
        (b"\x82\x01", "EXT1"),
    ],
)
def test_unfit_tensors_and_pickles_are_refused(tmp_path, operations, message):
    path = write_zip(tmp_path / "a.pth", operations, {"0": np.zeros(6, np.float32)})
    with pytest.raises(FormatError, match=message):
        tensor_files.read(path)


def test_messages_are_one_printable_line(tmp_path):
    name = "os.\x1b[31m" + "x" * 5000
    path = write_pickle(tmp_path / "a.pkl", raw("os") + raw(name) + b"\x93")
    with pytest.raises(FormatError) as caught:
        tensor_files.read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 500


def test_nesting_is_limited(tmp_path):
    deep = b"]" * 250 + b"a" * 249
    with pytest.raises(FormatError, match="deeper than 200"):
        tensor_files.read(write_pickle(tmp_path / "a.pkl", deep))
    assert tensor_files.read(tmp_path / "a.pkl", limits=Limits(depth=300)) != []
    # Deep without a deep stack: each list is stored, then put into the next one.
    chain = b"]q\x000" + b"]h\x00aq\x000" * 250 + b"h\x00"
    with pytest.raises(FormatError, match="deeper than 200"):
        tensor_files.read(write_pickle(tmp_path / "b.pkl", chain))
    cycle = b"]q\x00h\x00a"
    with pytest.raises(FormatError, match="contains itself"):
        tensor_files.read(write_pickle(tmp_path / "c.pkl", cycle))


def test_shared_parts_do_not_multiply(tmp_path):
    doubled = b"]q\x000" + b"](h\x00h\x00eq\x000" * 60 + b"h\x00"
    value = tensor_files.read(write_pickle(tmp_path / "a.pkl", doubled))
    with pytest.raises(FormatError, match="more than 1000 values"):
        tensor_files.state_dict(value, limits=Limits(values=1000))


def test_files_inside_of_files_are_limited(tmp_path):
    operations = raw(1)
    for _ in range(5):
        data = io.BytesIO()
        for part in (0x1950A86A20F9469CFC6C, 1001, {}):
            pickle.dump(part, data, 2)
        data.write(b"\x80\x02" + operations + b"." + pickle.dumps([], 2))
        nested = data.getvalue()
        operations = call("torch.storage._load_from_bytes", b"B" + _length(nested) + nested)
    with pytest.raises(FormatError, match="nests torch files deeper than 3"):
        tensor_files.read(write_pickle(tmp_path / "a.pkl", operations))


def _length(data):
    return len(data).to_bytes(4, "little")


def test_sizes_are_limited(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", zeros=np.zeros(1_000_000))
    with pytest.raises(FormatError, match=r"zeros\.npy has 8000128 bytes; at most 100000"):
        tensor_files.read(tmp_path / "a.npz", limits=Limits(num_bytes=100_000))
    with pytest.raises(FormatError, match=r"has \d+ bytes; at most 1000"):
        tensor_files.read(tmp_path / "a.npz", limits=Limits(num_bytes=1000))
    monkeypatch.setattr(torch_files, "_EXPANDED_BYTES", 2**20)
    with pytest.raises(FormatError, match=r"zeros\.npy expands \d+ bytes to 8000128"):
        tensor_files.read(tmp_path / "a.npz")
    with pytest.raises(FormatError, match="more than 10 pickle operations"):
        tensor_files.read(FILES / "kinds.pkl", limits=Limits(values=10))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such file"):
        tensor_files.read(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="not a file"):
        tensor_files.read(tmp_path)
    for data, message in [
        (b"", "starts with b''; expected a torch, pickle, safetensors, npz or npy file"),
        (b"\x89HDF\r\n\x1a\n", "starts with"),
        (b'{"a": 1}', "starts with"),
    ]:
        (tmp_path / "a.pth").write_bytes(data)
        with pytest.raises(FormatError, match=message):
            tensor_files.read(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(FormatError, match=r"0 data\.pkl is not a torch file"):
        tensor_files.read(tmp_path / "b.zip")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(FormatError, match="not of plain numbers or strings"):
        tensor_files.read(tmp_path / "objects.npy")
    zeros = {"0": np.zeros(6, np.float32)}
    path = write_zip(tmp_path / "c.pth", tensor(), zeros, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="data/0 is compressed"):
        tensor_files.read(path)
    path = write_zip(tmp_path / "d.pth", tensor(), zeros, byte_order="middle")
    with pytest.raises(FormatError, match="byte order 'middle'"):
        tensor_files.read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "F4"}, "type 'F4'"),
        ({"data_offsets": [0, 99]}, "lies at 0:99 of 8 bytes"),
        ({"data_offsets": [4, 0]}, "lies at 4:0"),
        ({"shape": [3]}, r"float32 \[3\] has 8 bytes"),
        ({"shape": [-2]}, "lies at"),
        ({"shape": None}, "damaged"),
    ],
)
def test_unfit_safetensors_are_refused(tmp_path, changes, message):
    tensors = {"a": ("F32", np.zeros(2, "<f4"))}
    path = write_safetensors(tmp_path / "a.safetensors", tensors, **changes)
    with pytest.raises(FormatError, match=message):
        tensor_files.read(path)
