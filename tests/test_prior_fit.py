"""Whether a prior fits rows: silent on the prior's own datasets, heard on planted mismatches."""

import time
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from amortized import PFNRegressor, load
from amortized.diagnostics.data.held_out import HeldOut, held_out_rows, held_out_statistics
from amortized.diagnostics.data.prior_fit import (
    _exact_null,
    _expected,
    _p_values,
    _upper_tail,
    gross_misfit,
    prior_fit,
    unchecked,
)
from amortized.diagnostics.reports.predictive_report import report_pfn
from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks import PFN, PFNConfig
from amortized.priors import named_prior

N_ROWS = 20


@pytest.fixture(scope="module")
def network():
    return load("gp-1d")


def fresh(n, n_rows=N_ROWS):
    batch = named_prior("gp-1d").sample(n, n_rows, 0, seed=77)
    return batch.x_context, batch.y_context


def sine(n=50, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (n, 1))
    return X, np.sin(2 * X[:, 0]) + 0.2 * rng.normal(size=n)


# --- Held-out rows


class Echo(torch.nn.Module):
    """Predicts the sum of the context's targets, on bars of one width."""

    borders = torch.linspace(-200, 200, 401)

    def forward(self, x_context, y_context, x_query):
        total = y_context.sum(1, keepdim=True).expand(x_query.shape[:2])
        centre = (self.borders[:-1] + self.borders[1:]) / 2
        return BarDistribution(-(centre - total[..., None]).abs(), self.borders)


@pytest.mark.parametrize("n", [10, 13])
def test_each_row_is_predicted_from_other_rows_alone(n):
    y = torch.randint(-5, 5, (3, n)).float()
    x = torch.randn(3, n, 1)
    before = held_out_rows(Echo(), x, y, seed=0).middle
    for row in range(n):
        changed = y.clone()
        changed[:, row] += 20
        moved = np.abs(held_out_rows(Echo(), x, changed, seed=0).middle - before) > 10
        assert not moved[:, row].any() and moved.any(1).all()


def test_held_out_rows_are_those_of_the_network_fold_by_fold(network):
    x, y = fresh(2)
    found = held_out_rows(network, x, y, seed=0)
    order = np.random.default_rng(0).permutation(N_ROWS)
    out, given = order[:4], order[4:]
    with torch.no_grad():
        alone = network(x[:, given], y[:, given], x[:, out])
    np.testing.assert_allclose(found.u[:, out], alone.cdf(y[:, out]), atol=1e-4)
    np.testing.assert_allclose(found.log_prob[:, out], alone.log_prob(y[:, out]), atol=1e-2)


# --- The p-values


def test_tail_is_empirical_inside_and_exponential_beyond():
    draws = np.random.default_rng(0).exponential(size=4000)
    at = np.array([0.5, 1.0, 4.0, 12.0])
    np.testing.assert_allclose(np.log(_upper_tail(draws, at)), -at, rtol=0.15)


def test_exact_null_gives_uniform_p_values_to_uniform_u():
    rng = np.random.default_rng(0)
    u = rng.uniform(size=(300, 40))
    other = np.zeros((1, 40))
    found = [_exact_null(HeldOut(row[None], other, other, other, other)) for row in u]
    least = np.array([4 * min(s.p_value for s in one.values()) for one in found])
    assert stats.binom.sf((least < 0.05).sum() - 1, 300, 0.05) > 1e-3  # no more than the level
    narrow = _exact_null(HeldOut(np.where(u < 0.5, u**4, 1 - (1 - u) ** 4)[:1], *[other] * 4))
    assert narrow["coverage of 90% intervals"].p_value < 0.01


def test_false_alarms_are_rare_on_the_datasets_of_the_prior(network):
    """Of 400 datasets the rate is .05 with standard error .011, of these 300 .013."""
    x, y = fresh(300)
    expected = _expected(network, None, N_ROWS, 1, 0)
    found = held_out_statistics(held_out_rows(network, x, y, 0), x, y, raw=True)
    p_values = _p_values(expected, found)[1]
    assert 0.01 <= (p_values < 0.05).mean() <= 0.11
    assert 0.4 <= (p_values < 0.5).mean() <= 0.6


def duplicated(x, y):
    return torch.cat((x[:14], x[:6])), torch.cat((y[:14], y[:6]))


MISMATCHES = {
    "noise": (lambda x, y: (x, y + 0.4 * torch.randn_like(y)), "too narrow"),
    "rounded": (lambda x, y: (x, (y / y.std()).round() * y.std()), "Targets repeat"),
    "copies": (duplicated, "copies"),
    "moved": (lambda x, y: (x + 4, y), "shifted"),
    "drift": (lambda x, y: (x, 0.1 * y + torch.linspace(-1, 1, len(y))), None),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_planted_mismatches_are_found_and_named(network, name):
    change, words = MISMATCHES[name]
    fits = [prior_fit(network, *change(x, y)) for x, y in zip(*fresh(12), strict=True)]
    assert np.mean([fit.p_value < 0.05 for fit in fits]) >= 0.7
    if words is not None:
        assert np.mean([words in fit.sentence for fit in fits]) >= 0.6


def test_scores_and_sentence_of_rows_that_fit(network):
    x, y = (part[0] for part in fresh(1))
    fit = prior_fit(network, x, y)
    assert fit.p_value > 0.05 and "are consistent with this prior" in fit.sentence
    assert fit.log_scores["network"] > max(
        fit.log_scores["normal at the mean"], fit.log_scores["Bayesian linear model"]
    )
    assert all(s.low <= s.high and 0 < s.p_value <= 1 for s in fit.statistics.values())


def test_a_prior_without_a_name_leaves_the_exact_null():
    own = PFN(PFNConfig(n_features=1, max_context=20, d_model=16, n_layers=1, n_bars=9))
    assert len(prior_fit(own, *(part[0] for part in fresh(1))).statistics) == 4


def test_wrong_rows_are_refused(network, no_shape_checks):
    with pytest.raises(ValueError, match="at least 8 rows"):
        prior_fit(network, torch.zeros(7, 1), torch.zeros(7))
    with pytest.raises(ValueError, match="y without NaN"):
        prior_fit(network, torch.zeros(8, 1), torch.full((8,), torch.nan))


# --- Estimators


def test_fit_warns_of_noise_that_the_prior_lacks():
    X, y = sine()
    with pytest.warns(UserWarning, match="intervals are too narrow"):
        estimator = PFNRegressor("gp-1d").fit(X, y)
    x, y = torch.as_tensor(X), torch.as_tensor(y)
    page = report_pfn(estimator.network_, x, y, reference=None, n_datasets=20)
    assert next(iter(page.sections)) == "Prior against rows"
    assert (
        "intervals are too narrow" in repr(page).splitlines()[2]
        and "too narrow" in page.warnings[0]
    )


def test_fit_is_silent_on_datasets_of_the_prior(network):
    found = [gross_misfit(network, x, y) for x, y in zip(*fresh(100), strict=True)]
    assert sum(message is not None for message in found) <= 2


def test_nothing_is_checked_inside_simulations():
    X, y = sine()
    with unchecked(), warnings.catch_warnings():
        warnings.simplefilter("error")
        PFNRegressor("gp-1d").fit(X, y)


def test_the_check_costs_little(network):
    X, y = (torch.as_tensor(part) for part in sine())
    gross_misfit(network, X, y)
    start = time.process_time()
    gross_misfit(network, X, y)
    assert time.process_time() - start < 0.3


@pytest.mark.parametrize("weights", [None, np.repeat([1.0, 3.0], 10)])
def test_rows_are_judged_in_their_order_and_once_each(weights):
    x, y = (part[0].double().numpy() for part in fresh(1))
    estimator = PFNRegressor("gp-1d").fit(x, y, sample_weight=weights)
    np.testing.assert_array_equal(estimator.y_train_[estimator._observed], y)


def test_a_table_network_is_compared_with_the_exact_null():
    X, y = sine(30)
    page = PFNRegressor("tabular-regressor", n_estimators=1).fit(X, y).report()
    assert "coverage of 90% intervals" in page.sections["Held-out rows"]
    assert page.sections["Subject"]["rows"] == 30
