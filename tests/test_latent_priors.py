"""Latent priors: reduction keeps moments, fits are close and repeatable, hyperpriors hold."""

import math

import pytest
import torch
from test_gaussian_mixture import MIXTURES, mixture
from torch.distributions import (
    Beta,
    Gamma,
    LogNormal,
    MultivariateNormal,
    Normal,
    Uniform,
)

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors import (
    Hyperprior,
    LatentTasks,
    as_mixture,
    fit_draws,
    fit_mixture,
    merge,
    product,
    split_components,
)
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.program.support import bijection_to

each_mixture = pytest.mark.parametrize("make", MIXTURES.values(), ids=MIXTURES)


def assert_same_moments(a, b):
    scale = b.stddev.max()
    assert torch.allclose(a.mean, b.mean, atol=1e-5 * scale)
    assert torch.allclose(a.covariance_matrix, b.covariance_matrix, atol=1e-4 * scale**2)


@each_mixture
@pytest.mark.parametrize("reduce", [lambda m: merge(m, 2), lambda m: split_components(m, 6)])
def test_reduction_keeps_mean_and_covariance(make, reduce):
    m = make()
    reduced = reduce(m)
    assert reduced.batch_shape == m.batch_shape
    assert_same_moments(reduced, m)


@each_mixture
def test_split_leaves_no_two_components_alike(make):
    m = split_components(make(), 8)
    components = m.means.reshape(-1, 8, m.dim)
    gaps = torch.cdist(components, components) + torch.eye(8).to(components) * 1e9
    assert (gaps > 0).all()


def test_split_joins_copies_and_stays_close():
    one = GaussianMixture.from_moments(torch.zeros(2), torch.eye(2))
    copies = one.map_tensors(lambda t: t.expand(5, *t.shape[1:]))
    apart = split_components(copies, 5)
    assert len(apart.means.unique(dim=0)) == 5
    assert abs(one.kl(apart, 5000).item()) < 5e-3


FAMILIES = {
    "normal": Normal(1.0, 2.0),
    "log-normal": LogNormal(1.0, 0.5),
    "gamma": Gamma(2.0, 3.0),
    "wide gamma": Gamma(0.5, 1.0),
    "beta": Beta(2.0, 5.0),
    "uniform": Uniform(0.0, 2.0),
}
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@each_family
def test_families_become_close_mixtures_without_chance(family):
    torch.manual_seed(1)
    fitted = fit_mixture(family)
    torch.manual_seed(2)
    again = fit_mixture(type(family)(*(getattr(family, n) for n in family.arg_constraints)))
    assert torch.equal(fitted.means, again.means)
    bijection = bijection_to(family.support)
    u = bijection.inv(family.sample((20_000,)).double())
    exact = family.log_prob(bijection(u)) + bijection.log_abs_det_jacobian(u, bijection(u))
    kl = (exact - fitted.to(torch.float64).log_prob(u.unsqueeze(-1))).mean()
    assert kl.item() < 2e-3


def test_products_and_dictionaries():
    both = as_mixture({"b": Normal(1.0, 2.0), "a": Gamma(2.0, 3.0)}, layout=["a", "b"])
    assert both.dim == 2
    assert both.mean[1].item() == pytest.approx(1.0)
    alone = fit_mixture(Gamma(2.0, 3.0))
    u = both.sample((4,))
    split_up = alone.log_prob(u[:, :1]) + Normal(1.0, 2.0).log_prob(u[:, 1])
    assert torch.allclose(both.log_prob(u), split_up, atol=1e-4)
    assert product([alone, alone, alone], n_components=8).n_components == 8


def test_draws_and_vectors():
    law = MultivariateNormal(torch.ones(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    fitted = fit_draws(law.sample((5000,)), n_components=3)
    assert torch.allclose(fitted.covariance_matrix, law.covariance_matrix, atol=0.15)
    assert torch.allclose(fit_mixture(law).covariance_matrix, law.covariance_matrix)


def test_hyperprior_is_as_it_says():
    priors = Hyperprior().sample(torch.tensor([5.0, 0.0]), torch.tensor([10.0, 1.0]), 4000)
    n = (priors.log_weights > -math.inf).sum(-1)
    assert set(n.tolist()) == {1, 2, 3, 4, 5}
    sd = priors.scale_tril.square().sum(-1).sqrt()[:, 0] / torch.tensor([10.0, 1.0])
    flat, point = (sd > 3.0).all(-1).float().mean(), (sd < 0.1).all(-1).float().mean()
    assert flat.item() == pytest.approx(0.1, abs=0.02)
    assert point.item() == pytest.approx(0.05, abs=0.02)
    assert priors.means[..., 0].mean().item() == pytest.approx(5.0, abs=1.0)
    assert priors.means[..., 0].std().item() == pytest.approx(20.0, rel=0.1)


def test_tasks_are_pure_and_follow_their_prior():
    tasks = LatentTasks(NormalMeanPrior())
    a, b = (tasks.sample(2000, 3, seed=5) for _ in range(2))
    assert torch.equal(a.u, b.u)
    assert torch.equal(a.observations["data"], b.observations["data"])
    # u is a draw of the prior: its level under a 1-D prior is uniform.
    assert a.latent_prior.cdf(a.u).mean().item() == pytest.approx(0.5, abs=0.03)
    off = a.observations["data"][..., 0].mean(-1) - a.u[:, 0]
    assert off.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.1)


def test_wrong_prior_widens_the_latents():
    told = LatentTasks(NormalMeanPrior(), wrong_prior=0.5).sample(4000, 1, seed=0)
    level = told.latent_prior.cdf(told.u)
    assert ((level < 0.001) | (level > 0.999)).float().mean() > 0.1


def test_answers_below_their_rounding_are_given_as_not_observed():
    """A noise of e^-20 beside answers of 1 is lost in float32; one of e^-4 is not."""
    tasks = LatentTasks(LinearModelPrior(0))
    u = torch.tensor([[1.0, -20.0], [1.0, -4.0], [0.0, -20.0]])
    x = torch.zeros(3, 5, 0)
    y = u[:, :1] + u[:, 1:].exp() * torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert tasks._resolved(u, x, y).tolist() == [[False] * 5, [True] * 5, [True] * 5]
    seen = tasks.sample(4000, 2, seed=0).masks["data"].all(-1)
    assert seen.float().mean() > 0.9


def discrete(x, y=None):
    import pyro
    import pyro.distributions as dist

    k = pyro.sample("k", dist.Categorical(torch.ones(3)))
    return pyro.sample("y", dist.Normal(k.float(), 1.0).expand([len(x)]).to_event(1), obs=y)


WRONG = {
    "too many to split": (lambda: split_components(mixture(k=3), 2), "at most 2"),
    "share": (lambda: split_components(mixture(k=1), 2, remaining=1.5), "remaining"),
    "count": (lambda: merge(mixture(), 0), "n_components"),
    "few draws": (lambda: fit_draws(torch.zeros(4, 2)), "more than"),
    "what": (lambda: as_mixture("flat"), "latent_prior"),
    "names": (lambda: as_mixture({"a": Normal(0.0, 1.0)}, layout=["b"]), "latent_prior to name"),
    "discrete prior": (
        lambda: fit_mixture(torch.distributions.Poisson(torch.tensor(2.0))),
        "continuous",
    ),
    "hyperprior": (lambda: Hyperprior(sd=(3.0, 0.1)), "sd"),
    "shares": (lambda: Hyperprior(flat=0.7, point=0.7), "flat"),
    "no program": (lambda: LatentTasks(object()), "ProgramPrior"),
    "discrete latents": (lambda: LatentTasks(ProgramPrior(discrete)), "continuous latents"),
    "nothing to multiply": (lambda: product([]), "one mixture"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()


def test_a_correlation_without_direction_is_none(monkeypatch):
    """torch's LKJ law draws NaN once in a long training, which must not end it."""
    monkeypatch.setattr(
        "amortized.latent_priors.hyperprior.draw",
        lambda law, shape: torch.full((*shape, *law.event_shape), torch.nan),
    )
    factors = Hyperprior()._correlations((4, 2, 3), torch.device("cpu"))
    assert torch.equal(factors, torch.eye(3).expand(4, 2, 3, 3))
