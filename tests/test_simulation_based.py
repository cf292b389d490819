"""Flows learned from simulations: their laws, their answers against exact ones, their warnings."""

import math
import warnings
from dataclasses import replace
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from joblib import parallel_config

from amortized.infer import infer
from amortized.infer.compare import compare
from amortized.networks.calibration import Calibration
from amortized.pretrained import load, save
from amortized.priors import ProgramPrior
from amortized.program.simulation import ProgramSimulator
from amortized.seeding import seeded
from amortized.simulation_based import (
    FlowConfig,
    FlowTraining,
    LikelihoodFlow,
    PosteriorFlow,
    Simulated,
    learned_program,
    simulate,
)
from amortized.simulation_based.flows.conditional_flow import FlowMember, LinearStart, new_flow
from amortized.simulation_based.flows.embedding import Flat, Series, new_embedding
from amortized.simulation_based.flows.standardising import Standardised
from amortized.simulation_based.learning import rows_of
from amortized.training import train

pytest.importorskip("zuko")

SMALL = {"n_transforms": 2, "n_bins": 4, "d_hidden": 16, "d_embedding": 8}
POSTERIOR, LIKELIHOOD = FlowConfig(**SMALL), FlowConfig("likelihood", **SMALL)
QUICK = FlowTraining(n_simulations=1000, max_epochs=8, lr=3e-3)


class Noisy(dist.TorchDistribution):
    """Draws a normal sample and does not know its density."""

    arg_constraints: ClassVar = {}

    def __init__(self, mean, n):
        self.centre = mean
        super().__init__(mean.shape, torch.Size([n]), validate_args=False)

    def sample(self, sample_shape=()):
        noise = torch.randn(self._extended_shape(torch.Size(sample_shape)))
        return self.centre.unsqueeze(-1) + noise


def hidden(x, y=None):
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 2.0))
    return pyro.sample("y", Noisy(mean, len(x)), obs=y)


def open_(x, y=None):
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 2.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def folded(x, y=None):
    """Two far modes, which no linear start comes near."""
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 2.0))
    return pyro.sample("y", Noisy(20.0 * mean.abs(), len(x)), obs=y)


def failing(x, y=None):
    """Raises for large latents and gives NaN for small ones; no vectorised run."""
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))
    if mean > 1:
        raise RuntimeError("the solver did not converge")
    return pyro.sample("y", Noisy(mean if mean > -1 else mean * torch.nan, len(x)), obs=y)


def exact(y, prior_sd=2.0):
    """Mean, standard deviation and log evidence for a normal mean with unit noise."""
    y = torch.as_tensor(y, dtype=torch.float64)
    n, variance = len(y), 1 / (len(y) + prior_sd**-2)
    evidence = -0.5 * (n * math.log(2 * math.pi) - math.log(variance / prior_sd**2))
    evidence += 0.5 * (y.sum() ** 2 * variance - y.square().sum())
    return y.sum() * variance, variance**0.5, evidence


Y = [1.0, 2.0, 0.5, 1.5]


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_standardising_is_inverted_and_its_determinant_is_the_derivative(scale):
    torch.manual_seed(0)
    rows = scale * torch.cat([torch.randn(400, 1), torch.randn(400, 1).pow(5)], 1)
    columns = Standardised(2)
    columns.fit(rows)
    z = columns(rows)
    assert columns.numbers[2].tolist() == [0.0, 1.0]  # the second has heavy tails
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=5e-3, rtol=0)
    torch.testing.assert_close(columns.inverse(z), rows, rtol=1e-3, atol=1e-3 * scale)
    point = rows[7]
    jacobian = torch.autograd.functional.jacobian(columns, point)
    torch.testing.assert_close(columns.log_det(point), jacobian.diagonal().log().sum())


@pytest.mark.parametrize("n_bins", [0, 6])
def test_a_flow_integrates_to_one_and_is_inverted(n_bins):
    torch.manual_seed(1)
    member = FlowMember(Flat(), new_flow(2, 3, 2, n_bins, 8))
    for value in member.parameters():  # away from the identity
        value.data += 0.3 * torch.randn_like(value)
    inputs = torch.randn(1, 3)
    line = torch.linspace(-9, 9, 301)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = member.log_prob(grid, inputs.expand(len(grid), -1)).exp().sum()
        noise = torch.randn(50, 1, 2)
        back = member.to_noise(member.inverse(noise, inputs), inputs)
    assert float(total) * float(line[1] - line[0]) ** 2 == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(back, noise, atol=1e-3, rtol=1e-3)


def test_a_new_flow_is_nearly_the_linear_regression():
    torch.manual_seed(2)
    given = torch.randn(500, 3)
    value = given @ torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]) + 0.1 * torch.randn(500, 2)
    start = LinearStart(2, 3)
    start.fit(value, given)
    residual = start.residual(value, given)
    covariance = residual.T @ residual / 500
    torch.testing.assert_close(covariance, torch.eye(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(start.inverse(residual, given), value, atol=1e-4, rtol=1e-4)
    assert float(start.log_det) == pytest.approx(-2 * math.log(0.1), abs=0.15)
    member = FlowMember(Flat(), new_flow(2, 3, 3, 8, 16))
    with torch.no_grad():
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(residual).sum(-1)
        assert (member.log_prob(residual, given) - normal).abs().mean() < 0.3


def test_sets_forget_the_order_of_rows_and_long_series_do_not():
    torch.manual_seed(3)
    rows = torch.randn(2, 120, 3)
    for kind, same in (("exchangeable", True), ("ordered", False)):
        embedding, n_out = new_embedding(kind, 120, 3, 8)
        one, other = embedding(rows.flatten(1)), embedding(rows.flip(1).flatten(1))
        assert one.shape == (2, n_out)
        assert torch.allclose(one, other, atol=1e-5) == same
    assert isinstance(new_embedding("ordered", 120, 3, 8)[0], Series)


@pytest.mark.parametrize("program", [hidden, open_])
def test_npe_gives_the_exact_posterior(program):
    mean, sd, evidence = exact(Y)
    posterior = infer(
        program, Y, method="npe", network=POSTERIOR, training=QUICK, n_simulations=1000, seed=3
    )
    assert abs(posterior.mean["mean"] - mean) < 0.2 * sd
    assert abs(posterior.std["mean"] / sd - 1) < 0.15
    at = torch.tensor([0.5, 1.2, 2.0], dtype=torch.float64)
    true = torch.distributions.Normal(mean, sd).log_prob(at)
    assert (posterior.log_prob({"mean": at}) - true).abs().max() < 0.35
    told = posterior.diagnostics
    assert told["n_simulations"] == 1000 and told["n_failed"] == 0 and told["calibrated"]
    if program is open_:  # finished by weights under the true density
        assert told["stage"] == "importance"
        assert float(posterior.log_evidence) == pytest.approx(float(evidence), abs=0.1)
    else:
        assert posterior.log_evidence is None


def test_rounds_of_snl_give_the_posterior_and_the_evidence():
    mean, sd, evidence = exact(Y)
    posterior = infer(
        hidden,
        Y,
        method="snl",
        network=replace(LIKELIHOOD, rows="exchangeable", n_bins=0),  # affine is exact here
        training=QUICK,
        n_simulations=600,
        n_rounds=2,
    )
    assert abs(posterior.mean["mean"] - mean) < 0.4 * sd
    assert abs(posterior.std["mean"] / sd - 1) < 0.25
    assert float(posterior.log_evidence) == pytest.approx(float(evidence), abs=0.6)
    assert posterior.diagnostics["n_simulations"] == 600


def test_a_truncated_round_keeps_the_prior_within_the_region():
    mean, sd, _ = exact(Y)
    posterior = infer(
        hidden, Y, method="npe", network=POSTERIOR, training=QUICK, n_simulations=1000, n_rounds=2
    )
    assert abs(posterior.mean["mean"] - mean) < 0.25 * sd
    assert abs(posterior.std["mean"] / sd - 1) < 0.2


@pytest.fixture(scope="module")
def likelihood():
    settings = replace(QUICK, n_rows=4)
    return train(
        ProgramPrior(hidden), replace(LIKELIHOOD, rows="exchangeable"), settings, progress=False
    )


def test_a_learned_likelihood_serves_samplers_other_priors_and_comparison(likelihood):
    program = learned_program(hidden, likelihood)
    mean, sd, evidence = exact(Y)
    by_weights = infer(program, Y, method="importance")
    assert abs(by_weights.mean["mean"] - mean) < 0.35 * sd
    assert float(by_weights.log_evidence) == pytest.approx(float(evidence), abs=0.6)
    mean, sd, tight = exact(Y, prior_sd=0.5)
    other = {"mean": dist.Normal(0.0, 0.5)}
    posterior = infer(hidden, Y, method="snl", network=likelihood, latent_prior=other)
    assert abs(posterior.mean["mean"] - mean) < 0.35 * sd
    assert float(posterior.log_evidence) == pytest.approx(float(tight), abs=0.6)
    comparison = compare({"learned": program, "exact": open_}, Y)
    assert float(comparison.probabilities["learned"]) == pytest.approx(0.5, abs=0.15)


def test_counts_have_probabilities():
    def counts(x, y=None):
        log_rate = pyro.sample("log_rate", dist.Normal(x.new_tensor(1.0), 0.7))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Poisson(log_rate.exp()), obs=y)

    settings = replace(QUICK, n_rows=2, n_simulations=3000, max_epochs=15)
    network = train(ProgramPrior(counts), LIKELIHOOD, settings, progress=False)
    assert network.config.rows == "exchangeable" and network.cell.tolist() == [1.0]
    y = torch.arange(6.0)
    for rate in (3.0, 6.0):
        u = torch.tensor([math.log(rate)])  # a normal latent is its own u
        each = torch.stack([network.log_prob(u, torch.zeros(1, 0), k[None]) for k in y]).exp()
        exact_each = torch.distributions.Poisson(rate).log_prob(y).exp()
        assert (each - exact_each).abs().max() < 0.07


def test_independent_rows_serve_any_number_of_rows(likelihood):
    y = [*Y, 0.3, 1.1, 0.9]
    mean, sd, _ = exact(y)
    posterior = infer(hidden, y, method="snl", network=likelihood)
    assert abs(posterior.mean["mean"] - mean) < 0.4 * sd


@pytest.mark.parametrize("kind", ["npe", "nle"])
def test_a_flow_is_stored_with_its_calibration(kind, likelihood, tmp_path):
    network = likelihood
    if kind == "npe":
        settings = replace(QUICK, n_rows=4, max_epochs=3)
        network = train(ProgramPrior(hidden), POSTERIOR, settings, progress=False)
    again = load(save(network, tmp_path / "flow"))
    assert type(again) in (PosteriorFlow, LikelihoodFlow)
    assert isinstance(again.calibration, Calibration) and again.calibration == network.calibration
    assert again.config == network.config
    u, x, y = torch.randn(5, 1), torch.zeros(5, 4, 0), torch.randn(5, 4)
    with torch.no_grad():
        if kind == "npe":
            ours, theirs = (each.log_prob(u, each.inputs(x, y)) for each in (network, again))
        else:
            ours, theirs = (each.log_prob(u, x, y) for each in (network, again))
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.01)  # stored in half precision


def test_rounds_go_on_where_simulations_fail():
    posterior = infer(
        failing,
        [0.2, 0.4],
        method="npe",
        network=POSTERIOR,
        training=QUICK,
        n_simulations=200,
        n_rounds=2,
    )
    told = posterior.diagnostics
    assert told["n_simulations"] == 200 and 0 < told["n_failed"] < 150
    assert posterior["mean"].isfinite().all()


def test_failed_simulations_are_counted_and_left_out():
    x = torch.zeros(200, 3, 0)
    simulator = ProgramSimulator(failing, x[0])
    with seeded(5):
        u = simulator.sample_prior(x)
    one = simulate(simulator, u, x, seed=1)
    with parallel_config(backend="multiprocessing"):
        two = simulate(simulator, u, x, seed=1, n_jobs=2)
    assert one.n_calls == 200 and one.n_failed == int((u.abs() > 1).sum())
    assert len(one) == 200 - one.n_failed and one.y.isfinite().all()
    torch.testing.assert_close(one.y, two.y)
    with pytest.raises(ValueError, match="all 5 simulations failed.*did not converge"):
        simulate(simulator, torch.full((5, 1), 3.0), x[:5], seed=1)


def numbers(mean, rng):
    return mean + rng.normal(size=2)


def of_function(x, y=None):
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))
    return pyro.sample("y", Simulated(numbers, mean, shape=(2,)), obs=y)


def test_a_function_of_numpy_is_simulated_alike_with_equal_seeds():
    x = torch.zeros(300, 2, 0)
    simulator, u = ProgramSimulator(of_function, x[0]), torch.full((300, 1), 2.0)
    one, same, other = (simulate(simulator, u, x, seed=seed).y for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert abs(float(one.mean()) - 2) < 5 / math.sqrt(600)
    assert float(one.std()) == pytest.approx(1, abs=5 / math.sqrt(1200))
    with pytest.raises(ValueError, match=r"Expected data of shape \(3,\) from the simulator"):
        Simulated(numbers, torch.tensor(0.0), shape=(3,)).sample()


def test_rows_are_read_as_the_density_says():
    def walk(x, y=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        steps = mean * torch.arange(len(x), dtype=x.dtype)
        return pyro.sample("y", dist.Normal(steps, 1.0).to_event(1), obs=y)

    def dependent(x, y=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        together = torch.eye(len(x), dtype=x.dtype) + 0.5
        centre = mean + x.new_zeros(len(x))
        return pyro.sample("y", dist.MultivariateNormal(centre, together), obs=y)

    found = {p.__name__: rows_of("auto", ProgramPrior(p), 4) for p in (open_, walk, dependent)}
    assert found == {"open_": "exchangeable", "walk": "ordered", "dependent": "ordered"}
    assert rows_of("auto", ProgramPrior(hidden), 4) == "ordered"  # no density that would say


def test_a_poor_posterior_says_so_in_training_and_in_inference():
    poor = replace(QUICK, n_rows=3, n_simulations=4000, max_epochs=1, batch_size=4000)
    with pytest.warns(UserWarning, match="Do not rely on this network yet: .* not calibrated"):
        network = train(ProgramPrior(folded), POSTERIOR, poor, progress=False)
    with pytest.warns(UserWarning, match="Do not trust this network's answer"):
        posterior = infer(folded, [30.0, 31.0, 30.0], method="npe", network=network)
    assert not posterior.diagnostics["calibrated"]


def test_data_unlike_the_simulations_are_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = train(ProgramPrior(hidden), POSTERIOR, replace(QUICK, n_rows=3), progress=False)
    with pytest.warns(UserWarning, match="outside the range of its simulations"):
        posterior = infer(hidden, [90.0, 80.0, 95.0], method="npe", network=network)
    assert posterior.diagnostics["inside_training_range"] is False


def time_stamps(x, y=None):
    delay = pyro.sample("delay", dist.Normal(0.0, 1e3))
    return pyro.sample("y", dist.Normal(1.7e9 + delay, 1.0).expand([len(x)]).to_event(1), obs=y)


WRONG = {
    "target": (lambda: FlowConfig("evidence"), "Expected target among"),
    "bins": (lambda: FlowConfig(n_bins=-1), "Expected n_bins from 0"),
    "few simulations": (lambda: FlowTraining(n_simulations=3), "Expected n_simulations >= 50"),
    "held out": (lambda: FlowTraining(held_out=1.0), "Expected held_out between 0 and 1"),
    "no rows": (
        lambda: train(ProgramPrior(hidden), "npe", QUICK, progress=False),
        "Expected the number of rows",
    ),
    "data far from zero": (
        lambda: infer(time_stamps, [1.7e9, 1.7e9 + 3], method="npe", n_simulations=200),
        "simulated data whose spread shows",
    ),
    "inputs far from zero": (
        lambda: infer(hidden, 1.7e9 + torch.arange(3.0).double()[:, None], [0.0] * 3, method="npe"),
        "inputs whose spread shows",
    ),
    "rounds of a batch": (
        lambda: infer(hidden, torch.randn(2, 3), method="npe", n_rounds=2),
        "Rounds are about one dataset",
    ),
    "missing": (
        lambda: infer(
            hidden,
            [1.0, torch.nan],
            method="npe",
            network=PosteriorFlow(replace(POSTERIOR, dim=1, n_rows=2, names=("mean",))),
        ),
        "Expected data without missing answers",
    ),
    "other data": (
        lambda: infer(
            hidden,
            [1.0, 2.0],
            method="npe",
            network=PosteriorFlow(replace(POSTERIOR, dim=1, n_rows=3, names=("mean",))),
        ),
        "Expected data as the network was trained on",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_refused(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_trained_otherwise_is_refused(no_shape_checks):
    with pytest.raises(TypeError, match="Expected network to be a PosteriorFlow"):
        infer(hidden, Y, method="npe", network=torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="Expected only a FlowTraining"):
        train(ProgramPrior(hidden), "npe", directory="somewhere")


def test_without_zuko_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'amortized\[simulators\]'"):
        new_flow(1, 1, 1, 0, 4)
