"""What plots of a sweep show, read from the drawn figures."""

import statistics
import subprocess
import sys

import numpy as np
import pytest
from configured import scored_row

from lsh_gan.results import plots

METHODS = ("none", "mse", "percentile", "std", "kl", "aciq", "minmax", "laplace")


def row(*setting, score=0.5, **fields):
    """A row of one metric; precision is the score, recall is half of it."""
    scores = {"lsh_precision": score, "lsh_recall": score / 2}
    shown = {"m": 200, "features": {"name": "net", "side": 64}}
    return scored_row(*setting, **scores, **shown | fields)


def sweep_of(num_settings):
    """Full precision and two widths of each setting."""
    grids = ("per_channel", "per_tensor")
    settings = [(method, grid) for grid in grids for method in METHODS][:num_settings]
    return [row(), *(row(bits, *setting) for setting in settings for bits in (4, 2))]


def names_of(figure):
    """The texts of the legend of a figure."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def draw(kind, measured):
    """The figure of a kind, laid out."""
    figure = plots.plot(kind, measured, ["lsh"])
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("kind", ["precision_recall", "tradeoff", "size_recall"])
def test_every_setting_looks_different(kind):
    figure = draw(kind, sweep_of(16))
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(lines) == (32 if kind == "precision_recall" else 16)
    assert len(set(names_of(figure))) >= 16


@pytest.mark.parametrize("kind", ["precision_recall", "tradeoff", "size_recall"])
def test_a_long_legend_leaves_the_axes_their_height(kind):
    heights = []
    for count in (1, 16):
        figure = draw(kind, sweep_of(count))
        heights.append(figure.axes[0].get_window_extent().height / figure.dpi)
    assert heights[1] > 0.9 * heights[0] > 1.5


def test_axes_are_named_and_one_seed_has_no_bars():
    figure = draw("precision_recall", sweep_of(2))
    assert figure.axes[0].get_ylabel() == "precision, recall"
    assert not figure.axes[0].collections
    assert names_of(figure) == ["precision", "recall", "no clipping", "mse clipping"]


def test_precision_and_recall_of_one_width_look_different():
    figure = draw("precision_recall", [row()])
    precision, recall = (container.lines[0] for container in figure.axes[0].containers)
    assert (precision.get_fillstyle(), recall.get_fillstyle()) == ("full", "none")
    looks = [line.get_fillstyle() for line in figure.legends[0].get_lines()]
    assert looks == ["full", "none", "full"]


def test_titles_of_long_names_end_lines_between_words_and_do_not_meet():
    measured = [row() | {"generator": "stylegan2_celebahq_256x256_config_f_100k_images"}]
    figure = plots.plot("tradeoff", measured, ["lsh", "lsh"])
    figure.draw_without_rendering()
    lines = ["stylegan2_celebahq_256x256_", "config_f_100k_images: LSH"]
    assert figure.axes[0].get_title().split("\n") == lines
    left, right = (axis.title.get_window_extent() for axis in figure.axes)
    assert left.x1 < right.x0


def test_packed_files_are_not_called_full_precision():
    packed = row(packed=True) | {"generator": "small"}
    assert names_of(draw("tradeoff", [packed])) == ["packed"]
    assert names_of(draw("tradeoff", [row(), packed])) == ["full precision", "packed"]


def test_bars_are_the_standard_errors_of_the_table():
    scores = (0.3, 0.4, 0.8)
    measured = [row(bits, seed=i, score=s) for bits in (None, 4) for i, s in enumerate(scores)]
    figure = draw("precision_recall", measured)
    precision, _ = figure.axes[0].containers
    (bars,) = precision.lines[2]
    heights = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    assert heights == pytest.approx([2 * statistics.stdev(scores) / 3**0.5] * 2)
    title = figure.legends[0].get_title().get_text()
    conditions = "n = 300, m = 200, features: net at 64 px;"
    bars = "means of 3 seeds, bars: their standard error"
    assert " ".join(title.split()) == f"{conditions} {bars}"


def test_bars_of_one_seed_are_the_standard_error_of_the_score():
    measured = [row(bits, lsh_recall_stderr=0.02) for bits in (None, 4)]
    _, recall = draw("precision_recall", measured).axes[0].containers
    heights = [s[1, 1] - s[0, 1] for s in recall.lines[2][0].get_segments()]
    assert heights == pytest.approx([0.04] * 2)


@pytest.mark.parametrize("kind", ["precision_recall", "tradeoff", "size_recall"])
def test_data_fill_the_axes(kind):
    measured = [row(score=0.5), row(4, score=0.48), row(2, score=0.47)]
    for axis in draw(kind, [r | {"lsh_precision_ceiling": None} for r in measured]).axes:
        y = np.concatenate([line.get_ydata() for line in axis.lines])
        assert np.ptp(y) > 0.7 * np.ptp(axis.get_ylim())


@pytest.mark.parametrize("stderr", [0.0008, 0.9])
def test_axes_of_a_collapse_are_those_of_shares(stderr):
    collapsed = {"lsh_recall": 0.0, "lsh_precision_stderr": stderr, "lsh_recall_stderr": 0.0008}
    measured = [row(bits, score=1.0) | collapsed for bits in (None, 4)]
    (axis,) = draw("tradeoff", measured).axes
    for low, high in (axis.get_xlim(), axis.get_ylim()):
        assert low >= -0.1
        assert high <= 1.1
        assert high - low >= 0.01


def test_the_backend_of_a_notebook_stays():
    code = (
        "import sys, matplotlib as mpl; mpl.use('svg'); from lsh_gan.results import report; "
        "assert mpl.get_backend() == 'svg' and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["tradeoff", "size_recall"])
def test_labels_of_widths_lie_on_no_line_and_on_no_other_label(kind):
    scores = {None: 0.8, 8: 0.79, 7: 0.78, 6: 0.81, 5: 0.7, 4: 0.6, 3: 0.4, 2: 0.1}
    measured = [
        row(bits, clipping, score=score * factor)
        for clipping, factor in (("none", 1.0), ("mse", 0.9), ("kl", 0.93))
        for bits, score in scores.items()
        if bits or clipping == "none"
    ]
    figure = draw(kind, measured)
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    lines = [line for line in axis.lines if len(line.get_xdata()) > 2]
    assert {text.get_text() for text in axis.texts} >= {"full", "2"}
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        for line in lines:
            path = axis.transData.transform_path(line.get_path())
            assert not path.intersects_bbox(box, filled=False)
