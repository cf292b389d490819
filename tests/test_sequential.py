"""Updates of programs that no network knows, against quadrature and against all rows at once."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.infer import infer
from amortized.infer.streaming import drift, update
from amortized.posterior import Posterior

GRID = torch.linspace(-4.0, 4.0, 321, dtype=torch.float64)
POINTS = torch.cartesian_prod(GRID, GRID)


def counts(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Poisson((a + b * x[:, 0]).exp()), obs=y)


def many_counts(n_streams, n_rows):
    x = torch.randn(n_streams, n_rows, 1, dtype=torch.float64)
    a, b = torch.randn(2, n_streams, 1, dtype=torch.float64) / 2
    return x, torch.poisson((a + b * x[..., 0]).exp())


def log_posterior(x, y):
    """Of the counts on the grid, normalised, and the log evidence."""
    rate = POINTS[:, :1] + POINTS[:, 1:] * x[:, 0]
    log_density = dist.Poisson(rate.exp()).log_prob(y).sum(-1)
    log_density = log_density + dist.Normal(0.0, 1.0).log_prob(POINTS).sum(-1)
    cell = 2 * (GRID[1] - GRID[0]).log()
    return log_density - log_density.logsumexp(0) - cell, log_density.logsumexp(0) + cell


def symmetric_divergence(log_p, log_q):
    cell = (GRID[1] - GRID[0]).square()
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum() * cell / 2


def test_fifty_updates_without_a_network_end_where_all_rows_lead():
    x, y = many_counts(2, 50)
    posterior = None
    for i in range(50):
        posterior = update(counts, posterior, x[:, i : i + 1], y[:, i : i + 1], n_draws=100)
    for i in range(2):
        exact, _ = log_posterior(x[i], y[i])
        assert symmetric_divergence(exact, posterior.mixture[i].log_prob(POINTS)) < 0.05
    assert posterior.diagnostics["total_divergence"].shape == (2,)
    assert (posterior.diagnostics["share_in_tail"] < 0.1).all()
    assert (drift(counts, x, y, posterior) < 0.05).all()


def test_updates_that_keep_the_rows_are_exact():
    x, y = many_counts(4, 40)
    posterior = infer(counts, x[:, :10], y[:, :10])
    for rows in (slice(10, 11), slice(11, 25), slice(25, 40)):
        posterior = posterior.update(x[:, rows], y[:, rows])
    summary = posterior.summary()
    for i in range(4):
        exact, evidence = log_posterior(x[i], y[i])
        assert posterior.log_evidence[i].item() == pytest.approx(evidence.item(), abs=0.05)
        weights = exact.softmax(0)
        for at, name in enumerate("ab"):
            mean = weights @ POINTS[:, at]
            sd = (weights @ (POINTS[:, at] - mean).square()).sqrt()
            row = summary[f"{name}[{i}]"]
            assert abs(row["mean"] - mean) < 5 * row["mcse_mean"]
            assert row["sd"] == pytest.approx(sd.item(), rel=0.15)
    assert posterior.diagnostics["doubt"] == [[]] * 4
    assert (posterior.diagnostics["divergence"] < 0.02).all()


@pytest.mark.parametrize("missing_first", [True, False])
def test_missing_rows_may_come_first_or_later(missing_first):
    x, y = many_counts(1, 12)
    x, y = x[0], y[0]
    gaps = y.clone()
    gaps[2 if missing_first else 9] = torch.nan
    posterior = infer(counts, x[:6], gaps[:6]).update(x[6:], gaps[6:])
    seen = ~gaps.isnan()
    _, evidence = log_posterior(x[seen], y[seen])
    assert abs(posterior.log_evidence - evidence) < 5 * posterior.log_evidence_error + 1e-3


def test_a_row_that_contradicts_all_earlier_ones_is_read_right():
    x = torch.ones(1, 9, 1, dtype=torch.float64)
    y = torch.tensor([[0.0, 1, 0, 0, 1, 0, 0, 0, 25]], dtype=torch.float64)
    kept = infer(counts, x[:, :8], y[:, :8]).update(x[:, 8:], y[:, 8:])
    forgotten = update(counts, None, x[:, :8], y[:, :8])
    with pytest.warns(UserWarning, match="contradict"):  # a fitted mixture has other tails
        update(counts, forgotten, x[:, 8:], y[:, 8:])
    exact, evidence = log_posterior(x[0], y[0])
    assert kept.log_evidence.item() == pytest.approx(evidence.item(), abs=0.05)
    assert symmetric_divergence(exact, kept.mixture[0].log_prob(POINTS)) < 0.05


def square(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(a.square(), 0.5), obs=y)


@pytest.mark.parametrize("keep", [True, False])
def test_two_modes_stay_two(keep):
    y = 1.0 + 0.5 * torch.randn(24)
    rows = y.reshape(8, 3)
    nothing = torch.zeros(3, 0)
    posterior = infer(square, rows[0]) if keep else update(square, None, nothing, rows[0])
    for row in rows[1:]:
        posterior = posterior.update(row) if keep else update(square, posterior, nothing, row)
    share = (posterior.sample(1000, seed=0)["a"] > 0).double().mean()
    assert share.item() == pytest.approx(0.5, abs=0.1)
    whole = infer(square, y)
    assert posterior.std["a"].item() == pytest.approx(whole.std["a"].item(), rel=0.1)


def coin(x, y=None):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Bernoulli(p), obs=y)


def test_where_there_is_a_closed_form_the_update_is_exact_and_pickles():
    first, more = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0])
    updated = pickle.loads(pickle.dumps(infer(coin, first))).update(more)
    whole = infer(coin, torch.cat((first, more)))
    assert updated.diagnostics["method"] == "exact"
    torch.testing.assert_close(updated.log_evidence, whole.log_evidence)
    p = {"p": torch.tensor(0.3)}
    torch.testing.assert_close(updated.log_prob(p), whole.log_prob(p))
    assert updated.update(more, seed=1).n_draws == updated.n_draws


def dependent(x, y=None):
    """Rows that depend on each other beyond the latents."""
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    distance = (x - x.mT).abs()
    covariance = (-distance / scale).exp() + 0.1 * torch.eye(len(x))
    return pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


def test_dependent_rows_are_read_together():
    x = torch.linspace(0, 4, 12, dtype=torch.float64).unsqueeze(-1)
    y = torch.sin(2 * x[:, 0])
    updated = infer(dependent, x[:8], y[:8]).update(x[8:], y[8:])
    whole = infer(dependent, x, y)
    error = torch.hypot(updated.log_evidence_error, whole.log_evidence_error)
    assert (updated.log_evidence - whole.log_evidence).abs() < 5 * error + 0.02


def local(x, y=None):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.StudentT(4.0, z, 1.0), obs=y)


def without_density(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    return pyro.sample("y", NoDensity(a.expand([len(x)])), obs=y)


class NoDensity(dist.TorchDistribution):
    arg_constraints = {}

    def __init__(self, location):
        self.location = location
        super().__init__(event_shape=location.shape)

    def sample(self, sample_shape=()):
        return self.location + torch.rand(self.location.shape)


def named(sizes, effects=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(sizes)):
        pyro.sample("effects", dist.Normal(mean, sizes), obs=effects)


ROWS = torch.zeros(3, 1), torch.ones(3)
WRONG = {
    "features": (lambda: infer(counts, *ROWS).update(torch.zeros(1, 2), torch.ones(1)), "same dat"),
    "batch": (lambda: infer(counts, *ROWS).update(torch.zeros(2, 1, 1), torch.ones(2, 1)), "same"),
    "latents of rows": (lambda: infer(local, *ROWS).update(*ROWS), "latents"),
    "no program": (lambda: Posterior({"a": torch.zeros(3)}).update(*ROWS), "`infer` computed"),
    "data by names": (
        lambda: infer(named, data={"sizes": [1.0, 2.0], "effects": [0.0, 1.0]}).update(*ROWS),
        "data by names",
    ),
    "no density": (lambda: update(without_density, None, *ROWS), "density"),
    "no mixture": (lambda: drift(counts, *ROWS, infer(counts, *ROWS)), "no mixture"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()
