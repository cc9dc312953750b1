"""Tables of rows, and what a report says of work folders that lack something."""

import io

from rich.console import Console

from lsh_gan import report


def row(name="known", bits=None, seed=0, **fields):
    """A row of one metric."""
    return {
        "row_hash": f"{name}{bits}{seed}", "generator": name, "bits": bits, "seed": seed,
        "clipping": bits and "mse", "granularity": bits and "per_channel",
        "scheme": bits and "symmetric", "n": 300, "m": 300, "seconds": {}, "bytes": 1_000,
        "ratio": 4.0, "features": {"name": "net"}, "reference_name": "photographs",
        "lsh_precision": 0.5, "lsh_recall": 0.25, "lsh_precision_ceiling": 0.75,
        "lsh_recall_ceiling": 0.625, "tensors": [], **fields,
    }  # fmt: skip


def samples(**fields):
    """A row of given samples."""
    found = row("given", samples="hash", **fields)
    return {k: v for k, v in found.items() if k not in ("bytes", "ratio", "tensors")}


def printed(table):
    """The lines of a table, with single blanks."""
    console = Console(file=io.StringIO(), width=300)
    console.print(table)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_m_is_in_the_title_where_it_is_the_same():
    lines = printed(report.make_table([row(), row(bits=4), samples()], ["lsh"]))
    assert lines[0] == "precision / recall, n = 300, m = 300, net"
    assert "generator bits clipping grid bytes ratio LSH" in lines


def test_m_is_a_column_where_it_differs():
    lines = printed(report.make_table([row(m=5_000), samples(m=100)], ["lsh"]))
    assert lines[0] == "precision / recall, n = 300, net"
    assert "generator bits clipping grid bytes ratio m LSH" in lines
    assert "known full 1,000 4.0 5,000 0.500 / 0.250" in lines
    assert "given – 100 0.500 / 0.250" in lines
