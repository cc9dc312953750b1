"""Settings of the documentation: `sphinx-build -W docs build/docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

project = "lsh-gan"
author = "lsh-gan contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["requirements.txt"]
html_theme = "furo"
html_title = "lsh-gan"

myst_heading_anchors = 3
napoleon_google_docstring = True
napoleon_use_ivar = True  # attributes of NamedTuples are described once
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
suppress_warnings = ["ref.python"]  # fields of one name in several classes
autodoc_preserve_defaults = True
autosummary_generate = False
default_role = "code"  # `x` in docstrings is code, as in Markdown


def setup(app):
    """Corrects descriptions of fields before napoleon reads them."""

    def correct(_app, what, _name, _obj, _options, lines):
        if lines and lines[0].startswith("Alias for field number"):
            lines.clear()  # of a NamedTuple's field where nothing is written
        elif what in ("attribute", "property"):
            lines[:0] = ["..", ""]  # else it takes words before a colon for a type

    app.connect("autodoc-process-docstring", correct, priority=0)
