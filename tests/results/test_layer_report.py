"""Damage of single layers from rows, and the files of a sweep over layers."""

import csv

import jax
import numpy as np
import pytest
from configured import scored_row
from rich.table import Table
from tiny_generators import TINY

from lsh_gan import generators
from lsh_gan.compression.rules import join, path_of
from lsh_gan.generators.generator import network_order
from lsh_gan.results import layer_report


def row(bits, layer=None, seed=0, precision=0.8, recall=0.6, sqnr=20.0, granularity="per_channel"):
    scores = {"lsh_precision": precision, "lsh_recall": recall, "family": "function"}
    found = scored_row(bits, granularity=granularity, seed=seed, **scores)
    if layer:
        tensor = {
            "path": layer, "shape": [3, 4], "bits": bits, "clipping": "mse", "alpha": 0.5,
            "share_clipped": 0.01, "sqnr_db": sqnr, "bytes": 6,
        }  # fmt: skip
        found |= {"row_hash": f"{bits}{layer}{seed}", "layer": layer, "tensors": [tensor]}
    return found


ROWS = [
    row(None),
    row(None, seed=1, precision=0.7),
    row(4, "params/a/kernel", recall=0.5),
    row(4, "params/a/kernel", seed=1, precision=0.5, recall=0.6),
    row(2, "params/b/kernel", precision=0.9, sqnr=None),
]


def test_drops_are_means_over_seeds_against_full_precision_of_the_same_seed():
    found = layer_report.layer_sensitivity(ROWS, ["lsh"])
    assert list(found["layer"]) == ["params/a/kernel", "params/b/kernel"]
    assert list(found["setting"]) == ["4 bits, mse clipping", "2 bits, mse clipping"]
    assert list(found["lsh_precision"]) == pytest.approx([(0.0 + 0.2) / 2, -0.1])
    assert found["lsh_recall"][0] == pytest.approx((0.1 + 0.0) / 2)


def test_drops_have_paired_standard_errors(tmp_path, capsys):
    before, after = np.arange(300) < 240, np.arange(300) < 270
    rows = [
        row | {"hits": dict.fromkeys(("lsh_precision_hits", "lsh_recall_hits"), found)}
        for row, found in ((ROWS[0], before), (ROWS[4], after))
    ]
    layer_report.write(tmp_path, rows, ["lsh"], Table("generator"))
    error = np.std(after * 1.0 - before, ddof=1) / 300**0.5
    assert f" -0.100±{error:.3f} / +0.000±".replace("±0", "±") in capsys.readouterr().out


def test_the_worst_layer_is_that_of_the_narrowest_width():
    rows = [row(None)]
    for bits, (a, b) in ((8, (0.79, 0.8)), (3, (0.7, 0.5))):  # at 8 bits noise decides
        rows += [row(bits, f"params/{x}/kernel", precision=p) for x, p in (("a", a), ("b", b))]
    said = layer_report.worst_layer("g", layer_report.layer_sensitivity(rows, ["lsh"]), "lsh")
    assert said.startswith("g: params/b/kernel suffers most: 3 bits, ")


def test_the_worst_layer_may_be_within_noise():
    hits = np.arange(300) < 240
    for lost, noise in ((2, True), (60, False)):
        after = hits & (np.arange(300) >= lost)
        rows = [row(None), row(4, "params/a/kernel", precision=after.mean())]
        rows = [
            each | {"n": 300, "hits": {"lsh_precision_hits": x, "lsh_recall_hits": hits}}
            for each, x in zip(rows, (hits, after), strict=True)
        ]
        found = layer_report.layer_sensitivity(rows, ["lsh"])
        said = layer_report.worst_layer("g", found, "lsh")
        assert said.endswith("by LSH, within noise." if noise else "by LSH.")


def test_grids_are_kept_apart():
    rows = [
        row(None, precision=0.9),
        row(4, "params/a/kernel", precision=0.8),
        row(4, "params/a/kernel", precision=0.2, sqnr=9.0, granularity="per_tensor"),
    ]
    found = layer_report.layer_sensitivity(rows, ["lsh"])
    assert list(found["grid"]) == ["per_channel, symmetric", "per_tensor, symmetric"]
    assert found["setting"][0] == "4 bits, mse clipping, per_channel symmetric"
    assert list(found["lsh_precision"]) == pytest.approx([0.1, 0.7])
    assert list(found["sqnr_db"]) == [20.0, 9.0]


def test_table_plot_and_tensors(tmp_path, capsys):
    layer_report.write(tmp_path, ROWS, ["lsh"], Table("generator"))
    printed = capsys.readouterr().out
    for text in ("params/a/kernel", "+0.100 / +0.050", "-0.100 / +0.000", "3×4", "20.0"):
        assert text in printed
        assert text in (tmp_path / "layers.md").read_text()
    assert (tmp_path / "layers_known.png").stat().st_size > 5_000
    layer_report.write_csv(tmp_path / "tensors.csv", ROWS)
    with (tmp_path / "tensors.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["path"] for line in lines] == ["params/a/kernel"] * 2 + ["params/b/kernel"]
    assert lines[0]["sqnr_db"] == "20.0"


DCGAN = {"family": "dcgan", "options": {"latent_size": 4, "channels": [8, 4, 2]}}


def test_layers_are_in_the_order_of_the_network():
    layers = [f"params/{name}/kernel" for name in ("project", "to_image", "up_0", "up_1")]
    measured = [row(None), *(row(bits, layer) | DCGAN for layer in layers for bits in (4, 2))]
    found = layer_report.layer_sensitivity(measured, ["lsh"])
    names = [layer.split("/")[1] for layer in found["layer"]]
    assert names[::2] == names[1::2] == ["project", "up_0", "up_1", "to_image"]
    assert list(found["bits"]) == ["4", "2"] * 4


@pytest.mark.parametrize("family", TINY)
def test_every_parameter_has_its_place_in_the_network(family):
    order = network_order(generators.build(family, TINY[family]))
    leaves = jax.tree_util.tree_leaves_with_path(
        generators.abstract("x", family, TINY[family]).params
    )
    assert sorted(order) == sorted(join(path_of(keys)) for keys, _ in leaves)
    last = {"sequential": "conv_transpose_4", "mixer_diffusion": "conv_out"}.get(family, "to_image")
    assert last in [path for path in order if path.startswith("params/")][-1]


def test_bars_of_one_length_are_drops_of_one_size():
    measured = [row(None), row(4, "params/a/kernel", precision=0.1, recall=0.55)]
    figure = layer_report.plot(layer_report.layer_sensitivity(measured, ["lsh"]), "lsh")
    _, precision, recall = figure.axes
    assert precision.get_xlim() == recall.get_xlim()
    assert precision.get_xlim()[1] > 0.7
