"""The layout: imports point one way, names are absolute, files are short."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

# A module may import those above it, and within its own package; a new one takes its place here.
LEVELS = (
    {"lazy", "files", "arrays", "validation", "progress"},
    {"one_at_a_time", "seeding"},
    {"program"},
    {"priors"},
    {"distributions", "plotting", "series"},
    {"latent_priors"},
    {"networks", "sampling", "predictive"},
    {"simulation_based"},
    {"posterior", "training", "pretrained", "infer", "tables", "mcmc", "empirical_bayes"},
    {"estimators", "diagnostics", "uncertainty", "crowds", "generators", "hierarchy"},
    {"recipes", "forecasting", "debiased"},
    {"amortized"},  # amortized/__init__.py
    {"demo", "__main__"},
)
# (a, b): a may import b, though they share a level.
NEIGHBOURS = {
    ("infer", "posterior"),
    ("infer", "pretrained"),
    ("estimators", "diagnostics"),  # an estimator's report
}
MAX_LINES = 450
MAX_FILES = 12

ROOT = Path(__file__).parents[1]
LEVEL = {member: number for number, level in enumerate(LEVELS) for member in level}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "amortized" else ("amortized", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# The links amortized/priors and amortized/pretrained are not followed, so each file comes once.
FILES = {
    module_name(path): path
    for folder in ("amortized", "priors", "pretrained")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
each_module = pytest.mark.parametrize("module", FILES)


def member(module):
    """The entry of LEVELS that a module belongs to."""
    return (module.split(".") * 2)[1]


@cache
def import_nodes(module):
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported_modules(module):
    """The modules of amortized that a module imports, anywhere in its text."""
    names = set()
    for node in import_nodes(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else str(node.module) for name in inside}
    return {name for name in names if name.split(".")[0] == "amortized"}


@each_module
def test_has_a_level(module):
    assert member(module) in LEVEL, (
        f"Expected every module of amortized in LEVELS; {FILES[module].relative_to(ROOT)} is not. "
        "Give it the lowest level that it can have."
    )


@each_module
def test_imports_point_down(module):
    here = member(module)
    for imported in imported_modules(module):
        there = member(imported)
        down = LEVEL.get(there, -1) < LEVEL.get(here, len(LEVELS))
        assert here == there or down or (here, there) in NEIGHBOURS, (
            f"{FILES[module].relative_to(ROOT)} imports {imported}, "
            f"but {there!r} is not below {here!r} in LEVELS."
        )


def test_imports_make_no_cycle():
    graph = {module: imported_modules(module) for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("These import each other: " + " <- ".join(error.args[1]))


@each_module
def test_imports_are_absolute(module):
    lines = [node.lineno for node in import_nodes(module) if getattr(node, "level", 0)]
    assert not lines, f"{FILES[module].relative_to(ROOT)} has relative imports in lines {lines}."


@each_module
def test_file_is_short(module):
    n_lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert n_lines < MAX_LINES, f"{FILES[module].relative_to(ROOT)} has {n_lines} lines."


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES.values()}), ids=str)
def test_folder_is_small_and_says_what_it_holds(folder):
    n_files = sum(path.is_file() for path in folder.iterdir())
    sentence = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert n_files <= MAX_FILES, f"{folder.relative_to(ROOT)} has {n_files} files; give it folders."
    assert sentence, f"{folder.relative_to(ROOT)}/__init__.py does not say what belongs there."


@each_module
def test_name_is_a_noun(module):
    drawers = {"utils", "util", "helpers", "common", "misc"} & set(module.split("."))
    assert not drawers, f"{FILES[module].relative_to(ROOT)}: say what is in it, or move it."
