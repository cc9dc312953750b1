"""The work folder keeps what is finished and nothing else."""

import json

import pytest

from lsh_gan import rows


def test_rows_come_back_in_order(tmp_path):
    for i in range(3):
        rows.append(tmp_path, {"i": i})
    assert rows.read(tmp_path) == [{"i": 0}, {"i": 1}, {"i": 2}]


@pytest.mark.parametrize("length", range(1, 12))
def test_a_line_cut_by_a_kill_is_dropped_and_then_overwritten(tmp_path, length):
    rows.append(tmp_path, {"i": 0})
    whole = (tmp_path / "rows.jsonl").read_bytes()
    cut = json.dumps({"i": 1, "x": 2}).encode()[:length]
    (tmp_path / "rows.jsonl").write_bytes(whole + cut)
    assert rows.read(tmp_path) == [{"i": 0}]
    rows.append(tmp_path, {"i": 2})
    assert rows.read(tmp_path) == [{"i": 0}, {"i": 2}]


def test_damage_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"i": 0}\n{"i": \n{"i": 2}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: not JSON"):
        rows.read(tmp_path)


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        rows.append(tmp_path, {"precision": float("nan")})
    assert rows.read(tmp_path) == []


def test_folder_of_another_configuration(tmp_path):
    rows.open_workdir(tmp_path / "run", {"k": 3, "hash": {"bits": (4, 5)}})
    rows.open_workdir(tmp_path / "run", {"k": 3, "hash": {"bits": (4, 5)}})
    with pytest.raises(ValueError, match=r"hash\.bits is \[4, 5\] there and \[4\] here"):
        rows.open_workdir(tmp_path / "run", {"k": 3, "hash": {"bits": (4,)}})
    with pytest.raises(ValueError, match=r"k is 3 there and None here"):
        rows.open_workdir(tmp_path / "run", {"hash": {"bits": (4, 5)}})


def test_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file is a file; expected a folder"):
        rows.open_workdir(tmp_path / "file", {})


def test_hash_does_not_depend_on_the_order_of_keys():
    assert rows.hash_of({"a": 1, "b": [2]}) == rows.hash_of({"b": [2], "a": 1})
    assert rows.hash_of({"a": 1}) != rows.hash_of({"a": 2})
