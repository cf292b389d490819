"""Priors learned from related tasks, against quadrature over the population."""

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import infer
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.hierarchy import learn_latent_prior
from amortized.hierarchy.gibbs import sample_population
from amortized.hierarchy.population import PopulationPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.program.density import ProgramDensity
from amortized.sampling.checks.convergence import ess_mean

pytestmark = pytest.mark.filterwarnings("ignore:The chains disagree")  # short runs

SCALE = 2.0  # of the hyperprior in one dimension


def counts(x, y=None):
    log_rate = pyro.sample("log_rate", dist.Normal(0.0, SCALE))
    return pyro.sample("y", dist.Poisson(log_rate.exp()).expand([len(x)]).to_event(1), obs=y)


def height(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def plane(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)


def moments_by_quadrature(log_likelihood, prior):
    """Means and standard deviations of mu and log tau, by two grids and one over the latents."""
    scale = prior.sd.item()
    mu = torch.linspace(-3 * scale, 3 * scale, 121, dtype=torch.float64)
    log_tau = torch.linspace(math.log(scale) - 7, math.log(scale) + 3, 121, dtype=torch.float64)
    m, t = torch.meshgrid(mu, log_tau, indexing="ij")
    log_joint = torch.distributions.Normal(prior.mean, prior.sd).log_prob(m)
    log_joint = log_joint + t - 1.5 * torch.log1p((t.exp() / scale).square() / 2)
    nodes = torch.linspace(-6, 6, 121, dtype=torch.float64)
    log_weights = (-nodes.square() / 2).log_softmax(0)
    u = m.unsqueeze(-1) + t.exp().unsqueeze(-1) * nodes
    for task in range(log_likelihood.n_tasks):
        log_joint = log_joint + (log_likelihood(task, u) + log_weights).logsumexp(-1)
    share = (log_joint - log_joint.max()).exp()
    share = share / share.sum()
    means = [(share * f).sum() for f in (m, t)]
    return [
        (a, (share * (f - a).square()).sum().sqrt()) for a, f in zip(means, (m, t), strict=True)
    ]


class PoissonTasks:
    n_tasks = 8

    def __init__(self):
        self.y = torch.poisson(torch.exp(0.3 + 0.8 * torch.randn(self.n_tasks, 3))).double()

    def __call__(self, task, u):
        return (self.y[task].sum() * u - 3 * u.exp()).double()


def test_population_meets_quadrature_where_likelihoods_are_not_normal():
    tasks = PoissonTasks()
    prior = PopulationPrior(torch.zeros(1).double(), torch.full((1,), SCALE).double())
    density = ProgramDensity(counts, torch.zeros(8, 3, 0).double(), tasks.y)
    draws = sample_population([density], prior, n_draws=800, thin=3)
    population = draws.population
    found = population.means[:, 0, 0], population.covariances[:, 0, 0, 0].log() / 2
    for values, (mean, sd) in zip(found, moments_by_quadrature(tasks, prior), strict=True):
        chains = values.reshape(8, -1)
        assert (values.mean() - mean).abs() < 4.5 * sd / ess_mean(chains).sqrt()
        spread = (values - mean).square().reshape(8, -1)
        error = spread.std() / ess_mean(spread).sqrt()
        assert (spread.mean() - sd.square()).abs() < 4.5 * error
    assert draws.accepted.min() > 0.2


def test_hyperprior_has_half_t_deviations_and_uniform_correlations():
    prior = PopulationPrior(torch.zeros(2).double(), torch.tensor([1.0, 3.0]).double())
    population = prior.sample(20_000, 1)
    covariance = population.covariances[:, 0]
    deviation = covariance.diagonal(dim1=-1, dim2=-2).sqrt() / prior.sd
    # Half-t with 2 degrees of freedom: P(|t| < s) = s / sqrt(2 + s^2).
    for s in (0.3, 1.0, 3.0):
        share = (deviation < s).double().mean(0)
        assert torch.allclose(share, torch.tensor(s / math.sqrt(2 + s**2)).double(), atol=0.02)
    correlation = covariance[:, 0, 1] / covariance.diagonal(dim1=-1, dim2=-2).prod(-1).sqrt()
    for low, high in pairwise((-1.0, -0.5, 0.0, 0.5, 1.0)):
        inside = ((correlation > low) & (correlation <= high)).double().mean()
        assert (inside - 0.25).abs() < 0.02


def test_stretch_changes_the_density_by_the_stated_ratio():
    prior = PopulationPrior(torch.zeros(2).double(), torch.tensor([1.0, 3.0]).double())
    population = prior.sample(5, 2)
    step = torch.linspace(-1, 1, 5).double()

    def log_density(covariance):
        diagonal = torch.linalg.inv(covariance).diagonal(dim1=-1, dim2=-2)
        tails = (2 * diagonal + prior.sd.pow(-2)).log().sum(-1)
        return (-3 * torch.logdet(covariance) - 2 * tails).sum(-1)

    stretch = torch.eye(2).double().repeat(5, 1, 1, 1)
    stretch[..., 1, 1] = step.exp().unsqueeze(-1)
    moved = stretch @ population.covariances @ stretch
    expected = log_density(moved) - log_density(population.covariances) + 2 * 3 * step
    torch.testing.assert_close(prior.log_ratio_of_scaling(population, 1, step), expected)


def planes(n_tasks, n_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tasks, n_rows, 2, generator=generator)
    mean, factor = torch.tensor([1.0, -2.0]), torch.tensor([[0.3, 0.0], [0.2, 0.1]])
    w = mean + torch.randn(n_tasks, 2, generator=generator) @ factor.T
    noise = 0.5 * torch.randn(n_tasks, n_rows, generator=generator)
    true = GaussianMixture.from_moments(mean.double(), (factor @ factor.T).double())
    return x, (x @ w.unsqueeze(-1)).squeeze(-1) + noise, true


@pytest.fixture(scope="module")
def learned():
    x, y, _ = planes(40, 6, seed=1)
    tasks = [(x[i, : 5 + i % 2], y[i, : 5 + i % 2]) for i in range(40)]
    return learn_latent_prior(plane, tasks, n_draws=400, thin=3)


@pytest.mark.parametrize("method", ["auto", "laplace"])
def test_new_tasks_are_answered_as_under_the_true_prior(learned, method):
    x, y, true = planes(100, 20, seed=2)
    score = {}
    for name, prior in (("learned", learned), ("true", true), ("none", None)):
        answer = infer(
            plane,
            x[:, :3],
            y[:, :3],
            latent_prior=prior,
            method=method if prior else "exact",
            n_draws=500,
        )
        score[name] = answer.predictive(x[:, 3:]).log_prob(y[:, 3:]).mean()
    assert score["learned"] > score["true"] - 0.05
    assert score["learned"] > score["none"] + 0.1


def test_tasks_keep_their_order_and_are_shrunk(learned):
    x, y, _ = planes(40, 6, seed=1)
    together = learned.tasks.mean["w"]
    assert together.shape == (40, 2)
    many = torch.tensor([i for i in range(40) if i % 2])  # of 6 rows each
    alone = infer(plane, x[many], y[many], method="exact").mean["w"]
    near = (together[many] - alone).norm(dim=-1)
    apart = (together[many] - alone.roll(1, 0)).norm(dim=-1)
    assert near.mean() < apart.mean()
    assert together.std(0).max() < alone.std(0).max()


def test_network_takes_it_at_run_time():
    generator = torch.Generator().manual_seed(3)
    means = 1.0 + torch.randn(30, 1, generator=generator)
    y = means + torch.randn(30, 4, generator=generator)
    prior = NormalMeanPrior()
    learned = learn_latent_prior(prior, [(None, row) for row in y], n_draws=320, thin=1)
    new = torch.tensor([[2.5]])  # the network is for one observation
    by_network, by_smc = (
        infer(prior, new, latent_prior=learned, method=method).mean["mean"]
        for method in ("dt", "smc")
    )
    assert (by_network - by_smc).abs() < 0.1


def test_two_kinds_of_tasks_are_two_components():
    generator = torch.Generator().manual_seed(4)
    kind = torch.arange(40) % 2
    y = 10.0 * kind.unsqueeze(-1) + torch.randn(40, 6, generator=generator)
    learned = learn_latent_prior(
        height, [(None, row) for row in y], n_components=2, n_draws=320, thin=1
    )
    low, middle, high = learned.mixture.log_prob(torch.tensor([[0.0], [5.0], [10.0]])).tolist()
    assert min(low, high) > middle + 1


def test_equal_seeds_give_equal_draws_and_the_task_decides_the_rest(learned):
    tasks = [(None, [0.0, 1.0]), (None, [2.0])]
    one, other = (learn_latent_prior(height, tasks, n_draws=320, thin=1) for _ in range(2))
    assert torch.equal(one.population["mean"], other.population["mean"])


def branching(x, y=None):
    k = pyro.sample("k", dist.Bernoulli(0.5))
    return pyro.sample("y", dist.Normal(k, 1.0).expand([len(x)]).to_event(1), obs=y)


def of_rows(x, y=None):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((height, [(None, [1.0])]), "at least two tasks"),
        ((branching, [(None, [1.0])] * 2), "latents"),
        ((of_rows, [(None, [1.0]), (None, [1.0, 2.0])]), "the same whatever the number of rows"),
        ((height, [(torch.zeros(2, 1, 0), torch.zeros(2, 1))] * 2), "one dataset"),
        ((height, [(None, [1.0])] * 2, 5), "n_draws to be an integer >= 320"),
        ((height, [(None, [1.0])] * 2, 321), "multiple of 8"),
    ],
)
def test_wrong_inputs(arguments, message):
    model, tasks, *n_draws = arguments
    with pytest.raises(ValueError, match=message):
        learn_latent_prior(model, tasks, n_draws=n_draws[0] if n_draws else 320)
