"""Lists of datasets of different sizes are answered as each on its own."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import infer
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.fitting import stacked
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior

SIZES = [4, 2, 4, 7, 2]
line = LinearRegressionPrior(2, variance=0.25, intercept=False)


def of_rows(x, y=None):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def coins(x, y=None):
    fair = pyro.sample("fair", dist.Bernoulli(0.5))
    p = 0.9 - 0.4 * fair
    return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)


def datasets():
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in SIZES]
    y = [each.sum(-1) + 0.5 * torch.randn(len(each), generator=generator) for each in x]
    return x, y


@pytest.fixture(scope="module")
def exact():
    x, y = datasets()
    together = infer(line, x, y, method="exact", n_draws=200)
    return together, [infer(line, *each, method="exact") for each in zip(x, y, strict=True)]


def test_evidence_and_densities_are_those_of_each(exact):
    together, alone = exact
    evidence = torch.stack([each.log_evidence for each in alone])
    torch.testing.assert_close(together.log_evidence, evidence)
    assert together.batch_shape == (5,) and together["weights"].shape == (200, 5, 2)
    w = torch.randn(3, 5, 2).double()
    expected = torch.stack(
        [each.log_prob({"weights": w[:, i]}) for i, each in enumerate(alone)], -1
    )
    torch.testing.assert_close(together.log_prob({"weights": w}), expected)


def test_predictive_is_that_of_each(exact):
    together, alone = exact
    x = torch.randn(5, 3, 2).double()
    predictive, each = together.predictive(x), [a.predictive(x[i]) for i, a in enumerate(alone)]
    assert predictive.batch_shape == (5, 3) and predictive.sample((2,)).shape == (2, 5, 3)
    torch.testing.assert_close(predictive.mean, torch.stack([e.mean for e in each]))
    torch.testing.assert_close(predictive.variance, torch.stack([e.variance for e in each]))
    y = torch.randn(2, 5, 3).double()
    for name, value in {"log_prob": y, "cdf": y, "icdf": y.sigmoid()}.items():
        expected = torch.stack([getattr(e, name)(value[:, i]) for i, e in enumerate(each)], 1)
        torch.testing.assert_close(getattr(predictive, name)(value), expected)


@pytest.mark.parametrize("method", ["smc", "laplace", "importance"])
def test_draws_of_every_method_are_near_the_exact_ones(method, exact):
    x, y = datasets()
    posterior = infer(line, x, y, method=method, n_draws=1000)
    off = (posterior.mean["weights"] - exact[0].mean["weights"]).abs() / exact[0].std["weights"]
    assert off.max() < 0.4
    assert posterior.diagnostics["method"] == method
    assert posterior.sample(10)["weights"].shape == (10, 5, 2)


def test_network_answers_as_each_alone():
    prior = NormalMeanPrior()
    y = [torch.linspace(-1, 1, n) for n in SIZES]
    means = torch.linspace(-1, 1, 5).double()
    each = [GaussianMixture.from_moments(m[None], torch.eye(1).double()) for m in means]
    together = infer(prior, y, method="dt", latent_prior=stacked(each))
    for i, (one, own) in enumerate(zip(y, each, strict=True)):
        alone = infer(prior, one, method="dt", latent_prior=own).mixture
        assert torch.allclose(together.mixture.mean[i], alone.mean, atol=1e-5)
    assert together.diagnostics["inside_training_range"].shape == (5,)


def test_discrete_latents_and_datasets_without_inputs():
    y = [[1.0, 1.0, 1.0], [0.0], [1.0, 0.0], [1.0]]
    together = infer(coins, y)
    for i, one in enumerate(y):
        expected = infer(coins, one).probabilities("fair")
        torch.testing.assert_close(together.probabilities("fair")[i], expected)


@pytest.mark.parametrize(
    ("model", "x", "y", "options", "message"),
    [
        (line, torch.zeros(3, 2), [[1.0], [1.0, 2.0]], {}, "x to be a list of 2 datasets"),
        (line, [torch.zeros(1, 2)] * 2, [[1.0], [1.0, 2.0]], {}, r"x\[1\] of shape \(2, n_feat"),
        (of_rows, None, [[1.0], [1.0, 2.0]], {"method": "smc"}, "the same whatever the number"),
        (line, [[[1.0, 1.0]]] * 2, [[1.0], [1.0, 2.0]], {"start": None, "method": "smc"}, "start"),
        (
            line,
            [torch.zeros(1, 2), torch.zeros(2, 2)],
            [[1.0], [1.0, 2.0]],
            {"latent_prior": stacked([GaussianMixture.from_moments(torch.zeros(2), torch.eye(2))])},
            "prior for each of 2",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_inputs(model, x, y, options, message):
    data = (y,) if x is None else (x, y)
    with pytest.raises(ValueError, match=message):
        infer(model, *data, n_draws=100, **options)
