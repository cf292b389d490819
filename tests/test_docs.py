"""The documentation: every snippet runs, every public name is in it, and the site builds."""

import re
import sys
import types
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SNIPPET = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def snippets(page):
    """The Python snippets of a page, each at its own lines."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, found.start(2)) + found[2] for found in SNIPPET.finditer(text)
    ]


# Pages of notebooks are what the notebooks printed; tests/test_notebooks.py runs these.
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
    if page.parent.name != "notebooks" and snippets(page)
]


def test_there_are_snippets():
    assert len(PAGES) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A module of its own, as joblib and pickle look for what a snippet defines.
    module = types.ModuleType("snippets_of_" + page.stem)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # networks of ten steps are poor, and are said to be
        for snippet in snippets(page):
            exec(compile(snippet, str(page), "exec"), module.__dict__)
