"""Tables as people and other programs read them."""

import io
import os

import pandas as pd
import pytest
from rich.table import Table

from lsh_gan.results.labels import (
    disambiguate,
    make_rich,
    percent,
    print_and_save,
    print_table,
    say,
    width_label,
)


def test_a_row_of_markdown_is_one_line(tmp_path, capsys):
    table = Table("setting", "scores", title="a title", caption="a caption")
    table.add_row("best uniform width that keeps the share " * 5, "0.744/0.460")
    table.add_row("full", "1.000/1.000")
    print_and_save(tmp_path / "table.md", table)
    head, *lines, foot = (tmp_path / "table.md").read_text().split("\n\n")
    assert (head, foot) == ("a title", "a caption\n")  # the title says the units
    lines = lines[0].splitlines()
    assert len(lines) == 4  # head, rule, two rows
    assert all(line.startswith("|") and line.count("|") == 3 for line in lines)
    assert "a title" in capsys.readouterr().out


def test_a_narrow_terminal_breaks_no_word_and_hides_no_number(capsys, monkeypatch):
    line = {"generator": "dcgan", "grid": "per_channel, symmetric", "scores": "0.744 / 0.460"}
    table = make_rich(pd.DataFrame([line]), text=2)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    print_table(table)
    shown = capsys.readouterr().out
    for text in ("generator", "dcgan", "per_channel,", "symmetric", "0.744 / 0.460"):
        assert text in shown
    assert "per_channel, symmetric" not in shown  # lines are broken where they can be


def test_a_table_that_goes_to_a_file_has_one_line_a_row(tmp_path, capsys):
    table = Table(*(f"column {i}" for i in range(9)))
    table.add_row(*("per_channel, symmetric" for _ in range(9)))
    print_and_save(tmp_path / "table.md", table)
    assert capsys.readouterr().out.count("per_channel, symmetric") == 9


def test_brackets_and_colons_are_part_of_a_name(capsys):
    names = ["model[ema]", "[bold]", "a[/b]", ":warning:"]
    cells = pd.DataFrame({"generator": names, "bits": ["4"] * len(names)})
    print_table(make_rich(cells, text=1, title="[a title]"))
    shown = capsys.readouterr().out
    assert [name for name in [*names, "[a title]"] if name not in shown] == []


def test_what_standard_output_cannot_take_is_lost_and_nothing_else(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        table = Table("scores")
        table.add_row("74.4±.6")
        print_and_save(tmp_path / "table.md", table)
    assert "74.4±.6" in (tmp_path / "table.md").read_text("utf-8")
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    say("±1")
    assert out.buffer.getvalue() == b"?1\n"


@pytest.mark.parametrize(
    ("names", "paths", "expected"),
    [
        (["dcgan", "sngan"], ["a/x", "b/x"], ["dcgan", "sngan"]),
        (["dcgan", "dcgan", "sngan"], ["dcgan", "p.packed", "x"], ["dcgan", "p.packed", "sngan"]),
        (["fake", "fake"], ["fake.npy", "b/fake.npy"], ["fake.npy", "b_fake.npy"]),
        (["f", "f", "f"], ["/a/c/f", "/b/c/f", "/b/d/f"], ["a_c_f", "b_c_f", "b_d_f"]),
    ],
)
def test_equal_names_are_told_apart_by_their_paths(names, paths, expected):
    assert disambiguate(names, paths) == expected


def test_paths_that_tell_nothing_apart_are_refused():
    with pytest.raises(ValueError, match="names of a/f, /a/f clash"):
        disambiguate(["f", "f"], ["a/f", "/a/f"])


def test_digits_are_those_that_the_error_leaves():
    texts = [
        percent(0.7441, error) for error in (0.0004, 0.0094, 0.0096, 0.034, None, float("nan"))
    ]
    assert texts == ["74.4±.0", "74.4±.9", "74.4±1", "74±3", "74.4", "74.4"]
    assert [percent(None), percent(1.0, 0.0), percent(0.0, 0.001)] == ["–", "100.0±.0", "0.0±.1"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bits": 4}, "4"),
        ({"bits": None}, "full"),
        ({"bits": None, "packed": True}, "packed"),
        ({"bits": None, "samples": "hash"}, "–"),
    ],
)
def test_widths_are_called_what_they_are(fields, expected):
    assert width_label(fields) == expected
