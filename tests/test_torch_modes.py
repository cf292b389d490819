"""Torch's modes and default dtype are the caller's: the answers are the same under all of them."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import (
    BayesianClassifier,
    BayesianRegressor,
    LearningCurveRegressor,
    PFNClassifier,
    PFNRegressor,
    infer,
    load,
    train,
)
from amortized.latent_priors.problems import named_tasks
from amortized.networks import DistributionTransformerConfig, PFNConfig, TabularPFNConfig
from amortized.priors import LinearRegressionPrior, named_prior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.training import TrainingConfig
from amortized.uncertainty import joint_log_prob, martingale_posterior

X = np.linspace(-1, 1, 8)[:, None]
Y = np.sin(X[:, 0])
STEPS = TrainingConfig(n_steps=2, n_tasks=4, n_context=(2, 5), n_query=3)
SIZES = {
    "pfn": (
        LinearRegressionPrior(1, variance=0.1),
        PFNConfig(n_features=1, max_context=9, d_model=16, n_heads=2, n_layers=1, n_bars=20),
    ),
    "dt": (NormalMeanPrior(), DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1)),
    "tables": (
        LinearRegressionPrior(2),
        TabularPFNConfig(
            "regression", max_context=9, d_model=16, n_heads=2, n_cell_blocks=1, n_thinking=2
        ),
    ),
}


def program(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 0.3))
    return pyro.sample("y", dist.Normal(mean, noise).expand([len(x)]).to_event(1), obs=y)


def of(method, model=program, **options):
    def call():
        return infer(model, Y, method=method, n_draws=20, **options).sample(5, seed=0)["mean"]

    return call


def trained(kind):
    def call():
        prior, size = SIZES[kind]
        network = train(prior, size, STEPS, progress=False)
        assert {value.dtype for value in network.parameters()} == {torch.float32}
        return next(network.parameters())

    return call


def conditional():
    tasks = named_tasks("dt-normal")
    answer = infer(tasks.prior.model, Y, method="dt", network=load("dt-normal"), n_draws=20)
    return torch.cat([each.flatten() for each in answer.mean.values()])


CALLS = {
    "exact": of("exact", NormalMeanPrior().model),
    "smc": of("smc"),
    "nuts": of("nuts", n_warmup=3),
    "hmc": of("hmc"),
    "vi": of("vi", n_steps=5),
    "laplace": of("laplace"),
    "dt": conditional,
    "train pfn": trained("pfn"),
    "train dt": trained("dt"),
    "train tables": trained("tables"),
    "load": lambda: load("gp-1d")(torch.zeros(1, 2, 1), torch.ones(1, 2), torch.ones(1, 1, 1)).mean,
    "tasks": lambda: named_prior("gp").sample(2, 3, 3, seed=0).y_query,
    "tables": lambda: named_prior("tabular-classifier").sample(2, 3, 3, seed=0).x_query,
    "PFNRegressor": lambda: PFNRegressor("gp-1d").fit(X, Y).predict_quantiles(X, [0.1]),
    "PFNClassifier": lambda: PFNClassifier(n_estimators=1).fit(X, [0, 1] * 4).predict_proba(X),
    "BayesianRegressor": lambda: (
        BayesianRegressor(method="exact", random_state=0).fit(X, Y).predict(X)
    ),
    "BayesianClassifier": lambda: (
        BayesianClassifier(method="laplace", random_state=0).fit(X, [0, 1] * 4).predict_proba(X)
    ),
    "LearningCurveRegressor": lambda: (
        LearningCurveRegressor().fit(np.arange(1, 9), 1 - 0.5 / np.arange(1, 9)).predict([20])
    ),
    "joint_log_prob": lambda: joint_log_prob(load("gp-1d"), X[None], Y[None], X[None], Y[None]),
    "martingale": lambda: martingale_posterior(
        load("gp-1d"), X, Y, lambda x, y: y.mean(1), n_draws=2, n_future=2
    ),
}


class Doubles:
    """``torch.set_default_dtype(torch.float64)``, and back."""

    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *reason):
        assert torch.get_default_dtype() is torch.float64
        torch.set_default_dtype(torch.float32)


MODES = {  # two at once, as what one of them changes is seen beside the other
    "inference or doubles": (torch.inference_mode, Doubles),
    "no gradients or a device": (torch.no_grad, lambda: torch.device("cpu")),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_the_callers_mode_changes_nothing(name):
    expected = torch.as_tensor(CALLS[name]()).detach()
    for names, (one, other) in MODES.items():
        with one(), other():
            found = torch.as_tensor(CALLS[name]()).detach()
        assert torch.allclose(found, expected.to(found), rtol=1e-4, atol=1e-5), names
