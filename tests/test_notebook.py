"""The notebook runs from its first cell to its last, with fewer images."""

import re
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parents[1]


def test_the_quickstart_runs_beside_a_clone_and_shows_scores_table_and_samples(tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    few = {"N = 1_000": "N = 40", "(8, 6, 4, 3, 2)": "(2,)", '("knn", "lsh")': '("knn",)'}
    # Pictures that the notebook does not show.
    few["rows = sweep"] = (
        "from lsh_gan.results import plots\nplots.write = lambda *_: {}\nrows = sweep"
    )
    for cell in notebook.cells:
        for text, smaller in few.items():
            cell.source = cell.source.replace(text, smaller)
    (tmp_path / "clone").symlink_to(ROOT)  # as on Colab
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    scores, table, picture = shown
    assert "<caption>n = 40 real (80 image files)" in scores["text/html"]
    assert "<th>knn_recall</th>" in table["text/html"]
    assert re.search(r"mine +2 ", table["text/plain"])
    assert "image/png" in picture
