"""Tables as people and other programs read them."""

from rich.table import Table

from lsh_gan.labels import print_and_save


def test_a_row_of_markdown_is_one_line(tmp_path, capsys):
    table = Table("setting", "scores", title="a title")
    table.add_row("best uniform width that keeps the share " * 5, "0.744/0.460")
    table.add_row("full", "1.000/1.000")
    print_and_save(tmp_path / "table.md", table)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 4  # head, rule, two rows
    assert all(line.startswith("|") and line.count("|") == 3 for line in lines)
    assert "a title" in capsys.readouterr().out
