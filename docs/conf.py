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
    """Says nothing of a NamedTuple's field where nothing is written, in place of its number."""

    def clear(_app, _what, _name, _obj, _options, lines):
        if lines and lines[0].startswith("Alias for field number"):
            lines.clear()

    app.connect("autodoc-process-docstring", clear)
