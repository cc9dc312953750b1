"""Two thousand damaged files: every one is read or refused cleanly, and nothing runs."""

import os
import zipfile

import ml_dtypes
import numpy as np
import pytest
from golden import FOLDER
from tensor_file_writers import write_safetensors

from lsh_gan import tensor_files
from lsh_gan.tensor_files import FormatError

CASES = 250  # of each of the eight files


def good_file(name, folder):
    """A good file of the kind, as bytes."""
    path = folder / name
    if name == "arrays.safetensors":
        half = np.arange(12).astype(ml_dtypes.bfloat16).reshape(3, 4)
        write_safetensors(path, {"a": ("BF16", half), "b": ("I64", np.arange(5))})
    elif name == "arrays.npz":
        np.savez_compressed(path, a=np.arange(12.0).reshape(3, 4), b=np.arange(5, dtype=">i2"))
    elif name == "array.npy":
        np.save(path, np.arange(12.0).reshape(3, 4))
    elif name.startswith("evil"):
        return (FOLDER / "malicious" / name).read_bytes()
    else:
        return (FOLDER / "files" / name).read_bytes()
    return path.read_bytes()


def damaged(data, rng):
    """One to four bytes changed, or a slice cut out or repeated."""
    data = bytearray(data)
    if rng.random() < 0.7:
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(len(data))] = rng.integers(256)
    else:
        start = int(rng.integers(len(data)))
        end = start + int(rng.integers(1, 40))
        data[start:end] = data[start:end] * int(rng.choice([0, 2]))
    return bytes(data)


def damage_inside_zip(path, data, rng):
    """Changes the pickle in a torch zip and mends the checksum, which would tell otherwise."""
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))
    members[name] = damaged(members[name], rng)
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)


@pytest.mark.parametrize(
    "name",
    ["kinds.zip.pth", "kinds.legacy.pth", "kinds.pkl", "evil_persistence.pkl", "evil_zip.pth",
     "arrays.safetensors", "arrays.npz", "array.npy"],
)  # fmt: skip
def test_damaged_files_give_clean_errors(name, tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    data = good_file(name, tmp_path)
    monkeypatch.chdir(folder)
    rng = np.random.default_rng(len(data))
    path = tmp_path / "damaged"
    refused = 0
    for case in range(CASES):
        if case % 2:
            path.write_bytes(data[: rng.integers(len(data))])
            with pytest.raises(FormatError, match="damaged: "):
                tensor_files.read(path)
            continue
        if name == "kinds.zip.pth" and case % 4:
            damage_inside_zip(path, data, rng)
        else:
            path.write_bytes(damaged(data, rng))
        try:
            tensor_files.state_dict(tensor_files.read(path))
        except FormatError:
            refused += 1
    assert refused > CASES // 20  # some damage hits numbers and cannot show
    assert os.listdir(folder) == []
