"""What saving and loading refuse: other kinds and sources, damaged and crafted files."""

import logging
import re
import tokenize
import zipfile

import numpy as np
import pytest
from draws import draw
from sketches import KEY, SPEC, check_equal

from lsh_gan import cache
from lsh_gan.metrics import (
    HashSpec,
    build,
    fit_hash,
    knn_fit,
    knn_score,
    load,
    lsh_fit,
    save,
    storage,
)


def test_save_refuses_other_things(tmp_path):
    with pytest.raises(TypeError, match="Cannot save a ndarray; expected Sketch, LshRef"):
        save(tmp_path / "x", draw(5, 5))
    assert not list(tmp_path.iterdir())


def test_keep_features_is_a_flag(tmp_path):
    with pytest.raises(TypeError, match="keep_features = 'no'"):
        save(tmp_path / "r", knn_fit(draw(60, 6)), keep_features="no")


def test_other_source_is_refused_whatever_the_name(tmp_path, hasher):
    path = tmp_path / "preprocessing 2"
    save(path, build(hasher, draw(50, 6)))
    with pytest.raises(ValueError, match=r"preprocessing 2: fitted on .*'a network, preproc") as e:
        load(path, source="a network, preprocessing 2")
    assert "not of 'a network, preprocessing 2'" in str(e.value)


def test_other_version_is_refused(tmp_path, hasher, monkeypatch):
    path = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "VERSION", storage.VERSION + 1)
        save(path, build(hasher, draw(50, 6)))
    with pytest.raises(ValueError, match=rf"s: version {storage.VERSION + 1}; this code reads"):
        load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.here: no such file"):
        load(tmp_path / "nothing.here")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive", b"\x93NUMPY\x01\x00"])
def test_files_of_another_kind(tmp_path, content):
    path = tmp_path / "odd.sketch"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.sketch: not a readable") as e:
        load(path)
    assert "pickle" not in str(e.value)  # NumPy's advice is to run what is no array


def test_archives_and_arrays_of_others(tmp_path):
    np.savez(tmp_path / "odd.npz", features=draw(5, 5))
    np.save(tmp_path / "odd.npy", draw(5, 5))
    np.savez(tmp_path / "object.npz", header=np.array([{}], object))  # would need a pickle
    for name in ("odd.npz", "odd.npy", "object.npz"):
        with pytest.raises(ValueError, match=f"{name}: not a readable"):
            load(tmp_path / name)


@pytest.fixture(scope="module")
def file(hasher, tmp_path_factory):
    path = tmp_path_factory.mktemp("sketch") / "whole"
    save(path, build(hasher, draw(30, 6)))
    return path


def test_truncated_files(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "cut.sketch"
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.sketch: "):
            load(path)


def test_flipped_bytes(file, tmp_path):
    """Each damaged file is refused by name, or was damaged where it does not matter (a date)."""
    whole, path, sketch = file.read_bytes(), tmp_path / "flipped.sketch", load(file)
    refused = harmless = tried = 0
    for place in range(0, len(whole), 11):
        for bits in (0x01, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= bits
            path.write_bytes(damaged)
            try:
                read = load(path)
            except ValueError as error:
                refused += "flipped.sketch: " in str(error)
            else:
                check_equal(read, sketch)
                harmless += 1
            tried += 1
    assert refused > 100
    assert refused + harmless == tried


def test_flipped_bytes_of_array_headers(tmp_path):
    """Of members so large that their headers are read before their checksums are."""
    path, r = tmp_path / "large.knn", draw(1000, 8)
    save(path, knn_fit(r))
    whole, kinds = path.read_bytes(), set()
    places = [m.start() for m in re.finditer(rb"\x93NUMPY", whole)]
    assert len(places) == 5
    for place in (p + offset for p in places for offset in range(0, 128)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x20
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"large\.knn: ") as e:
            load(path)
        kinds.add(type(e.value.__cause__))
    assert tokenize.TokenError in kinds


def test_a_damaged_array_header_is_computed_again(tmp_path, caplog):
    path, r = tmp_path / "large.knn", draw(1000, 8)
    save(path, knn_fit(r))
    whole = path.read_bytes()
    closing = whole.index(b"(1000, 8)") + len("(1000, 8")
    path.write_bytes(whole[:closing] + b"\t" + whole[closing + 1 :])
    with caplog.at_level(logging.WARNING, "absl"):
        fitted = cache.kept(path, read=load, make=lambda: knn_fit(r), write=save)
    assert "large.knn: not a readable" in caplog.text
    assert "computed again" in caplog.text
    assert knn_score(load(path), r) == knn_score(fitted, r)


@pytest.mark.parametrize("shape", ["(99999999999999,)", "(1,", "(-5,)", "(2,'a')", "(1e9,)"])
def test_crafted_array_headers(tmp_path, shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(tmp_path / "x.sketch", "w") as archive:
        size = len(text).to_bytes(2, "little")
        archive.writestr("header.npy", b"\x93NUMPY\x01\x00" + size + text + b"abc")
    with pytest.raises(ValueError, match=r"x\.sketch: not a readable"):
        load(tmp_path / "x.sketch")


def without(parts, name):
    return {field: value for field, value in parts.items() if field != name}


def changed(name, change):
    return lambda arrays, header: ({**arrays, name: change(arrays[name])}, header)


def headed(**fields):
    return lambda arrays, header: (arrays, {**header, **fields})


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("sketch", lambda arrays, header: (arrays, without(header, "kind"))),
        ("sketch", headed(kind=["sketch"])),
        ("sketch", lambda arrays, header: (arrays, without(header, "spec"))),
        ("sketch", headed(spec={"tables": 3})),
        ("sketch", headed(rows=49)),
        ("sketch", headed(rows="many")),
        ("sketch", headed(scale=None)),
        ("sketch", lambda arrays, header: ({}, header)),
        ("sketch", lambda arrays, header: (without(arrays, "members"), header)),
        ("sketch", changed("occupied", lambda x: x + 10**9)),
        ("sketch", changed("occupied_counts", lambda x: -x)),
        ("sketch", changed("occupied_counts", lambda x: x[:-1])),
        ("sketch", changed("cells", lambda x: x[:, :-1])),
        ("sketch", changed("cells", lambda x: x.astype(np.int32) + 10**6)),
        ("sketch", changed("cells", lambda x: x.astype(np.int32) - 10**6)),
        ("sketch", changed("members", lambda x: x + 1000)),
        ("sketch", changed("digits", lambda x: x + 100)),
        ("sketch", changed("directions", lambda x: x[:, :-1])),
        ("listed", changed("keys", lambda x: x[:-1])),
        ("listed", changed("keys", np.zeros_like)),
        ("listed", changed("listed", lambda x: x[:-1])),
        ("listed", changed("listed", lambda x: x - 1)),
        ("lsh", changed("second_cells", lambda x: x.astype(np.int32) + 10**6)),
        ("lsh", headed(min_count=0)),
        ("lsh", headed(votes="half")),
        ("lsh", headed(ceiling="no")),
        ("knn", headed(size="large")),
        ("knn", headed(size=10**15)),
        ("knn", headed(k=100)),
        ("knn", headed(features="other")),
        ("knn", headed(ceiling=[1])),
        ("knn", changed("shift", lambda x: x[:-1])),
        ("knn", changed("nearest_rows", lambda x: x + 1000)),
        ("knn", changed("nearest_sq", lambda x: x[:-1])),
        ("knn", lambda arrays, header: (without(arrays, "nearest_sq"), header)),
    ],
)
def test_contents_that_do_not_fit_together(tmp_path, hasher, kind, edit):
    """Of files whose SHA-256 is right; KeyError, IndexError and the like would not name them."""
    r, path = draw(50, 6), tmp_path / "odd.file"
    fitted = {
        "sketch": lambda: build(hasher, r),
        "listed": lambda: build(fit_hash(KEY, r, HashSpec(num_bits=3, num_tables=3)), r),
        "lsh": lambda: lsh_fit(KEY, r, spec=SPEC, second_reference=r),
        "knn": lambda: knn_fit(r),
    }[kind]()
    save(path, fitted)
    load(path)
    arrays, header = storage.read(path)
    storage.write(path, *edit(arrays, without(header, "sha256")))
    with pytest.raises(ValueError, match=r"odd\.file: "):
        load(path)


def test_edited_contents(file, tmp_path):
    """A well-formed archive with another number in it."""
    path = tmp_path / "edited.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    arrays["occupied_counts"] = arrays["occupied_counts"] + 1
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="do not match their SHA-256; the file is damaged"):
        load(path)
