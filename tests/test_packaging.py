"""What users install: the wheel, the sdist, and a checkout without links."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import amortized

ROOT = Path(__file__).parents[1]
LINKED = ("priors", "pretrained")

# Runs in the fresh environment: imports every module, and every name that it calls public.
IMPORT_ALL = """
import importlib, json, pkgutil, amortized

modules = {"amortized": amortized}
for found in pkgutil.walk_packages(amortized.__path__, "amortized."):
    modules[found.name] = importlib.import_module(found.name)
for module in modules.values():
    for name in getattr(module, "__all__", ()):
        getattr(module, name)
print(json.dumps({name: module.__file__ for name, module in modules.items()}))
"""


def python(*arguments, executable=sys.executable, cwd, fails=False):
    """Runs Python without this run's PYTHON* settings; its stdout, or the error that it ends in."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    run = subprocess.run(
        [executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert (run.returncode != 0) == fails, run.stderr
    return run.stderr if fails else run.stdout


def package_files():
    """Where each file of the checkout stands in a wheel."""
    roots = {ROOT / "amortized": "amortized"} | {ROOT / d: f"amortized/{d}" for d in LINKED}
    return {
        f"{name}/{path.relative_to(root).as_posix()}"
        for root, name in roots.items()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    # Without a kind, as by `make dist`, the wheel is built from the sdist.
    python("-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,), (_,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel


def test_wheel_from_the_sdist_holds_every_file(built):
    names = zipfile.ZipFile(built).namelist()
    assert "amortized/py.typed" in names
    assert {name for name in names if ".dist-info/" not in name} == package_files()


def test_installed_package_imports(built, tmp_path):
    # torch and the others come from the present environment; its .pth files, and so an editable
    # amortized, do not.
    venv.create(tmp_path / "venv", with_pip=False, symlinks=os.name != "nt")
    scheme = sysconfig.get_preferred_scheme("prefix")
    fresh = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site_packages = Path(sysconfig.get_path("purelib", scheme, vars=fresh))
    executable = Path(sysconfig.get_path("scripts", scheme, vars=fresh)) / "python"
    (site_packages / "present.pth").write_text(sysconfig.get_path("purelib"))

    install = ("install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    python("-m", "pip", "--python", executable, *install, built, cwd=tmp_path)
    files = json.loads(python("-c", IMPORT_ALL, executable=executable, cwd=tmp_path))
    said = python("-m", "amortized", "--version", executable=executable, cwd=tmp_path)
    stated = python(
        "-c",
        "from importlib.metadata import version; print('amortized', version('amortized'))",
        executable=executable,
        cwd=tmp_path,
    )
    assert said == stated == f"amortized {amortized.__version__}\n"

    assert {Path(file) for file in files.values()} == {
        site_packages / name for name in package_files() if name.endswith(".py")
    }


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {amortized.__version__}\n" in citation
    assert f"\n## [{amortized.__version__}] - " in changes


@pytest.mark.parametrize("name", LINKED)
def test_linked_folder_has_one_name(name):
    error = python("-c", f"import {name}", cwd=ROOT, fails=True)
    assert f"Expected 'import amortized.{name}'" in error


def test_checkout_without_links_imports(tmp_path):
    for folder in ("amortized", *LINKED):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=lambda path, names: LINKED if Path(path) == ROOT / "amortized" else (),
        )
    for name in LINKED:  # as git writes a link where the system has none
        (tmp_path / "amortized" / name).write_text(f"../{name}")
    script = "".join(f"import amortized.{d}; print(amortized.{d}.__file__);" for d in LINKED)
    assert python("-c", script, cwd=tmp_path).split() == [
        str(tmp_path / name / "__init__.py") for name in LINKED
    ]


def test_every_third_party_import_is_declared():
    """What the package imports anywhere is in pyproject.toml, as a dependency or in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    declared = {re.match(r"[\w.-]+", name)[0].lower().replace("_", "-") for name in named}
    imported = set()
    for folder in ("amortized", *LINKED):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"amortized"}
    sources = packages_distributions()
    # What is not installed here, an extra, must be declared by the name it is imported by.
    missing = {
        name
        for name in foreign
        if declared.isdisjoint(d.lower().replace("_", "-") for d in sources.get(name, [name]))
    }
    assert len(foreign) > 8 and not missing
