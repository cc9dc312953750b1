"""The work folder keeps what is finished and nothing else."""

import errno
import json
from unittest import mock

import numpy as np
import pytest

from lsh_gan.results import report, store


def row(i, **fields):
    return {"row_hash": str(i), **fields}


def test_rows_come_back_in_order_and_those_measured_twice_count_once(tmp_path):
    for i, seconds in ((0, {"knn": 1.0}), (1, None), (0, {"knn": 2.0})):
        store.append(tmp_path, row(i, seconds=seconds))
    assert store.read(tmp_path) == [row(0, seconds={"knn": 1.0}), row(1, seconds=None)]


@pytest.mark.parametrize("length", [*range(1, 12), -1])
def test_a_line_cut_by_a_kill_is_dropped_and_then_overwritten(tmp_path, length):
    store.append(tmp_path, row(0))
    whole = (tmp_path / "rows.jsonl").read_bytes()
    cut = json.dumps(row(1)).encode()[:length]
    (tmp_path / "rows.jsonl").write_bytes(whole + cut)
    assert store.read(tmp_path) == [row(0)]
    store.append(tmp_path, row(2))
    assert store.read(tmp_path) == [row(0), row(2)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"i": ', "not JSON"),
        (b'{"i": "\xff"}', "not JSON .*can't decode byte 0xff"),
        (b"[1]", "holds a list; expected a row"),
        (b'{"a": 1}', "not a row of a run"),
    ],
)
def test_damage_in_the_middle_is_an_error(tmp_path, line, message):
    whole = json.dumps(row(0)).encode()
    (tmp_path / "rows.jsonl").write_bytes(whole + b"\n" + line + b"\n" + whole + b"\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: {message}"):
        store.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "config.json: holds a list; expected a configuration"),
        ('{"search": {"share": 0.9}}', "is the inside of a search; report "),
    ],
)
def test_a_report_of_damaged_files_is_one_line(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    store.append(tmp_path, row(0))
    with pytest.raises(SystemExit, match=rf"^error: .*{message}.*$"):
        report.main([str(tmp_path)])


def test_one_run_at_a_time(tmp_path):
    with (
        store.locked(tmp_path / "run"),
        pytest.raises(ValueError, match=r"run: another run is measuring there; wait"),
        store.locked(tmp_path / "run"),
    ):
        pass
    with store.locked(tmp_path / "run"):
        pass


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        store.append(tmp_path, {"precision": float("nan")})
    assert store.read(tmp_path) == []


def test_tables_show_what_the_last_run_requested_under_its_names(tmp_path):
    for i in range(3):
        store.append(tmp_path, row(i, generator="old"))
    assert store.read_requested(tmp_path) == store.read(tmp_path)
    store.set_requested(tmp_path, {"2": {"generator": "new"}, "1": {}, "later": {}})
    found = store.read_requested(tmp_path)
    assert [(r["row_hash"], r["generator"]) for r in found] == [("1", "old"), ("2", "new")]
    assert store.read_progress(tmp_path) == (2, 3)
    (tmp_path / "requested.json").write_text("{")
    with pytest.raises(ValueError, match=r"requested\.json: not JSON"):
        store.read_requested(tmp_path)


def test_hits_come_back_and_are_small(tmp_path):
    hits = {"knn_precision_hits": np.random.default_rng(0).random(10_000) < 0.7}
    store.write_hits(tmp_path, "a", hits)
    np.testing.assert_array_equal(
        store.read_hits(tmp_path, "a")["knn_precision_hits"], *hits.values()
    )
    assert (tmp_path / "hits" / "a.npz").stat().st_size < 2_500  # 10,000 without compression
    assert store.read_hits(tmp_path, "b") == {}


def test_a_folder_of_another_program_is_left_alone_and_one_to_read_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"its config\.json is not of a run"):
        store.check_workdir(tmp_path)
    store.write_config(tmp_path, {"metrics": ["knn"]})
    store.check_workdir(tmp_path)
    (tmp_path / "lock").mkdir()  # cannot be opened, as on a read-only disk
    read_only = OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr("tempfile.TemporaryFile", mock.Mock(side_effect=read_only))
    with pytest.raises(ValueError, match=r"cannot be written \(Read-only file system\)"):
        store.check_workdir(tmp_path)


def test_hash_does_not_depend_on_the_order_of_keys():
    assert store.hash_of({"a": 1, "b": [2]}) == store.hash_of({"b": [2], "a": 1})
    assert store.hash_of({"a": 1}) != store.hash_of({"a": 2})
