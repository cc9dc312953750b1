"""Limits of the tensor file reader: small files that would take much memory or time."""

import copyreg
import io
import os
import pickle
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from golden import FOLDER
from tensor_file_writers import (
    FLOAT64,
    binary,
    call,
    legacy,
    raw,
    storage,
    tensor,
    tuple_of,
    write_pickle,
    write_zip,
)

from lsh_gan import tensor_files
from lsh_gan.tensor_files import FormatError, Limits, Standin, pickles, reader, torch_files, values

FILES = FOLDER / "files"
MODULUS = 2**61 - 1  # integers that differ by it have the same hash


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
        operations = call("torch.storage._load_from_bytes", binary(nested))
    with pytest.raises(FormatError, match="nests torch files deeper than 3"):
        tensor_files.read(write_pickle(tmp_path / "a.pkl", operations))


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


def test_names_of_arrays_are_limited(monkeypatch):
    long = "k" * 2000
    assert tensor_files.state_dict({long: [None] * 3, "a": np.ones(1)}).keys() == {"a"}
    with pytest.raises(FormatError, match=r"names an array 'k{80}'… by 2002 characters; at most"):
        tensor_files.state_dict({long: [np.ones(1)]})
    monkeypatch.setattr(values, "_MOST_NAME_CHARACTERS", 5000)
    with pytest.raises(FormatError, match="names of over 5000 characters"):
        tensor_files.state_dict({"k" * 500: [np.ones(1)] * 20})


def test_names_of_values_that_are_no_arrays_are_not_built():
    value = {"k" * 1_000_000: [None] * 1000}
    tracemalloc.start()
    try:
        assert tensor_files.state_dict(value) == {}
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_shared_module_is_not_copied_each_time():
    state = {"_parameters": {}, **{f"a{i}": i for i in range(100_000)}}
    tracemalloc.start()
    try:
        assert tensor_files.state_dict([Standin("M", state=state)] * 3) == {}
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def encoded(times):
    """Encodes the same text of 1,000 characters again and again."""
    text = raw("a" * 1000) + b"q\x01"
    return (
        b"]("
        + call("_codecs.encode", text, raw("latin1"))
        + b"".join(call("_codecs.encode", b"h\x01", raw("latin1")) for _ in range(times - 1))
        + b"e"
    )


def filled(times):
    """Gives the same state of 8,000 bytes to as many arrays."""
    state = tuple_of(raw(1), raw((1000,)), FLOAT64, raw(False), binary(bytes(8000)))
    more = call("numpy.core.multiarray._reconstruct") + b"h\xc8b"
    return b"](" + state + b"q\xc80" + more * times + b"e"


def nested(times):
    """Reads the same torch file of 8,000 bytes as many times."""
    data = legacy(storage(kind="ByteStorage", count=8000), {"0": np.zeros(8000, np.uint8)})
    part = binary(data) + b"q\xc80"
    return b"](" + part + call("torch.storage._load_from_bytes", b"h\xc8") * times + b"e"


def counted(times):
    """Makes the same list of 1,000 pairs a dictionary of one entry as many times."""
    pairs = b"](" + raw((1, 2)) + b"q\xc8" + b"h\xc8" * 999 + b"eq\xc90"
    return pairs + b"](" + call("builtins.dict", b"h\xc9") * times + b"e"


@pytest.mark.parametrize(
    ("operations", "times"),
    [(encoded, 200), (filled, 100), (nested, 60), (counted, 100)],
)
def test_what_a_file_builds_is_limited_in_all(tmp_path, monkeypatch, operations, times):
    monkeypatch.setattr(reader, "_SMALL", 20_000)
    storages = {"0": np.zeros(8, np.complex64)}
    tensor_files.read(write_zip(tmp_path / "a.pth", operations(1), storages))
    path = write_zip(tmp_path / "a.pth", operations(times), storages)
    with pytest.raises(FormatError, match=r"a\.pth: expands to more than \d+ bytes"):
        tensor_files.read(path)


def test_members_of_zip_files_are_limited_in_all(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", **{str(i): np.zeros(100_000) for i in range(5)})
    assert len(tensor_files.read(tmp_path / "a.npz")) == 5
    with pytest.raises(FormatError, match="expands to more than 1000000 bytes"):
        tensor_files.read(tmp_path / "a.npz", limits=Limits(num_bytes=1_000_000))
    monkeypatch.setattr(torch_files, "_EXPANDED_BYTES", 2**20)
    with pytest.raises(FormatError, match="expands to more than 1048576 bytes"):
        tensor_files.read(tmp_path / "a.npz")


def test_zip_members_that_share_their_bytes_are_limited_in_all(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_SMALL", 20_000)
    storages = {str(i): np.zeros(2000, np.float32) for i in range(40)}
    parts = {"count": 2000, "shape": (2000,), "strides": (1,)}
    operations = b"](" + b"".join(tensor(key=key, **parts) for key in storages) + b"e"
    path = write_zip(tmp_path / "a.pth", operations, storages)
    assert len(tensor_files.read(path)) == 40
    overlap(path, storages)
    # Newer versions of Python refuse such members themselves.
    with pytest.raises(FormatError, match=r"expands to more than|Overlapped entries"):
        tensor_files.read(path)


def overlap(path, storages):
    """Writes stored members one inside of the other: each holds the next one, header and all."""
    inner, names = bytes(8000), [f"archive/data/{key}" for key in storages]
    infos = []
    for name in names:
        info = zipfile.ZipInfo(name)
        info.file_size = info.compress_size = len(inner)
        info.CRC = zlib.crc32(inner)
        inner = info.FileHeader() + inner
        infos.append((info, len(inner)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.fp.write(inner)
        for info, length in infos:
            info.header_offset = len(inner) - length
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
        archive.start_dir = len(inner)
        counts = [info.file_size for info, _ in infos]
        parts = (
            storage(kind="ByteStorage", key=key, count=count)
            for key, count in zip(storages, counts, strict=True)
        )
        archive.writestr("archive/data.pkl", b"\x80\x02](" + b"".join(parts) + b"e.")


def test_members_that_expand_to_more_than_they_say_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(4_000_000))
    data = (tmp_path / "a.npz").read_bytes()
    size = (32_000_128).to_bytes(4, "little")
    assert data.count(size) >= 1
    (tmp_path / "a.npz").write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"a\.npz"):
            tensor_files.read(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", bytes(10))
    with pytest.raises(FormatError, match=r"a\.npy is compressed by method 12; expected deflate"):
        tensor_files.read(tmp_path / "b.npz")


def test_pickles_inside_of_pickles_share_the_number_of_operations(tmp_path):
    data = legacy(raw(list(range(500))), {})
    part = binary(data) + b"q\xc80"
    operations = b"](" + part + call("torch.storage._load_from_bytes", b"h\xc8") * 4 + b"e"
    path = write_pickle(tmp_path / "a.pkl", operations)
    assert len(tensor_files.read(path, limits=Limits(values=3000))) == 4
    with pytest.raises(FormatError, match="more than 1500 pickle operations"):
        tensor_files.read(path, limits=Limits(values=1500))


def test_integer_keys_that_could_share_their_hash_are_refused(tmp_path):
    for operations in [
        b"}" + raw(MODULUS) + b"Ns",
        b"}" + raw((1, -MODULUS)) + b"Ns",
        b"\x8f(" + raw(MODULUS) + b"\x90",
        b"(" + raw(MODULUS) + b"\x91",
        call("builtins.set", raw([MODULUS])),
        call("collections.OrderedDict", raw([[MODULUS, 1]])),
    ]:
        with pytest.raises(
            FormatError, match=f"uses -?{MODULUS} as a dictionary key; at most 60 bits"
        ):
            tensor_files.read(write_pickle(tmp_path / "a.pkl", operations))


def test_long_texts_as_keys_are_refused(tmp_path):
    for text in ("k" * 70_000, b"k" * 70_000):
        operations = b"}" + pickle.dumps(text, 3)[2:-1] + b"Ns"
        with pytest.raises(FormatError, match="uses 70000 characters as a dictionary key; at most"):
            tensor_files.read(write_pickle(tmp_path / "a.pkl", operations))


def test_what_would_stall_or_crash_the_interpreter_in_c(tmp_path, monkeypatch):
    nested = b"K\x00" + b"\x85" * 200_000  # hashed, it overflows the stack
    shared = b"K\x00\x85" + b"2\x86" * 60  # hashed, it takes 2**60 steps
    for key in (nested, shared):
        with pytest.raises(FormatError, match=r"uses a tuple as \(part of\) a dictionary key"):
            tensor_files.read(write_pickle(tmp_path / "a.pkl", b"}" + key + b"Ns"))
    far = b"Nr" + (2**32 - 1).to_bytes(4, "little")  # a memo of 64 GB there
    assert tensor_files.read(write_pickle(tmp_path / "b.pkl", far)) is None
    registered = {"_extension_cache": {7: os.system}, "_inverted_registry": {7: ("os", "system")}}
    for name, value in registered.items():
        monkeypatch.setattr(copyreg, name, value)
    with pytest.raises(FormatError, match="the pickle operation EXT1, which is not supported"):
        tensor_files.read(write_pickle(tmp_path / "c.pkl", b"\x82\x07" + raw("echo") + b"\x85R"))
    for operation, message in [
        (b"\x97", "NEXT_BUFFER, which is not supported"),
        (b"Pa\n", "PERSID, which is not supported"),
        (b"\x96" + (2**40).to_bytes(8, "little") + b"abc", "damaged pickle"),
        (b"\xee", "number 238, which is not supported"),
    ]:
        with pytest.raises(FormatError, match=message):
            tensor_files.read(write_pickle(tmp_path / "d.pkl", operation))


def test_tuples_as_keys_are_limited(tmp_path, monkeypatch):
    pairs = b"}(" + b"".join(raw((i, i)) + b"N" for i in range(10)) + b"u"
    path = write_pickle(tmp_path / "a.pkl", pairs)
    assert len(tensor_files.read(path)) == 10
    monkeypatch.setattr(pickles, "_MOST_TUPLE_KEYS", 5)
    with pytest.raises(FormatError, match="more than 5 tuples as dictionary keys"):
        tensor_files.read(path)
    path = write_pickle(tmp_path / "b.pkl", b"}" + raw((1,) * 33) + b"Ns")
    with pytest.raises(FormatError, match="a tuple of 33 parts as a dictionary key"):
        tensor_files.read(path)
