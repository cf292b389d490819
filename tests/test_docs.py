"""The documentation: every snippet runs, every public name is in it, and the site builds."""

import importlib.util
import os
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import nbformat
import pytest

import amortized.diagnostics

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


def test_public_names_are_documented():
    reference = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = (DOCS / "api.md").read_text()
    for name in amortized.__all__:
        assert re.search(rf"^::: amortized\.{name}$", reference, re.MULTILINE), name
        assert f"`{name}`" in listed


def script(path):
    """A script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_of_notebooks_are_those_of_the_notebooks():
    notebooks = {path.stem: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    source_of = script(DOCS / "rendered_notebooks.py").source_of
    pages = {path.stem: path for path in (DOCS / "notebooks").glob("*.md")}
    assert notebooks.keys() == pages.keys()
    for name, path in notebooks.items():
        page = pages[name].read_text(encoding="utf-8")
        for cell in nbformat.read(path, as_version=4).cells:
            assert source_of(cell) in page, f"{name} is older than its notebook: make notebooks."


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_numbers_of_the_readme_are_recorded():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Headline results")[2].partition("##")[0]
    recorded = "".join(path.read_text() for path in (ROOT / "benchmarks/results").glob("*.txt"))
    for number in ("0.047", "0.006", "0.915", "0.914", "0.916", "0.335"):
        assert number in table and number in recorded


def test_every_recorded_result_is_shown():
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    shown = set(re.findall(r"^\{\{ result (\w+) \}\}$", pages, re.MULTILINE))
    stored = list((ROOT / "benchmarks" / "results").glob("*.txt"))
    assert shown == {path.stem for path in stored}
    for path in stored:
        head = script(ROOT / "benchmarks" / "record.py").read_header(path)
        assert head.keys() >= {"command", "machine", "recorded"}


def test_a_result_is_recorded_with_its_origin(tmp_path, monkeypatch):
    record = script(ROOT / "benchmarks" / "record.py")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    path = tmp_path / "sums.txt"
    command = "python -c 'print(1 + 1)'"
    path.write_text(f"command: {command}\nmachine: old\nrecorded: 2000-01-01\nnote: old\n\n3\n")
    monkeypatch.setattr(sys, "argv", ["record.py", "sums", "one core"])
    record.main()
    head = record.read_header(path)
    assert head["command"] == command and head["machine"] == "one core"
    assert head["recorded"] != "2000-01-01" and "note" not in head
    assert path.read_text().endswith("\n\n2\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr
    return folder


def test_site_is_whole_without_a_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\" >]+)", text)
        foreign = [url for url in loaded if re.match(r"(https?:)?//", url)]
        assert not foreign, f"{page.name} loads {foreign}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_site_shows_names_formulas_and_results(site):
    diagnostics = (site / "api" / "diagnostics.html").read_text(encoding="utf-8")
    for name in amortized.diagnostics.__all__:
        assert f'id="amortized.diagnostics.{name}"' in diagnostics, name
    inference = (site / "api" / "inference.html").read_text(encoding="utf-8")
    assert "<math" in inference and ":math:" not in inference
    samplers = (site / "benchmarks" / "samplers.html").read_text(encoding="utf-8")
    assert "eight schools" in samplers and "recorded 20" in samplers
