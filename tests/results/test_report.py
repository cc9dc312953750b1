"""Tables of rows, and what a report says of work folders that lack something."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lsh_gan.results import report, store


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


@pytest.fixture
def work(tmp_path):
    """Makes a work folder of some rows: function of (rows, hashes that were asked for)."""

    def make(measured, asked):
        (tmp_path / "config.json").write_text(json.dumps({"metrics": ["lsh"]}))
        for found in measured:
            store.append(tmp_path, found)
        store.ask(tmp_path, asked)
        return tmp_path

    return make


def test_an_interrupted_run_says_how_far_it_came(work, capsys):
    measured = [row(), row(bits=4)]
    folder = work(measured, [*(found["row_hash"] for found in measured), "another", "a third"])
    assert report.main([str(folder)]) == 0
    assert "reference: photographs; 2 of 4 measurements" in capsys.readouterr().out
    last = (folder / "table.md").read_text().splitlines()[-1]
    assert last == "reference: photographs; 2 of 4 measurements"
    store.ask(folder, [found["row_hash"] for found in measured])
    assert report.main([str(folder)]) == 0
    assert "measurements" not in capsys.readouterr().out


def test_without_strips_there_is_no_grid(work):
    measured = [row(), row(bits=4)]
    folder = work(measured, [found["row_hash"] for found in measured])
    assert report.main([str(folder)]) == 0
    assert (folder / "tradeoff.png").exists()
    assert not list(folder.glob("samples_*.png"))
    (folder / "samples").mkdir()
    strip = Image.fromarray(np.zeros((8, 32), np.uint8))
    strip.save(folder / "samples" / f"{measured[1]['row_hash']}.png")
    assert report.main([str(folder)]) == 0
    assert (folder / "samples_known.png").exists()


def test_layers_stand_below_what_their_drops_are_taken_from(work, capsys):
    tensor = {
        "path": "params/a/kernel", "shape": [3, 4], "bits": 4, "clipping": "mse", "alpha": 0.5,
        "share_clipped": 0.01, "sqnr_db": 20.0, "bytes": 6,
    }  # fmt: skip
    layer = row(bits=4, layer="params/a/kernel", tensors=[tensor], lsh_recall=0.125)
    measured = [row(), layer, samples()]
    folder = work(measured, [found["row_hash"] for found in measured])
    assert report.main([str(folder)]) == 0
    shown = (capsys.readouterr().out, (folder / "layers.md").read_text())
    for text in shown:
        lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
        ceiling = lines.index("ceiling 0.750 / 0.625")
        assert lines[ceiling + 1] == "known full 1,000 4.0 0.500 / 0.250"
        assert "given – 0.500 / 0.250" in lines
        drop = next(line for line in lines if "params/a/kernel" in line)
        assert drop.endswith("+0.000 / +0.125")
    assert "\n\nreference: photographs\n\n|" in shown[1]


def test_sizes_of_uncompressed_generators_are_no_curve(work):
    measured = [row(), row("other")]
    folder = work(measured, [found["row_hash"] for found in measured])
    assert report.main([str(folder)]) == 0
    assert (folder / "tradeoff.png").exists()
    assert not (folder / "size_recall.png").exists()
