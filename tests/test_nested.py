"""Nested sampling: exact evidences within the stated errors, exact moments, and its checks."""

import math
import warnings

import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from scipy.special import betaln

from amortized.infer import infer
from amortized.program.density import ProgramDensity
from amortized.sampling import nested as nested_module
from amortized.sampling.checks.verdict import LIMITS
from amortized.sampling.nested import N_RUNS, nested
from amortized.sampling.steps.constrained_slice import evaluated, sampled_prior, slice_moves
from amortized.sampling.steps.shrinkage import Points, shrinkage

SMALL = {"n_live": 128, "n_steps": 4}


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def observed(x, y, like):
    """An observation that says nothing: N(0, 1) whatever the latents."""
    return pyro.sample("y", dist.Normal(0 * like, 1.0).expand([len(x)]).to_event(1), obs=y)


NOTHING = tensor(0.0)
LOG_NOTHING = -0.5 * math.log(2 * math.pi)


def coin(x, y=None):
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)


def line(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.5).to_event(1))
    mean = w[0] + w[1] * x[:, 0]
    return pyro.sample("y", dist.Normal(mean, 0.7).to_event(1), obs=y)


def two_modes(x, y=None):
    mean = pyro.sample("mean", dist.Normal(1.0, 5.0))
    return pyro.sample("y", dist.Normal(mean.abs(), 0.3).expand([len(x)]).to_event(1), obs=y)


def dependent(x, y=None):
    """A prior whose second latent has the first one's scale, and a simplex."""
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    effect = pyro.sample("effect", dist.Normal(0.0, scale))
    share = pyro.sample("share", dist.Dirichlet(tensor(1.0, 2.0, 3.0)))
    mean = effect + share[0]
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def steps(x, y=None):
    """A likelihood of plateaus, and 0 on a half: ties everywhere."""
    t = pyro.sample("t", dist.Uniform(0.0, 1.0))
    pyro.factor("steps", torch.where(t < 0.5, -torch.inf, torch.floor(8 * t).log()))
    return observed(x, y, t)


def mixed(x, y=None):
    """A discrete latent, summed out."""
    z = pyro.sample("z", dist.Bernoulli(tensor(0.3).squeeze()))
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean + 3 * z, 1.0).expand([len(x)]).to_event(1), obs=y)


def exact_coin(y):
    ones, zeros = y.sum().item(), (1 - y).sum().item()
    return betaln(2 + ones, 3 + zeros) - betaln(2, 3)


def exact_two_modes(y):
    def joint(mean):
        likelihood = stats.norm.pdf(y.numpy(), abs(mean), 0.3).prod()
        return likelihood * stats.norm.pdf(mean, 1.0, 5.0)

    return math.log(sum(integrate.quad(joint, *ends)[0] for ends in ((-4, 0), (0, 4))))


def exact_mixed(y):
    n = len(y)
    covariance = torch.eye(n) + torch.ones(n, n)
    parts = [
        math.log(share)
        + stats.multivariate_normal(torch.full((n,), shift).numpy(), covariance).logpdf(y.numpy())
        for share, shift in ((0.7, 0.0), (0.3, 3.0))
    ]
    return torch.tensor(parts).logsumexp(0).item()


Y = tensor(0.4, 1.9, 2.2)
COINS = tensor(1.0, 1.0, 0.0, 1.0, 1.0)
X = tensor(-1.0, 0.0, 1.0, 2.0).unsqueeze(-1)
LINE = tensor(0.1, 0.9, 1.6, 3.2)


def exact_line():
    design = torch.cat([torch.ones(4, 1), X], 1).numpy()
    noise = 0.49 * torch.eye(4).numpy()
    prior = 2.25 * torch.eye(2).numpy()
    return oracles.linear_gaussian(design, LINE.numpy(), torch.zeros(2).numpy(), prior, noise)


CASES = {
    "coin": (coin, None, COINS, exact_coin(COINS)),
    "line": (line, X, LINE, exact_line()[2]),
    "two modes": (two_modes, None, Y, exact_two_modes(Y)),
    "plateaus": (steps, None, NOTHING, math.log((4 + 5 + 6 + 7) / 8) + LOG_NOTHING),
    "discrete": (mixed, None, Y, exact_mixed(Y)),
}


@pytest.mark.parametrize("name", CASES)
def test_evidence_is_exact_within_the_stated_error(name):
    program, x, y, exact = CASES[name]
    x = torch.zeros(len(y), 0) if x is None else x
    many = 2  # equal datasets, so that one call gives several answers
    xs, ys = x.double().expand(many, *x.shape), y.expand(many, *y.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*mcse")  # of so few live points
        n_steps = 8 if name == "discrete" else 4  # with fewer its runs differ, and are repeated
        found = infer(program, xs, ys, method="nested", seed=1, n_live=128, n_steps=n_steps)
    off = (found.log_evidence - exact) / found.log_evidence_error
    assert off.abs().max() < 4.5, (found.log_evidence, exact)
    assert off.mean().abs() < 4.5 / many**0.5
    assert (found.log_evidence_error < 0.6).all()
    assert found.diagnostics["likelihood_calls"] > 0


def test_draws_have_the_exact_moments():
    mean, covariance, _ = exact_line()
    found = infer(line, X, LINE, method="nested", n_live=512, n_steps=8, seed=2)
    draws, sd = found["w"], torch.tensor(covariance).diagonal().sqrt()
    error = found.diagnostics["mcse_mean"] * sd
    assert ((draws.mean(0) - torch.tensor(mean)).abs() < 5 * error).all()
    assert ((draws.std(0) / sd).log().abs() < 0.25).all()
    assert not found.diagnostics["doubt"]


def test_information_is_the_divergence_of_the_posterior_from_the_prior():
    mean, covariance, _ = exact_line()
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), 2.25 * torch.eye(2))
    posterior = torch.distributions.MultivariateNormal(torch.tensor(mean), torch.tensor(covariance))
    expected = torch.distributions.kl_divergence(posterior, prior)
    found = infer(line, X, LINE, method="nested", n_draws=10, seed=3, **SMALL)
    assert found.diagnostics["information"] == pytest.approx(expected.item(), abs=0.8)


def test_dependent_priors_need_no_inverse_distribution_function():
    y = tensor(2.0, 3.0)
    one = infer(dependent, y, method="nested", seed=4, **SMALL)
    other = infer(dependent, y, method="importance", n_draws=4000, seed=4)
    error = math.hypot(one.log_evidence_error, other.log_evidence_error)
    assert abs(one.log_evidence - other.log_evidence) < 4.5 * error
    assert one["share"].shape == (1000, 3)


def test_slice_moves_leave_the_restricted_prior_invariant():
    """From draws above the threshold to draws above it: the same law, by two-sample tests."""

    def program(x, y=None):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Exponential(1.0))
        pyro.factor("likelihood", -((a - 0.5) ** 2) - 0.3 * b)
        return observed(x, y, a)

    density = ProgramDensity(program, torch.zeros(1, 1, 0).double(), torch.zeros(1, 1).double())
    pool = sampled_prior(density, 20000)
    order = pool.order()
    threshold = pool.take(order[:, 9999:10000])
    above = pool.take(order[:, 10000:])
    start, rest = (above.take(half) for half in torch.randperm(10000).unsqueeze(0).chunk(2, 1))
    moved = slice_moves(
        density, start, (threshold.log_likelihood, threshold.label), torch.eye(2).double()[None], 4
    )
    assert bool((moved.log_likelihood >= threshold.log_likelihood).all())
    again = evaluated(density, moved.u)
    torch.testing.assert_close(again.log_likelihood, moved.log_likelihood)
    for a, b in ((moved.u[0, :, 0], rest.u[0, :, 0]), (moved.u[0, :, 1], rest.u[0, :, 1])):
        assert stats.ks_2samp(a.numpy(), b.numpy()).pvalue > 1e-4
    assert (moved.u != start.u).any(-1).all()


def test_shrinkage_is_that_of_uniform_order_statistics():
    """Of n points with known volumes, the expected log volumes are the exact ones."""
    volume = torch.rand(2000, dtype=torch.float64)
    points = Points(
        volume.unsqueeze(-1), -volume, torch.rand(2000), torch.full((2000,), -1),
        torch.arange(2000) % 4,
    )  # fmt: skip
    merged = shrinkage(points)
    assert merged.n_live.tolist() == list(range(2000, 0, -1))
    log_x = -(1 / merged.n_live.double()).cumsum(0)
    torch.testing.assert_close(log_x[:1500].exp(), volume.sort(descending=True).values[:1500],
                               atol=0.06, rtol=0.0)  # fmt: skip
    of_run = shrinkage(points.of_run(2))
    assert of_run.n_live.tolist() == list(range(500, 0, -1))
    z = merged.simulated_evidence()
    assert z.std() > 0


def test_ranks_reveal_moves_that_are_not_those_of_the_restricted_prior(monkeypatch):
    def climbing(density, start, threshold, factor, n_steps):
        """The better of two points: above the threshold, but too high."""
        one, other = (slice_moves(density, start, threshold, factor, n_steps) for _ in range(2))
        higher = one.log_likelihood > other.log_likelihood
        return type(one)(
            *(torch.where(higher[..., None] if a.ndim == 3 else higher, a, b)
              for a, b in zip(one, other, strict=True))
        )  # fmt: skip

    monkeypatch.setattr(nested_module, "slice_moves", climbing)
    with pytest.warns(UserWarning, match="do not rank uniformly"):
        found = infer(line, X, LINE, method="nested", seed=6, n_draws=100, n_live=128, n_steps=2)
    assert found.diagnostics["insertion_p"] < LIMITS["insertion_p"].value


def test_too_few_steps_are_seen_as_runs_that_differ_or_in_a_larger_error():
    x, y = torch.zeros(2, 1, 0).double(), torch.zeros(2, 1).double()

    def program(x, y=None):
        t = pyro.sample("t", dist.Normal(torch.zeros(6), 1.0).to_event(1))
        pyro.factor("narrow", -0.5 * (t / 0.05).square().sum())
        return observed(x, y, t[0])

    exact = 6 * math.log(0.05 / math.sqrt(1 + 0.05**2)) + LOG_NOTHING
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = infer(program, x, y, method="nested", seed=7, n_draws=100, n_live=128, n_steps=1)
    off = (found.log_evidence - exact).abs() / found.log_evidence_error
    in_doubt = torch.tensor([bool(each) for each in found.diagnostics["doubt"]])
    assert bool((in_doubt | (off < 4.5)).all())


WRONG = {
    "few": ({"n_live": 32}, "Expected n_live >= 64"),
    "odd": ({"n_live": 100}, "a multiple of 32"),
    "steps": ({"n_steps": 0}, "Expected n_steps >= 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_refused(name):
    options, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        infer(line, X, LINE, method="nested", **options)


def test_impossible_data_and_unbounded_likelihoods_are_refused(monkeypatch):
    def nowhere(x, y=None):
        t = pyro.sample("t", dist.Uniform(0.0, 1.0))
        pyro.factor("zero", torch.where(t < 2.0, -torch.inf, 0.0))
        return observed(x, y, t)

    with pytest.raises(ValueError, match="impossible"):
        infer(nowhere, NOTHING, method="nested", n_live=64)

    def unbounded(x, y=None):
        t = pyro.sample("t", dist.Uniform(0.0, 1.0))
        pyro.factor("spike", -1.5 * (t - 0.5).abs().clamp(min=1e-300).log())
        return observed(x, y, t)

    monkeypatch.setattr(nested_module, "_MOST_ROUNDS", 4)
    with pytest.raises(ValueError, match="no upper bound"):
        infer(unbounded, NOTHING, method="nested", n_live=64, n_steps=2)


def test_simulators_are_refused_with_what_to_do():
    class Simulator(dist.TorchDistribution):
        arg_constraints = {}
        support = dist.constraints.real

        def __init__(self, mean):
            super().__init__(mean.shape, validate_args=False)
            self.mean_ = mean

        def sample(self, sample_shape=()):
            return self.mean_ + torch.randn(torch.Size(sample_shape) + self.mean_.shape)

        def expand(self, batch_shape, _instance=None):
            return Simulator(self.mean_.expand(batch_shape))

        def log_prob(self, value):
            raise NotImplementedError

    def program(x, y=None):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        return pyro.sample("y", Simulator(m.expand(len(x))).to_event(1), obs=y)

    with pytest.raises(ValueError, match="Expected an observation with a density"):
        infer(program, Y, method="nested")


def test_calls_count_every_evaluation(monkeypatch):
    density = ProgramDensity(line, X[None], LINE[None])
    seen = []
    original = ProgramDensity.over_all

    def counting(self, function, particles):
        if function == self.evaluate:
            seen.append(particles.shape[0] * particles.shape[1])
        return original(self, function, particles)

    monkeypatch.setattr(ProgramDensity, "over_all", counting)
    draws = nested(density, 10, n_live=4 * N_RUNS, n_steps=2)
    assert draws.diagnostics["likelihood_calls"] == density.n_calls
    assert density.n_calls == sum(seen)
