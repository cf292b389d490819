"""A trial holds the truth and a method's answers, whatever kind the method is."""

import copy
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.distributions import Categorical

from amortized import PFNRegressor, load
from amortized.diagnostics import (
    PosteriorTrial,
    PredictiveTrial,
    importance_efficiency,
    latent_trial,
    log_score,
    pit,
    sbc,
)
from amortized.latent_priors.catalogue import named_tasks
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.priors import named_prior
from amortized.priors.linear_regression import LinearRegressionPrior
from amortized.priors.normal_mean import NormalMeanPrior
from amortized.priors.prior import Prior, split

ALARM = 0.05
PRIOR = LinearRegressionPrior(1)


def test_trial_runs_every_kind_of_method():
    prior, size = NormalMeanPrior(), {"n_datasets": 6, "n_context": 4, "progress": False}
    exact = PosteriorTrial.run(prior, "exact", n_draws=50, batch_size=4, **size)
    assert exact.draws["mean"].shape == (50, 6) and exact.y.shape == (6, 4)

    def from_the_prior(batch, n_draws):
        return {"mean": 2 * torch.randn(n_draws, batch.n_tasks)}

    drawn = PosteriorTrial.run(prior, from_the_prior, n_draws=50, **size)
    assert drawn.method == "from_the_prior" and drawn.log_prob_truth is None
    again = PosteriorTrial.run(prior, from_the_prior, n_draws=50, **size)
    assert torch.equal(drawn.draws["mean"], again.draws["mean"])
    particles = PosteriorTrial.run(prior, "smc", n_draws=20, thin=3, n_particles=64, **size)
    assert particles.draws["mean"].shape == (20, 6) and particles.n_drawn == 60


def test_predictive_trial_agrees_with_the_oracle():
    size = {"n_datasets": 50, "n_context": 5, "n_query": 3, "progress": False}
    closed = PredictiveTrial.run(PRIOR, "exact", **size)
    direct = PredictiveTrial.run(PRIOR, PRIOR.posterior_predictive, **size)
    assert torch.allclose(closed.log_prob, direct.log_prob, atol=1e-4)
    assert log_score(closed, oracle=direct).gap == pytest.approx(0, abs=1e-5)


def test_trial_of_an_estimator_is_of_what_it_does_to_the_data():
    """In raw units it is its network; standardising hides what the prior knows, and is seen."""
    prior, network = named_prior("gp-1d"), load("gp-1d")
    size = {"n_datasets": 60, "n_context": 12, "n_query": 6, "progress": False}
    bare = PredictiveTrial.run(prior, network, **size)
    raw = PredictiveTrial.run(prior, PFNRegressor("gp-1d"), **size)
    assert raw.method == "PFNRegressor"
    torch.testing.assert_close(raw.log_prob, bare.log_prob, atol=0.02, rtol=0.02)
    torch.testing.assert_close(raw.cdf, bare.cdf, atol=0.01, rtol=0.01)
    other = copy.deepcopy(network)
    other.config = replace(network.config, units="standardised")
    standardised = PredictiveTrial.run(prior, PFNRegressor(other), **size)
    assert (raw.scores - standardised.scores).mean() > 0.3


def test_trial_of_an_estimator_of_classes():
    size = {"n_datasets": 20, "n_context": 30, "n_query": 4, "progress": False}
    trial = PredictiveTrial.run(Coins(), LogisticRegression(), **size)
    assert trial.log_prob.shape == (20, 4)
    assert (trial.cdf >= 0).all() and (trial.cdf <= 1).all()
    assert -1.5 < trial.log_prob[trial.log_prob.isfinite()].mean() < -0.7
    with pytest.raises(TypeError, match="predict_distribution or predict_proba; got Ridge"):
        PredictiveTrial.run(Coins(), Ridge(), **size)


def test_distribution_transformer_on_trial():
    tasks = named_tasks("dt-normal")
    config = DistributionTransformerConfig(d_model=16, n_layers=1, n_components=3)
    network = DistributionTransformer.new(tasks, config).eval()
    size = {"n_context": 5, "progress": False}
    trial = latent_trial(network, tasks, n_datasets=1000, exact_density=True, **size)
    assert set(trial.draws) == {"coefficients", "noise"}
    efficiency = importance_efficiency(trial)
    assert 0 < efficiency.mean < 1
    # It has the program's sketch, and has not learnt what the sketch leaves out.
    assert sbc(trial).p_value < ALARM


def test_datasets_that_overflowed_are_left_out(monkeypatch):
    tasks = named_tasks("dt-mean")
    sample = tasks.sample

    def first_overflows(*sizes, **options):
        batch = sample(*sizes, **options)
        mask = batch.masks["data"].clone()
        mask[0] = False
        return replace(batch, masks={"data": mask})

    monkeypatch.setattr(tasks, "sample", first_overflows)
    config = DistributionTransformerConfig(d_model=16, n_layers=1, n_components=3)
    network = DistributionTransformer.new(tasks, config).eval()
    size = {"n_datasets": 5, "n_context": 1, "n_draws": 7, "progress": False}
    trial = latent_trial(network, tasks, exact_density=True, **size)
    assert trial.draws["mean"].shape == trial.log_density_draws.shape == (7, 4)
    assert len(trial.log_prob_truth) == len(trial.x) == 4


class Coins(Prior):
    """Three classes, whose probabilities are the inputs."""

    def _sample(self, n_tasks, n_context, n_query):
        x = torch.rand(n_tasks, n_context + n_query, 3)
        x = x / x.sum(-1, keepdim=True)
        y = torch.multinomial(x.flatten(0, 1), 1).reshape(x.shape[:2]).float()
        return split(x, y, n_context)


@pytest.mark.parametrize("power", [0.6, 1.0, 1.7], ids=["careful", "exact", "confident"])
def test_predictives_of_classes_are_calibrated_or_not(power):
    def coins(batch):
        return Categorical(logits=power * batch.x_query.log())

    trial = PredictiveTrial.run(
        Coins(), coins, n_datasets=10_000, n_context=2, n_query=3, progress=False
    )
    assert trial.cdf.min() >= 0 and trial.cdf.max() <= 1
    assert (pit(trial).p_value < ALARM) == (power != 1.0)
