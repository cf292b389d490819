"""The prior of a network is found again by name or import path, and nothing else is run."""

import sys
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
from torch.distributions import Uniform

from amortized import load, report, save, train
from amortized.latent_priors.hyperprior import Hyperprior
from amortized.latent_priors.tasks import LatentTasks
from amortized.latent_priors.trained_prior import import_path, trained_prior
from amortized.networks import PFNConfig
from amortized.priors import GaussianProcessPrior, ProgramPrior
from amortized.training import TrainingConfig


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(slope * x[:, 0], 0.1).to_event(1), obs=y)


class Line(ProgramPrior):
    def __init__(self, inputs=1):
        super().__init__(line, inputs=lambda t, n: Uniform(0.0, 1.0).sample((t, n, inputs)))


HELD = GaussianProcessPrior(lengthscale=0.5, outputscale=1.0, noise=0.1)
PATHS = {
    "program": (lambda: ProgramPrior(line, inputs=1), "line(inputs=1)"),
    "class": (Line, "Line()"),
    "class with arguments": (lambda: Line(2), None),
    "variable": (lambda: HELD, "HELD"),
    "parts": (lambda: GaussianProcessPrior(lengthscale=0.3, outputscale=1.0, noise=0.1), None),
    "nested function": (lambda: ProgramPrior(lambda x, y=None: line(x, y), inputs=1), None),
    "tasks": (lambda: LatentTasks(ProgramPrior(line, inputs=1)), "line(inputs=1)"),
    "other hyperprior": (
        lambda: LatentTasks(ProgramPrior(line, inputs=1), Hyperprior(n_components=2)),
        None,
    ),
}


@pytest.mark.parametrize(("make", "name"), PATHS.values(), ids=PATHS)
def test_import_paths(make, name):
    assert import_path(make()) == (None if name is None else f"{__name__}:{name}")


@pytest.fixture(scope="module")
def network():
    size = PFNConfig(n_features=1, max_context=10, d_model=16, n_layers=1, n_bars=20)
    config = TrainingConfig(n_steps=2, n_context=(3, 9))
    return train(ProgramPrior(line, inputs=1), size, config, progress=False)


def test_a_saved_network_is_reported_on_without_its_prior(network, tmp_path):
    loaded = load(save(network, tmp_path / "network"))
    assert loaded.calibration == network.calibration
    found = report(loaded, n_context=[5], n_datasets=20)
    given = report(loaded, prior=ProgramPrior(line, inputs=1), n_context=[5], n_datasets=20)
    assert f"{__name__}:line(inputs=1)" in found.title
    assert found.sections["Calibration"] == given.sections["Calibration"]


@pytest.mark.parametrize(
    "path",
    ["os:abort(inputs=1)", "os:abort()", "os:path", "not_loaded:prior", "sys:exit()", "a b", ""]
    + [f"{__name__}:Line(inputs=1)", f"{__name__}:line", f"{__name__}:line()"]
    + ["amortized.priors.prior:Prior()", "shutil:rmtree(inputs=1)"],
)
def test_a_path_to_anything_else_leads_nowhere(path, network):
    network = load_copy(network, path)
    before = set(sys.modules)
    assert trained_prior(network) is None
    assert set(sys.modules) == before
    with pytest.raises(ValueError, match=r"prior=\.\.\.\)"):
        report(network)


def load_copy(network, path):
    """The network with another import path."""
    copy = type(network)(network.config)
    copy.calibration = replace(network.calibration, prior=path)
    return copy


def test_named_networks_name_their_prior():
    assert isinstance(trained_prior(load("gp-1d")), GaussianProcessPrior)
    assert isinstance(trained_prior(load("dt-mean")), LatentTasks)
