"""Tables of rows, and what a report says of work folders that lack something."""

import math
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from children import draw_nothing
from configured import scored_row
from PIL import Image

from lsh_gan.results import plots, report, store, strips

METRICS = ("knn", "lsh_knn", "lsh")


def row(name="known", bits=None, seed=0, **fields):
    """A row of one metric."""
    own = {
        "row_hash": f"{name}{bits}{seed}", "generator": name, "bytes": 1_000, "ratio": 4.0,
        "reference_name": "photographs", "lsh_precision_ceiling": 0.75, "lsh_recall_ceiling": 0.625,
        "lsh_precision_stderr": 0.005, "lsh_recall_stderr": 0.02,
    }  # fmt: skip
    return scored_row(bits, seed=seed) | own | fields


def samples(**fields):
    """A row of given samples."""
    found = row("given", samples="hash", **fields)
    return {k: v for k, v in found.items() if k not in ("bytes", "ratio", "tensors")}


def table_of(measured, metrics):
    """The cells of the table of rows, a line a list, the header first, and its caption."""
    lines = report.summarise(measured, metrics)
    table = report.make_table(lines, metrics, "conditions")
    columns = [[column.header, *column.cells] for column in table.columns]
    return [list(line) for line in zip(*columns, strict=True)], table.caption


def test_what_is_the_same_in_all_rows_stands_below():
    lines, caption = table_of([row(), row(bits=4), samples()], ["lsh"])
    assert lines == [
        ["name", "bits", "kB", "×", "LSH"],
        ["ceiling", "", "", "", "75.0/62.5"],
        ["known", "full", "1.0", "4.0", "50.0±.5/25±2"],
        ["known", "4", "1.0", "4.0", "50.0±.5/25±2"],
        ["ceiling", "", "", "", "75.0/62.5"],
        ["given", "–", "", "", "50.0±.5/25±2"],
    ]
    assert caption == "conditions; clipping mse; grid per_channel, symmetric"


def test_distances_alone_have_no_ceiling():
    fields = {"kid_distance": 0.01234, "kid_distance_stderr": 0.00123, "fid_distance": 12.5}
    # Of two seeds: their mean, and its standard error.
    other = row(bits=4, **fields | {"seed": 1, "kid_distance": 0.01634, "fid_distance": 13.5})
    measured = [row(**fields), row(bits=4, **fields), other]
    lines = report.summarise(measured, ["kid", "fid"])
    table = report.make_table(lines, ["kid", "fid"], "conditions")
    assert list(table.columns[0].cells) == ["known", "known"]
    assert list(table.columns[-2].cells) == ["0.01234±0.0012", "0.01434±0.002"]
    assert list(table.columns[-1].cells) == ["12.5", "13±0.5"]
    assert table.title is None


def test_crowding_is_the_mean_over_seeds():
    measured = [row(seed=seed, lsh_crowding=x) for seed, x in enumerate((0.9, 0.4, 0.5))]
    assert report.summarise(measured, ["lsh"])["lsh_crowding"].tolist() == pytest.approx([0.6])


def test_what_differs_is_a_column():
    other = row(bits=4, m=100, clipping="none", scheme="affine")
    lines, caption = table_of([row(), row(bits=4), other], ["lsh"])
    assert lines[0] == ["name", "bits", "clip", "grid", "kB", "×", "m", "LSH"]
    assert lines[4][1:4] == ["4", "none", "per_channel, affine"]
    assert [line[6] for line in lines[2:]] == ["300", "300", "100"]
    assert caption == "conditions"


def test_tables_of_three_metrics_are_readable_at_80_columns(work, capsys, monkeypatch):
    def scored(name, bits, clipping="mse"):
        scores = {
            f"{metric}_{score}{suffix}": value
            for metric in METRICS
            for score in ("precision", "recall")
            for suffix, value in (("", 0.8341), ("_stderr", 0.0093), ("_ceiling", 0.8))
        }
        found = row(name, bits, bytes=123_456_789, ratio=15.52, clipping=bits and clipping)
        return found | scores | {"row_hash": f"{name}{bits}{clipping}"}

    cases = [(bits, clipping) for bits in (16, 4) for clipping in ("none", "mse")]
    measured = [scored(n, *c) for n in ("dcgan", "sngan") for c in ((None,), *cases)]
    folder = work(measured, metrics=METRICS)
    for found in measured:
        hits = np.arange(300) < 200
        names = [f"{m}_{s}_hits" for m in METRICS for s in ("precision", "recall")]
        store.write_hits(folder, found["row_hash"], dict.fromkeys(names, hits))
    draw_nothing(monkeypatch.setattr)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    frame = report.write(folder)
    shown = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, shown)) <= 80
    line = ["sngan", "4", "none", "123", "15.5", *["83.4±.9≈/83.4±.9≈"] * 3]
    assert line in [text.split() for text in shown]
    conditions = "n = 300, m = 300, reference: photographs, features: net"
    for text in (conditions, "seed 0", "≈ within noise of"):
        assert text in " ".join(shown)
    read = pd.read_csv(folder / "table.csv")
    assert list(read.columns) == list(frame.columns)
    assert read["knn_recall_kept"].tolist() == [1.0] * 10
    assert read["knn_recall_relative"][0] == pytest.approx(0.8341 / 0.8)
    assert read["bits"].tolist()[:3] == pytest.approx([math.nan, 16, 16], nan_ok=True)


@pytest.fixture
def work(tmp_path):
    """Makes a work folder of rows; more may have been requested, by their hashes."""

    def make(measured, *more, metrics=("lsh",)):
        store.write_config(tmp_path, {"metrics": metrics})
        for found in measured:
            store.append(tmp_path, found)
        hashes = [found["row_hash"] for found in measured]
        store.set_requested(tmp_path, {key: {} for key in [*hashes, *more]})
        return tmp_path

    return make


def test_an_interrupted_run_says_how_far_it_came(work, capsys, monkeypatch):
    draw_nothing(monkeypatch.setattr)
    measured = [row(), row(bits=4)]
    folder = work(measured, "another", "a third")
    report.main([str(folder)])
    assert "; 2 of 4 measurements" in capsys.readouterr().out
    assert "; 2 of 4 measurements" in (folder / "table.md").read_text()
    store.set_requested(folder, {found["row_hash"]: {} for found in measured})
    report.main([str(folder)])
    assert "measurements" not in capsys.readouterr().out


def test_the_name_of_a_column_of_strips_is_not_cut(tmp_path):
    images = np.zeros((10, 8, 8, 1), np.uint8)
    strips.save(tmp_path / "samples" / f"{row()['row_hash']}.png", [images])
    with mpl.rc_context(plots.STYLE):
        figure = strips.plot(tmp_path / "samples", [row(reference_name="a longer name " * 4)])
        figure.draw_without_rendering()
    assert figure.axes[0].title.get_window_extent().y1 <= figure.bbox.y1


def test_strips_are_shown_and_the_work_folder_stays_alone_where_another_is_named(
    work, tmp_path_factory
):
    measured = [row(), row(bits=4)]
    folder = work(measured)
    report.main([str(folder)])
    assert (folder / "tradeoff.png").exists()
    assert not list(folder.glob("samples_*.png"))
    (folder / "samples").mkdir()
    strip = Image.fromarray(np.zeros((8, 800), np.uint8))  # of 100 images
    strip.save(folder / "samples" / f"{measured[1]['row_hash']}.png")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    output = tmp_path_factory.mktemp("output") / "a" / "b"
    report.main([str(folder), str(output)])
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    written = {file.name for file in output.iterdir()}
    assert {"table.md", "table.csv", "tradeoff.png", "samples_known.png"} <= written
    with Image.open(output / "samples_known.png") as image:
        assert image.width > 100 * image.info["dpi"][0] / 4


def test_a_sweep_leaves_no_pictures_of_an_earlier_report(work):
    folder = work([row()])
    stale = [
        folder / name for name in ("layers_x.png", "outside.png", "samples_x.png", "search.md")
    ]
    for file in (*stale, folder / "mine.png"):
        file.touch()
    report.main([str(folder)])
    assert [file.name for file in (*stale, folder / "mine.png") if file.exists()] == ["mine.png"]


def test_layers_stand_below_what_their_drops_are_taken_from(work, capsys):
    tensor = {
        "path": "params/a/kernel", "shape": [3, 4], "bits": 4, "clipping": "mse", "alpha": 0.5,
        "share_clipped": 0.01, "sqnr_db": 20.0, "bytes": 6,
    }  # fmt: skip
    layer = row(bits=4, layer="params/a/kernel", tensors=[tensor], lsh_recall=0.125)
    measured = [row(), layer, samples()]
    folder = work(measured)
    report.main([str(folder)])
    shown = (capsys.readouterr().out, (folder / "layers.md").read_text())
    for text in shown:
        lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
        ceiling = lines.index("ceiling 75.0/62.5")
        assert lines[ceiling + 1] == "known full 1.0 4.0 50.0±.5/25±2"
        assert "given – 50.0±.5/25±2" in lines
        drop = next(line for line in lines if "params/a/kernel" in line)
        assert drop.endswith("+0.000 / +0.125")
    assert "features: net; seed 0\n\none layer compressed, " in shown[1]


def test_sizes_of_uncompressed_generators_are_no_curve(work):
    measured = [row(), row("other")]
    folder = work(measured)
    report.main([str(folder)])
    assert (folder / "tradeoff.png").exists()
    assert not (folder / "size_recall.png").exists()
