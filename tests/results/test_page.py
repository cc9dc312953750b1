"""The page of a run: what stands in it without a browser, and what it does in one."""

import json
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from configured import scored_row
from matplotlib.figure import Figure

from lsh_gan.results import page, plots, store, strips

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CONFIG = {"metrics": ["lsh", "fid"], "k": 3}


def row(bits=None, clipping="mse"):
    """A row of two metrics whose scores are functions of the width."""
    score = 0.1 * (bits or 9)
    return scored_row(
        bits, clipping, row_hash=f"hash{bits}{clipping}", generator="<b>known", lsh_precision=score,
        lsh_recall=score / 2, lsh_precision_stderr=0.012, fid_distance=3.5, seconds={"lsh": 1.0},
    )  # fmt: skip


ROWS = [row(), *(row(bits, clipping) for bits in (8, 4) for clipping in ("none", "mse"))]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The page of five rows of six, with strips of all kinds."""
    monkeypatch.setattr(store, "read_progress", lambda workdir: (5, 6))
    for number, found in enumerate(ROWS):
        images = np.full((3, 8, 8, 3), 40 * number, np.uint8)
        strips.save(tmp_path / "samples" / f"{found['row_hash']}.png", [images])
        if found["bits"] == 4:
            said = "4 bits: LSH 2 of 7"
            strips.save(tmp_path / "outside" / f"{found['row_hash']}.png", [images] * 2, said)
            strips.save(tmp_path / "uncovered" / f"{found['row_hash']}.png", [images[:1]])
    with mpl.rc_context(plots.STYLE):
        figures = {"tradeoff": plots.plot("tradeoff", ROWS, ["lsh"])}
        page.write(
            tmp_path, tmp_path, ROWS, CONFIG["metrics"],
            figures=figures, config=CONFIG, answers=["4 bits: diversity & all"],
            marks={(ROWS[1]["row_hash"], "lsh", "precision"): "≈"},
        )  # fmt: skip
    return tmp_path / "report.html"


class Elements(HTMLParser):
    """All elements of a page, in order: their tag and attributes, and the text behind the tag."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])

    def handle_data(self, data):
        if self.found:
            self.found[-1][2] += data

    def __call__(self, tag):
        return [(attributes, text.strip()) for t, attributes, text in self.found if t == tag]


def test_what_stands_in_the_page(file):
    text = file.read_text(encoding="utf-8")
    elements = Elements(text)
    hashes = [attributes["data-row"] for attributes, _ in elements("tr") if attributes]
    assert hashes == [found["row_hash"] for found in ROWS]
    cells = [content for _, content in elements("td")]
    for expected in ("0.900 ± 0.012", "0.200", "3.5", "32,000", "8.0", "0.800 ± 0.012≈"):
        assert expected in cells
    assert "≈ within noise of full precision" in text
    assert "! collapsed" not in text
    headings = [content for _, content in elements("h2")]
    assert text.index("4 bits: diversity &amp; all") < text.index("<h2")
    assert [heading.split()[0] for heading in headings] == [
        "The", "Scores", "Plots", "What", "Conditions"
    ]  # fmt: skip
    assert "5 of 6 measurements are done" in text
    assert "Ceilings (precision / recall of real images): LSH 0.900 / 0.800." in text
    assert "4 bits: LSH 2 of 7" in text
    assert "<b>" not in text
    assert "&#34;k&#34;: 3" in text


def test_distances_alone_are_not_called_precision_and_recall(tmp_path):
    strips.save(tmp_path / "samples" / f"{ROWS[0]['row_hash']}.png", [np.zeros((3, 8, 8, 1), "u1")])
    nothing = {"figures": {}, "config": {}, "answers": [], "marks": {}}
    page.write(tmp_path, tmp_path, ROWS, ["fid"], **nothing)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>Distance of &lt;b&gt;known</h1>" in text
    assert "precision</th>" not in text
    assert "recall" not in text


def test_nothing_is_loaded_and_everything_is_labelled(file):
    elements = Elements(file.read_text(encoding="utf-8"))
    for tag, attributes, text in elements.found:
        for name in ("src", "href", "xlink:href", "data", "srcset", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
        if tag == "style":
            assert "@import" not in text
            assert "url(" not in text
    images = elements("img")
    assert len(images) == 1 + len(ROWS) + 2 * 2  # full precision stands above the slider too
    assert all(attributes["alt"] for attributes, _ in images)
    identifiers = [a["id"] for _, a, _ in elements.found if "id" in a]
    assert len(set(identifiers)) == len(identifiers)
    labels = {attributes.get("for") for attributes, _ in elements("label")}
    assert {attributes["id"] for attributes, _ in elements("input")} <= labels
    regions = [a for _, a, _ in elements.found if a.get("role") in ("img", "region", "group")]
    assert all(attributes["aria-label"] for attributes in regions)


def test_wide_strips_are_made_smaller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (10, 256, 256, 3), np.uint8)
    strips.save(tmp_path / "samples" / "hash.png", [noise])
    image = page.read_strip(tmp_path / "samples" / "hash.png")
    assert image["pixels"] == 2560
    assert len(image["uri"]) < 2_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_slider_and_sorting_in_a_browser(file, tmp_path):
    script = """<script>
      const [select, range] = document.querySelectorAll("select, input");
      const log = [document.querySelector("output").value];
      const shown = () => document.querySelectorAll("[data-width]:not([hidden])")[0].innerText;
      range.value = 2; range.dispatchEvent(new Event("input")); log.push(shown());
      select.value = select.options[1].value; select.dispatchEvent(new Event("change"));
      log.push(shown());
      const order = () => [...document.querySelectorAll("#scores tbody tr")].map(
        row => row.dataset.row).join();
      document.querySelectorAll("#scores button")[1].click(); log.push(order());
      document.querySelectorAll("#scores button")[1].click(); log.push(order());
      log.push(document.querySelectorAll("#scores th[aria-sort=descending]").length);
      document.body.innerHTML = `<pre id="log"></pre>`;
      document.getElementById("log").textContent = JSON.stringify(log);
    </script></body>"""
    moved = tmp_path / "moved.html"
    moved.write_text(file.read_text(encoding="utf-8").replace("</body>", script))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    result = subprocess.run([*command, profile, f"file://{moved}"], capture_output=True, text=True)
    first, none, mse, rising, falling, marked = json.loads(Elements(result.stdout)("pre")[0][1])
    assert first == "full precision"
    for text in (none, mse):
        assert "4 bits, 4,000 bytes, 8.0× smaller" in text
        assert "0.400 ± 0.012" in text
    ordered = ["4none", "4mse", "8none", "8mse", "None" + "mse"]
    assert rising.split(",") == [f"hash{name}" for name in ordered]
    assert falling.split(",")[0] == "hashNonemse"
    assert marked == 1


def test_figures_do_not_share_identifiers():
    first, second = Figure(), Figure()
    for figure in (first, second):
        figure.subplots().plot([1, 2], marker="o")
    texts = [page.to_svg(figure, name) for figure, name in ((first, "a"), (second, "b"))]
    identifiers = [{a["id"] for _, a, _ in Elements(text).found if "id" in a} for text in texts]
    assert identifiers[0]
    assert identifiers[0].isdisjoint(identifiers[1])
