"""README and docs say what is so: examples run, options, files and links exist."""

import doctest
import functools
import importlib
import inspect
import operator
import re
from pathlib import Path

import pytest

from configs import default

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A fence that begins with "```python no-run" is shown and not run.
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "lsh_gan").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name):
    found = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_is_so(page, tmp_path, monkeypatch):
    text = page.read_text()
    config = default.get_config()
    for field in re.findall(r"--config\.([a-z][\w.]*)", text):
        functools.reduce(operator.getitem, field.split("."), config)
    named = re.findall(r"\b((?:configs|benchmarks|lsh_gan|tests|docs)/[\w./-]*\w)", text)
    missing = [name for name in named if not (ROOT / name).exists() and "NAME" not in name]
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    missing += [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in re.findall(r"-m ([\w.]+)", text) if not _is_module(name)]
    for name in re.findall(r"automodule:: ([\w.]+)", text):  # it shows fields by `#:` alone
        module = importlib.import_module(name)
        classes = filter(inspect.isclass, map(vars(module).get, getattr(module, "__all__", ())))
        missing += [c for c in classes if re.search(r"\n    \w+: .*  # ", inspect.getsource(c))]
    assert not missing
    monkeypatch.chdir(tmp_path)
    shared: dict = {}
    for code in PYTHON.findall(text):
        exec(compile(code, str(page), "exec"), shared)


def _is_module(name):
    path = ROOT / name.replace(".", "/")
    own = name.split(".")[0] in ("lsh_gan", "benchmarks", "checkpoints_tools", "tests")
    return not own or path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900
