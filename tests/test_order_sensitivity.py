"""Checks that ask a method again: data made from its answers, and rows in another order."""

import torch
from torch.distributions import Normal

from amortized.diagnostics import PosteriorTrial, order_sensitivity, predictive_check
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior

ALARM = 0.05
PRIOR = LinearRegressionPrior(1)


def test_predictive_check_sees_a_shifted_and_a_narrow_posterior():
    prior = NormalMeanPrior()
    exact = PosteriorTrial.run(prior, "exact", n_datasets=1000, n_context=3, progress=False)
    mean = exact.draws["mean"].mean(0)
    assert predictive_check(exact, prior).p_value > ALARM
    for moved in (exact.draws["mean"] + 0.3, mean + 0.6 * (exact.draws["mean"] - mean)):
        wrong = PosteriorTrial(exact.truth, {"mean": moved}, x=exact.x, y=exact.y)
        assert predictive_check(wrong, prior).p_value < ALARM


def forgets_the_first(batch):
    exact = PRIOR.posterior_predictive(batch)
    return Normal(exact.mean + 0.1 * batch.y_context[:, :1], exact.stddev)


def random_answer(batch):
    exact = PRIOR.posterior_predictive(batch)
    return Normal(exact.mean + 0.1 * torch.randn(batch.n_tasks, 1), exact.stddev)


def test_order_of_context_matters_only_to_a_method_that_looks_at_it():
    for method, passes in (
        (PRIOR.posterior_predictive, True),
        (random_answer, True),
        (forgets_the_first, False),
    ):
        p = order_sensitivity(PRIOR, method, n_datasets=100, progress=False).p_value
        assert (p > ALARM) == passes, method


def test_order_seldom_alarms_on_exact_answers():
    size = {"n_datasets": 60, "n_orders": 2, "progress": False}
    p = [order_sensitivity(PRIOR, random_answer, seed=s, **size).p_value for s in range(40)]
    assert sum(value < ALARM for value in p) <= 7  # more have probability 0.0007


def test_random_numbers_of_a_method_are_never_the_same():
    seeds = []

    def method(batch):
        seeds.append(torch.rand(()).item())
        exact = PRIOR.posterior_predictive(batch)
        return Normal(exact.mean + seeds[-1], exact.stddev)

    for seed in (0, 1):
        order_sensitivity(PRIOR, method, n_datasets=4, batch_size=2, seed=seed, progress=False)
    assert len(seeds) == len(set(seeds)) == 2 * 2 * 9
