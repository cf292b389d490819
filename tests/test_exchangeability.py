"""A network may read rows as a set only where their order says nothing."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.latent_priors import LatentTasks
from amortized.latent_priors.exchangeability import rows_are_exchangeable
from amortized.latent_priors.problems import PROBLEMS
from amortized.networks import DistributionTransformerConfig
from amortized.priors import ProgramPrior
from amortized.training import TrainingConfig, train


class Simulated(dist.Normal):
    """A normal without its density."""

    def log_prob(self, value):
        raise NotImplementedError


def regression(law):
    def program(x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        noise = pyro.sample("noise", dist.LogNormal(0.0, 0.3))
        return pyro.sample("y", law(slope * x[:, 0], noise).to_event(1), obs=y)

    return ProgramPrior(program, inputs=1)


def trend(law):
    def program(x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        return pyro.sample("y", law(slope * torch.arange(len(x)), 1.0).to_event(1), obs=y)

    return ProgramPrior(program)


def walk(law):
    """Every row has the law of a sum: the last two are the most alike."""

    def program(x, y=None):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.3))
        shared = torch.randn(len(x)).cumsum(0) if law is Simulated else torch.zeros(len(x))
        grown = scale * torch.arange(1.0, len(x) + 1)
        return pyro.sample("y", law(shared, grown).to_event(1), obs=y)

    return ProgramPrior(program)


def two_numbers(law):
    """As many simulators return: summaries with a meaning each."""

    def program(x, y=None):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("y", law(mean, 0.1).to_event(1), obs=y)

    return ProgramPrior(program)


def counts(law):
    """Ties must not be taken for an order."""

    def program(x, y=None):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        noise = law(torch.zeros(len(x)), 1e-6).to_event(1)
        rows = dist.Poisson(rate).expand([len(x)]).to_event(1)
        pyro.sample("y", rows if law is dist.Normal else Rounded(rate, len(x), noise), obs=y)

    return ProgramPrior(program)


class Rounded(dist.TorchDistribution):
    """Counts without their density."""

    arg_constraints = {}
    support = torch.distributions.constraints.real_vector

    def __init__(self, rate, n, noise):
        self.rate, self.n = rate, n
        super().__init__((), (n,))

    def sample(self, sample_shape=()):
        return torch.poisson(self.rate.expand(*sample_shape, self.n))

    def log_prob(self, value):
        raise NotImplementedError


@pytest.mark.parametrize("law", [dist.Normal, Simulated])
@pytest.mark.parametrize(
    ("prior", "n_rows", "expected"),
    [
        (regression, None, True),
        (counts, None, True),
        (trend, None, False),
        (walk, None, False),
        (two_numbers, 2, False),
    ],
)
def test_order_is_seen_in_the_density_or_in_draws(prior, n_rows, expected, law):
    assert rows_are_exchangeable(prior(law), n_rows) is expected


@pytest.mark.parametrize("name", ["dt-mean", "dt-linear", "dt-logistic", "dt-gp-hyper"])
def test_named_sets_are_sets(name):
    assert rows_are_exchangeable(PROBLEMS[name].program())


def test_an_ordered_program_of_a_fixed_length_is_read_in_order():
    size = DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1, d_hidden=16)
    config = TrainingConfig(n_steps=30, n_context=(2, 2))
    network = train(two_numbers(Simulated), size, config, progress=False)
    assert network.config.lengths == (2,)
    prior = LatentTasks(two_numbers(Simulated), n_rows=2).sample(1, 2, seed=0).latent_prior
    answers = [
        network(prior, {"data": torch.tensor([[[a], [b]]])}).mean
        for a, b in ((0.1, 0.2), (0.2, 0.1))
    ]
    assert not torch.equal(*answers)


def test_an_ordered_program_of_any_length_is_refused():
    size = DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1, d_hidden=16)
    config = TrainingConfig(n_steps=1, n_context=(2, 5))
    with pytest.raises(ValueError, match="not exchangeable.*n_context="):
        train(trend(dist.Normal), size, config, progress=False)
    said = trend(dist.Normal)
    said.ordered = 0
    assert LatentTasks(said).ordered == 0
