"""Importing costs little: what is heavy is imported when it is used; names are what they were."""

import subprocess
import sys
from pathlib import Path

import lightning
import pytest

import amortized
import amortized.estimators

ROOT = Path(__file__).parents[1]
HEAVY = ("lightning", "torch._dynamo", "matplotlib", "torchmetrics", "pandas")


def loaded(script, *names):
    """Which of the modules a script has loaded, in a process of its own."""
    script += f"; import sys; print([n for n in {names!r} if n in sys.modules])"
    return subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).strip()


def test_the_package_alone_loads_nothing_heavy():
    assert loaded("import amortized", *HEAVY, "torch", "sklearn", "pyro", "scipy") == "[]"


def test_names_load_neither_training_nor_drawing():
    """Nor do submodules that were imported before hide a function of the same name."""
    script = (
        "import amortized.infer.cascade; from amortized import infer, load, save, Posterior; "
        "assert callable(infer) and amortized.infer is infer; load('gp-1d'); "
        "from amortized import PFNClassifier, PFNRegressor, BayesianRegressor, EarlyStopping; "
        "import amortized.diagnostics, amortized.networks, amortized.priors"
    )
    assert loaded(script, *HEAVY[:4]) == "[]"


def test_what_is_heavy_is_loaded_when_used():
    assert issubclass(amortized.estimators.EarlyStoppingCallback, lightning.Callback)
    script = "from amortized.plotting import new_axes; new_axes(); import sys; "
    script += "assert 'matplotlib' in sys.modules and 'lightning' not in sys.modules; "
    assert "lightning" in loaded(script + "from amortized import train", *HEAVY)


@pytest.mark.parametrize("package", [amortized, amortized.estimators], ids=lambda p: p.__name__)
def test_public_names_are_there(package):
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
