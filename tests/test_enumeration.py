"""Discrete latents are summed out exactly, and refused where they cannot be."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.infer import infer
from amortized.program.density import ProgramDensity

X = torch.zeros(2, 7, 0, dtype=torch.float64)
Y = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def component_of_each_row(x, y=None):
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
    means = pyro.sample("means", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("rows", len(x)):
        component = pyro.sample("component", dist.Categorical(shares))
        return pyro.sample("y", dist.Normal(means[component], 1.0), obs=y)


def mixture(x, y=None):
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
    means = pyro.sample("means", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    law = dist.MixtureSameFamily(dist.Categorical(shares), dist.Normal(means, 1.0))
    return pyro.sample("y", law.expand([len(x)]).to_event(1), obs=y)


def one_switch(x, y=None):
    """One coin decides for all rows, and for the law of a continuous latent."""
    outlier = pyro.sample("outlier", dist.Bernoulli(0.3))
    mean = pyro.sample("mean", dist.Normal(4 * outlier, 1.0))
    pyro.deterministic("twice", 2 * mean)
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(mean, 1 + outlier), obs=y)


def hidden_chain(x, y=None):
    stay = pyro.sample("stay", dist.Beta(2.0, 2.0))
    state = torch.zeros(())
    for t in pyro.markov(range(len(x))):
        state = pyro.sample(f"state {t}", dist.Bernoulli(torch.where(state > 0, stay, 1 - stay)))
        pyro.sample(f"row {t}", dist.Normal(state, 1.0), obs=x[t, 0])
    return pyro.sample("y", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1), obs=y)


def random_u(density, n=5):
    return torch.randn(2, n, density.dim, dtype=torch.float64)


def test_components_of_rows_are_a_mixture():
    enumerated, marginal = (ProgramDensity(p, X, Y) for p in (component_of_each_row, mixture))
    assert enumerated.vectorised and enumerated.layout == marginal.layout
    u = random_u(marginal)
    for ours, expected in zip(
        enumerated.log_prior_and_likelihood(u), marginal.log_prior_and_likelihood(u), strict=True
    ):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        enumerated.log_density_of_one(u[0, 0]), marginal.log_density(u)[0, 0]
    )


def test_gradient_is_that_of_the_sum():
    gradients = []
    for program in (component_of_each_row, mixture):
        density = ProgramDensity(program, X, Y)
        u = torch.linspace(-1, 1, 2 * 3 * density.dim, dtype=torch.float64)
        u = u.reshape(2, 3, density.dim).requires_grad_()
        gradients.append(torch.autograd.grad(density.log_density(u).sum(), u)[0])
    torch.testing.assert_close(*gradients)


def test_a_switch_may_decide_the_prior_of_a_continuous_latent():
    density = ProgramDensity(one_switch, X, Y)
    u = random_u(density)
    mean = density.constrain(u)["mean"]
    joint, prior = [], []
    for value, chance in ((0.0, 0.7), (1.0, 0.3)):
        law = dist.Normal(torch.tensor(4.0 * value, dtype=torch.float64), 1.0)
        prior.append(law.log_prob(mean) + torch.tensor(chance, dtype=torch.float64).log())
        rows = dist.Normal(mean.unsqueeze(-1), 1 + value).log_prob(Y.unsqueeze(1)).sum(-1)
        joint.append(prior[-1] + rows)
    expected_prior, expected = (torch.stack(parts).logsumexp(0) for parts in (prior, joint))
    torch.testing.assert_close(density.log_prior(u), expected_prior)
    torch.testing.assert_close(density.log_density(u), expected)


def test_a_hidden_chain_is_summed_by_the_forward_recursion():
    rows = Y.unsqueeze(-1)
    density = ProgramDensity(hidden_chain, rows, torch.zeros_like(Y))
    u = random_u(density, 3)
    stay = density.constrain(u)["stay"]
    table = torch.stack([torch.stack([stay, 1 - stay], -1), torch.stack([1 - stay, stay], -1)], -2)
    states = torch.tensor([0.0, 1.0], dtype=torch.float64)
    forward = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(2, 3, 1, 2)
    for t in range(7):
        seen = dist.Normal(states, 1.0).log_prob(Y[:, t, None, None, None]).exp()
        forward = forward @ table * seen
    constant = dist.Normal(0.0, 1.0).log_prob(torch.zeros(7)).sum()
    expected = forward.sum((-1, -2)).log() + constant
    torch.testing.assert_close(density.log_likelihood(u), expected)


def test_smc_agrees_with_the_program_that_is_summed_by_hand():
    ours, marginal = (
        infer(program, Y[0, :4], method="smc", n_draws=512)
        for program in (one_switch, one_switch_by_hand)
    )
    scale = marginal.std["mean"]
    assert abs(ours.mean["mean"] - marginal.mean["mean"]) < 0.35 * scale
    assert abs((ours.std["mean"] / scale).log()) < 0.3
    assert abs(ours.log_evidence - marginal.log_evidence) < 0.2
    # The switch among the draws is the one outside of the rows, so it decides for new ones too.
    weight = ours.draws["outlier"].double()
    assert abs(weight.mean() - ours.probabilities("outlier")[1]) < 5 * 0.5 / math.sqrt(512)
    predictive = ours.predictive(X[0]).variance[0]
    variance = ours.draws["mean"].var() + ((1 + weight) ** 2).mean()
    assert abs(predictive / variance - 1) < 0.01


def one_switch_by_hand(x, y=None):
    odds = dist.Categorical(torch.tensor([0.7, 0.3]))
    mean = pyro.sample(
        "mean", dist.MixtureSameFamily(odds, dist.Normal(torch.tensor([0.0, 4.0]), 1.0))
    )
    weight = torch.stack([dist.Normal(m, 1.0).log_prob(mean) for m in (0.0, 4.0)]) + odds.logits
    rows = dist.Normal(mean.expand(2, len(x)), torch.tensor([[1.0], [2.0]])).to_event(1)
    law = dist.MixtureSameFamily(dist.Categorical(logits=weight), rows)
    return pyro.sample("y", law, obs=y)


def counts(x, y=None):
    n = pyro.sample("n", dist.Poisson(3.0))
    mean = pyro.sample("mean", dist.Normal(n, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def rows_alike(x, y=None):
    """Independent coins without a plate: Pyro would give all of them one value."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    coins = pyro.sample("coins", dist.Bernoulli(torch.full((len(x),), 0.5)))
    return pyro.sample("y", dist.Normal(shift + coins, 1.0).to_event(1), obs=y)


WRONG = {
    "no finite support": (counts, "'n' of Poisson, which Pyro cannot enumerate"),
    "rows without a plate": (rows_alike, "can be evaluated"),
}


@pytest.mark.parametrize("program, message", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("n", [2, 7])
def test_what_cannot_be_enumerated_is_refused(program, message, n):
    with pytest.raises(ValueError, match=message):
        ProgramDensity(program, X[:, :n], Y[:, :n])


def two_coins(x, y=None):
    """The rows are an event, so Pyro would take the second coin's values for the first's."""
    a = pyro.sample("a", dist.Bernoulli(0.3))
    b = pyro.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
    return pyro.sample("y", dist.Bernoulli(0.1 + 0.8 * b * torch.ones(len(x))).to_event(1), obs=y)


def coin_and_shift(x, y=None):
    """The rows are an event, so the coin's values would be taken for rows."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    coin = pyro.sample("coin", dist.Bernoulli(0.3))
    return pyro.sample("y", dist.Normal(shift + coin, 1.0).expand([len(x)]).to_event(1), obs=y)


def choice_of_a_matrix(x, y=None):
    """A value chosen by an index and an if, which neither Pyro nor vmap can follow."""
    which = pyro.sample("which", dist.Categorical(torch.tensor([0.5, 0.25, 0.25])))
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    noise = [0.5, 1.0, 2.0][int(which)] if which < 2 else 2.0
    return pyro.sample("y", dist.Normal(mean, noise).expand([len(x)]).to_event(1), obs=y)


def switch_and_components(x, y=None):
    """A coin for all rows beside one for each."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    for_all = pyro.sample("for all", dist.Bernoulli(0.3))
    with pyro.plate("rows", len(x)):
        each = pyro.sample("each", dist.Bernoulli(0.2 + 0.5 * for_all))
        return pyro.sample("y", dist.Normal(mean + 3 * each, 1.0 + for_all), obs=y)


def summed(terms):
    return torch.stack([math.log(chance) + log for chance, log in terms]).logsumexp(0)


def rows_of(loc, scale, y):
    return dist.Normal(loc, scale).log_prob(y).sum(-1)


def by_hand(name, mean, y):
    """The log likelihood of each program, written as a sum over its discrete latents."""
    mean, y = mean.unsqueeze(-1), y.unsqueeze(1)
    if name == "coin_and_shift":
        return summed([(0.7, rows_of(mean, 1.0, y)), (0.3, rows_of(mean + 1, 1.0, y))])
    if name == "choice_of_a_matrix":
        scales = ((0.5, 0.5), (0.25, 1.0), (0.25, 2.0))
        return summed([(chance, rows_of(mean, scale, y)) for chance, scale in scales])
    terms = []
    for chance, share, scale in ((0.7, 0.2, 1.0), (0.3, 0.7, 2.0)):
        each = [dist.Normal(mean + 3 * k, scale).log_prob(y) for k in (0, 1)]
        terms.append((chance, summed([(1 - share, each[0]), (share, each[1])]).sum(-1)))
    return summed(terms)


@pytest.mark.parametrize("program", [coin_and_shift, choice_of_a_matrix, switch_and_components])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_sum_is_right_however_the_latents_broadcast(program, n):
    density = ProgramDensity(program, X[:, :n], Y[:, :n])
    u = random_u(density)
    mean = density.constrain(u)[next(iter(density.layout))]
    expected = by_hand(program.__name__, mean, Y[:, :n])
    torch.testing.assert_close(density.log_likelihood(u), expected)


@pytest.mark.parametrize("n", [2, 3])
def test_two_coins_that_broadcast_against_rows(n):
    y = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)[:n]
    expected = 0.0
    for a, b in itertools.product((0, 1), (0, 1)):
        p_b, p_y = 0.2 + 0.6 * a, 0.1 + 0.8 * b
        p = (0.3 if a else 0.7) * (p_b if b else 1 - p_b)
        expected += p * math.prod(p_y if each else 1 - p_y for each in y.tolist())
    assert abs(infer(two_coins, y).log_evidence.item() - math.log(expected)) < 1e-9


def noisy(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0)) + torch.randn(())
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def with_parameter(x, y=None):
    scale = pyro.param("scale", torch.tensor(1.0))
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, scale).expand([len(x)]).to_event(1), obs=y)


def if_positive(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0)) if mean > 0 else 1.0
    return pyro.sample("y", dist.Normal(mean, scale).expand([len(x)]).to_event(1), obs=y)


def if_negative(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0)) if mean <= 0 else 1.0
    return pyro.sample("y", dist.Normal(mean, scale).expand([len(x)]).to_event(1), obs=y)


class Counting:
    """Keeps something from one run for the next."""

    n_runs = 0

    def __call__(self, x, y=None):
        self.n_runs += 1
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        law = dist.Normal(mean, float(self.n_runs)).expand([len(x)])
        return pyro.sample("y", law.to_event(1), obs=y)


MISREAD = {
    "noise of its own": (noisy, "log likelihood of .* where a plain run"),
    "state of its own": (Counting(), "log likelihood of .* where a plain run"),
    "site under if": (if_positive, "'scale'.*in some runs only.*torch.where"),
    "site under if not": (if_negative, "'scale'.*in some runs only.*torch.where"),
}


@pytest.mark.parametrize("program, message", MISREAD.values(), ids=MISREAD)
@pytest.mark.parametrize("method", ["auto", "nuts"])
def test_a_program_that_cannot_be_read_is_refused(program, message, method):
    with pytest.raises(ValueError, match=message):
        infer(program, Y[0], method=method, n_draws=10)


def test_a_parameter_that_is_not_inferred_is_said():
    with pytest.warns(UserWarning, match=r"pyro.param \['scale'\].*Give it a prior"):
        infer(with_parameter, Y[0], method="laplace", n_draws=10)


def loop_sampler(x, y=None):
    """A prior that is drawn by numbers read out of tensors."""
    mean = pyro.sample("mean", Accepted(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


class Accepted(dist.Normal):
    """A standard normal by rejection from a Cauchy, which `vmap` cannot follow."""

    def sample(self, sample_shape=()):
        while True:
            value = torch.tan(math.pi * (torch.rand(()) - 0.5))
            ratio = (1 + value**2) * torch.exp(-0.5 * value**2) / 1.2131
            if torch.rand(()) < ratio:
                return value


def test_a_prior_whose_sampler_cannot_be_vectorised_is_drawn_one_by_one():
    density = ProgramDensity(loop_sampler, X, Y)
    assert density.vectorised
    u = density.sample_prior(150)
    assert u.shape == (2, 150, 1) and u.dtype == torch.float64
    assert abs(u.mean()) < 4 / math.sqrt(300) and abs(u.std() - 1) < 4 / math.sqrt(600)
