"""Strips of images, one file per row of the table, and the pictures that show them together."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lsh_gan.results import plots
from lsh_gan.results.labels import shorten, unique
from lsh_gan.results.store import Row

# Folders of strips, and what their pictures show.
SAMPLES, OUTSIDE, UNCOVERED = "samples", "outside", "uncovered"
CAPTIONS = {
    SAMPLES: "the same latents at every width",
    OUTSIDE: "samples that left the manifold: at full precision (upper lines) and at the width "
    "(lower lines), first those on which most metrics agree; inside: number of samples on the "
    "manifold at full precision, − lost, + gained at the width",
    UNCOVERED: "reference images that are covered at full precision but not at the width, first "
    "those on which most metrics agree; covered: number at full precision, − lost, + gained at the "
    "width",
}


def save(file: Path, lines: list[np.ndarray], description: str = "") -> None:
    """Saves lines of images, each uint8 `[b, h, w, c]` of equal shapes, as one PNG.

    The folder is made if missing. The file holds the `description`, which says what images show.
    """
    pixels = np.concatenate([np.concatenate(list(line), axis=1) for line in lines])
    said = PngInfo()
    if description:
        said.add_itxt("Description", description)
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, pnginfo=said)


def write(workdir: Path, output: Path, measured: list[Row]) -> None:
    """Writes the pictures of the strips of a work folder to `output`, as PNG.

    `samples_NAME` shows the samples of one generator or given set; `outside` and `uncovered` show
    what each width lost.
    """
    pictures = {
        f"{SAMPLES}_{name}": (SAMPLES, [row for row in measured if row["generator"] == name])
        for name in unique(measured, "generator")
    }
    swept = [row for row in measured if "samples" not in row]
    pictures |= {kind: (kind, swept) for kind in (OUTSIDE, UNCOVERED) if swept}
    for name, (kind, rows) in pictures.items():
        figure = plot(workdir / kind, rows)
        if figure is not None:
            figure.savefig(output / f"{name}.png")


def plot(folder: Path, measured: list[Row]) -> Figure | None:
    """Draws the strips of a folder: a column per setting, a line per generator and width.

    The name of the folder is a key of `CAPTIONS`. Missing strips are left out; returns None if all
    are missing. The description of a strip is its title.
    """
    seed = measured[0]["seed"]
    strips: dict[tuple[str, str], dict[str, Image.Image]] = {}
    for name in unique(measured, "generator"):
        mine = [row for row in measured if row["generator"] == name and row["seed"] == seed]
        for setting, widths in plots.curves_of(mine).items():
            for label, (row, *_) in widths.items():
                if (file := folder / f"{row['row_hash']}.png").is_file():
                    strips.setdefault((name, label), {})[setting] = Image.open(file)
    if not strips:
        return None
    columns = list(dict.fromkeys(setting for line in strips.values() for setting in line))
    width = max(image.width for line in strips.values() for image in line.values())
    names = unique(measured, "generator")
    heights = [max(image.height for image in line.values()) for line in strips.values()]
    titles = {
        (line, setting): textwrap.fill(f"{shorten(setting, columns)}, {said}", 105)
        for line, found in strips.items()
        for setting, image in found.items()
        if (said := image.info.get("Description"))
    }
    above = max((0.1 + 0.11 * (x.count("\n") + 1) for x in titles.values()), default=0.08)
    inches = max(5.0, width / min(heights) / 4)  # at least a quarter of an inch per line
    caption = "the first images" if "samples" in measured[0] else CAPTIONS[folder.name]
    said = f"{caption}; {plots.conditions(measured)}"
    said = textwrap.fill(said, int(16 * inches * len(columns)))
    below = 0.5 + 0.15 * said.count("\n")  # and the names of the columns above
    size = len(columns) * inches + 0.5, sum(above + inches * y / width for y in heights) + below
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(strips), len(columns), squeeze=False, height_ratios=heights)
    for axes, (line, found) in zip(grid, strips.items(), strict=True):
        name, label = line
        text = f"{name} {label}" if len(names) > 1 else label.replace("–", "")
        axes[0].annotate(text, (-0.015, 0.5), xycoords="axes fraction", ha="right", va="center")
        for axis, setting in zip(axes, columns, strict=True):
            axis.set_axis_off()
            if image := found.get(setting):
                axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axis.set_xlim(0, width)
                if title := titles.get((line, setting)):
                    axis.set_title(title, fontsize=6, loc="left", pad=2)
                elif axis in grid[0]:
                    axis.set_title(shorten(setting, columns))
    figure.supxlabel(said, fontsize="small")
    return figure
