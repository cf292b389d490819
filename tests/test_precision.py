"""Standard errors of draws of every kind, and of the evidence, against replicates and theory."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.program.density import ProgramDensity
from amortized.sampling.checks.bridge import bridge_evidence
from amortized.sampling.checks.convergence import clustered_variance
from amortized.sampling.checks.precision import precision, standard_errors

N_RUNS = 400


def independent(n=512):
    return {"values": torch.randn(N_RUNS, n, 1), "cluster": torch.arange(n).expand(N_RUNS, -1)}


def one_chain(n=512, correlation=0.7):
    x = torch.randn(N_RUNS, n, 1)
    for i in range(1, n):
        x[:, i] = correlation * x[:, i - 1] + math.sqrt(1 - correlation**2) * x[:, i]
    return {"values": x}


def short_chains():
    """Chains of 16 draws; the first half of the variance is the chain's."""
    chain = torch.randn(N_RUNS, 32, 1, 1).expand(-1, -1, 16, -1)
    values = (math.sqrt(0.5) * chain + math.sqrt(0.5) * torch.randn(N_RUNS, 32, 16, 1)).flatten(
        1, 2
    )
    return {"values": values, "n_chains": 32}


def families():
    cluster = torch.arange(128).repeat_interleave(4)
    shared = torch.randn(N_RUNS, 128, 1)[:, cluster]
    return {
        "values": 0.8 * shared + 0.6 * torch.randn(N_RUNS, 512, 1),
        "cluster": cluster.expand(N_RUNS, -1),
    }


def weighted():
    """Draws of a normal of deviation 1.2, weighted for the standard one."""
    u = 1.2 * torch.randn(N_RUNS, 512)
    log_weights = -0.5 * u.square() + 0.5 * (u / 1.2).square()
    return {"values": u.unsqueeze(-1), "log_weights": log_weights}


KINDS = {f.__name__: f for f in (independent, one_chain, short_chains, families, weighted)}


@pytest.mark.parametrize("kind", KINDS)
def test_stated_errors_are_the_scatter_of_runs(kind):
    given = {key: v.double() if key == "values" else v for key, v in KINDS[kind]().items()}
    values = given["values"][..., 0]
    weights = given.get("log_weights", torch.zeros(values.shape)).double().softmax(-1)
    mean = (weights * values).sum(1)
    sd = (weights * (values - mean[:, None]).square()).sum(1).sqrt()
    errors = standard_errors(**given)
    # Of 400 runs a deviation is known to 3.5%.
    assert abs(errors.mean.square().mean().sqrt() / mean.std() - 1) < 0.15
    assert abs(errors.sd.square().mean().sqrt() / sd.std() - 1) < 0.2
    found = precision(**given)
    most = 1.0 if kind != "weighted" else 1.3  # weights can be worth more than independent draws
    assert abs(found.ess_bulk.mean() * mean.var() * most - 1) < 0.2
    assert (found.ess_tail > 10).all()
    if kind != "weighted":
        assert 0.95 < found.r_hat.mean() < 1.05 or kind == "short_chains"


def test_a_nan_is_no_number():
    draws = torch.randn(2, 200, 3, dtype=torch.float64)
    draws[1, 7, 2] = torch.nan
    for part in precision(draws, n_chains=4):
        assert part.isnan().nonzero().tolist() == [[1, 2]]


def test_groups_that_disagree_have_a_large_r_hat():
    draws = torch.randn(1, 512, 2, dtype=torch.float64)
    draws[:, :64, 1] += 3.0
    r_hat = precision(draws, cluster=torch.arange(512)[None] // 4).r_hat
    assert r_hat[0, 0] < 1.05 < 1.2 < r_hat[0, 1]


def test_clusters_of_one_draw_give_the_usual_standard_error():
    values = torch.randn(3, 100, 2, dtype=torch.float64)
    labels = torch.arange(100).expand(3, -1)
    expected = values.var(1) / 100
    torch.testing.assert_close(clustered_variance(values, labels), expected)


def regression(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(4), 2.0).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)


def test_bridge_knows_the_evidence_and_its_error():
    torch.manual_seed(3)
    x = torch.randn(10, 4, dtype=torch.float64)
    y = x.sum(1) + torch.randn(10, dtype=torch.float64)
    density = ProgramDensity(regression, x.expand(200, -1, -1), y.expand(200, -1))
    precision_matrix = x.T @ x + torch.eye(4) / 4
    law = torch.distributions.MultivariateNormal(
        torch.linalg.solve(precision_matrix, x.T @ y), precision_matrix=precision_matrix
    )
    draws = law.sample((200, 256))
    found = bridge_evidence(density, draws, torch.arange(256).expand(200, -1))
    data = torch.distributions.MultivariateNormal(
        torch.zeros(10).double(), torch.eye(10) + 4 * x @ x.T
    )
    z = (found.log_evidence - data.log_prob(y)) / found.error
    assert (z.abs() < 3).double().mean() > 0.97 and 0.7 < z.std() < 1.3
    assert found.error.max() < 0.1


def test_bridge_admits_that_it_does_not_overlap():
    density = ProgramDensity(
        regression, torch.eye(4, dtype=torch.float64)[None], torch.zeros(1, 4).double()
    )
    far = 1e4 + torch.randn(1, 64, 4, dtype=torch.float64)
    found = bridge_evidence(density, far, torch.arange(64).expand(1, -1))
    assert found.error > 1 or not found.log_evidence.isfinite()


def test_a_probability_keeps_its_lower_tail():
    """torch's normal distribution function is 0 below -8.3; the density there was too large."""

    def rare(x, y=None):
        p = pyro.sample("p", dist.Beta(0.5, 0.5))
        return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)

    density = ProgramDensity(rare, torch.zeros(1, 4, 0).double(), torch.zeros(1, 4).double())
    u = torch.linspace(-38, 8, 46001, dtype=torch.float64)
    evidence = density.log_density(u[None, :, None])[0].logsumexp(0) + math.log(0.001)
    expected = torch.lgamma(torch.tensor([0.5, 4.5, 5.0, 0.5, 0.5, 1.0]).double())
    assert abs(evidence - (expected * torch.tensor([1, 1, -1, -1, -1, 1])).sum()) < 1e-3
