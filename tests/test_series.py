"""The bank of models of a series, against exact filters, regressions and quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.sampling.filters.kalman import kalman_filter
from amortized.series import lag_models
from amortized.series.candidates import candidates
from amortized.series.filter_bank import RATE, SHAPE, structural_readings
from amortized.series.lag_models import lag_readings
from amortized.series.paths import _covariance, joint_draws
from amortized.series.predictive import SeriesPredictive
from amortized.series.structures import frequencies, structures

F64 = torch.float64


def some_series(n_series=3, n=40):
    t = torch.arange(n, dtype=F64)
    wave = (2 * math.pi * t / 4).cos()
    return wave + 0.05 * t + torch.randn(n_series, n, dtype=F64)


def as_models(space, k, scale):
    """One model of a bank under each of some scales."""
    n, square = len(scale), (scale**2)[:, None, None]
    return LinearGaussianModel(
        space.transition[k].expand(n, -1, -1),
        square * space.step_cov[k],
        space.observation.expand(n, 1, -1),
        square * space.noise[k],
        torch.zeros(n, len(space.observation), dtype=F64),
        square * space.first_cov[k],
    )


@pytest.mark.parametrize("gaps", [False, True])
def test_evidence_is_the_kalman_filters_with_the_scale_integrated_out(gaps):
    y, seen = some_series(2, 30), torch.ones(1, 30, dtype=torch.bool)
    if gaps:
        seen[0, [3, 4, 11, 20]] = False
    last = torch.full((2,), 29)
    readings, _ = structural_readings(y, seen, last, (4.0,), 3)
    grid = torch.linspace(-3.0, 3.0, 101, dtype=F64)  # log sigma
    prior = stats.invgamma(SHAPE, scale=RATE).logpdf(np.exp(2 * grid.numpy()))
    prior = torch.as_tensor(prior) + 2 * grid + math.log(2)
    known = torch.where(seen, y, torch.nan)
    for space, reading, k in zip(structures((4.0,)), readings, (11, 20), strict=True):
        for row in range(2):
            models = as_models(space, k, grid.exp())
            likelihood = kalman_filter(models, known[row][None, :, None]).log_evidence
            log_mass = (likelihood + prior).logsumexp(0) + (grid[1] - grid[0]).log()
            assert reading.log_evidence[row, k] == pytest.approx(float(log_mass), abs=2e-3)


def test_forecasts_are_the_kalman_filters():
    y, seen = some_series(1, 50), torch.ones(1, 50, dtype=torch.bool)
    seen[0, 30:33] = False
    readings, _ = structural_readings(y, seen, torch.tensor([49]), (4.0,), 6)
    ahead = torch.full((6,), torch.nan, dtype=F64)
    course = torch.cat((torch.where(seen[0], y[0], torch.nan), ahead))
    for space, reading in zip(structures((4.0,)), readings, strict=True):
        for k in range(0, len(space.noise), 5):
            models = as_models(space, k, torch.ones(1, dtype=F64))
            filtered = kalman_filter(models, course[None, :, None])
            h = space.observation
            mean = filtered.mean[0, 50:] @ h
            variance = (filtered.cov[0, 50:] @ h) @ h + space.noise[k]
            torch.testing.assert_close(reading.mean[0, k], mean, atol=1e-4, rtol=1e-4)
            # The scale is one number, the same at every step.
            ratio = reading.sd[0, k] / variance.sqrt()
            torch.testing.assert_close(ratio, ratio[:1].expand(6), atol=0, rtol=1e-5)


def test_shorter_series_of_a_batch_are_read_as_if_alone():
    y, last = some_series(3, 40), torch.tensor([39, 25, 31])
    seen = torch.ones(1, 40, dtype=torch.bool)
    together = candidates(y, seen, last, (4.0,), 5)
    for row, end in enumerate(last.tolist()):
        n = end + 1
        alone = candidates(y[row : row + 1, :n], seen[:, :n], last[row : row + 1], (4.0,), 5)
        usable = alone.log_evidence[0].isfinite()
        for name in ("loc", "scale", "log_evidence", "signs"):
            one, other = getattr(alone, name)[0][usable], getattr(together, name)[row][usable]
            torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_own_gaps_equal_shared_ones():
    y = some_series(2, 30)
    seen = torch.rand(1, 30) < 0.8
    seen[0, [0, -1]] = True
    last = torch.full((2,), 29)
    shared = candidates(y, seen, last, (4.0,), 3)
    own = candidates(y, seen.expand(2, -1), last, (4.0,), 3)
    torch.testing.assert_close(own.loc, shared.loc, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own.log_evidence, shared.log_evidence, atol=1e-4, rtol=1e-5)


def test_average_does_not_depend_on_units():
    """Of a series of positive values, which is read in y and in log y."""
    y = some_series(2, 36).exp()
    seen, last = torch.ones(1, 36, dtype=torch.bool), torch.full((2,), 35)
    one = candidates(y, seen, last, (4.0,), 4).average()
    other = candidates(1000 * y, seen, last, (4.0,), 4).average()
    level = torch.tensor([[0.1], [0.5], [0.9]], dtype=F64)[:, None]
    torch.testing.assert_close(other.icdf(level), 1000 * one.icdf(level), rtol=1e-5, atol=1e-3)


def test_autoregression_is_a_conjugate_regression():
    """Evidence of lags 1 and 2 against the multivariate Student's t of the rows."""
    y = some_series(1, 25)
    y = (y - y.mean()) / y.std(correction=0)
    reading = lag_readings(y, torch.tensor([24]), 1, 3)
    z = y[0].numpy()
    target = z[2:]
    square = (target**2).mean()
    x = np.stack((np.full(23, square**0.5), z[1:-1], z[:-2]), 1)
    prior = np.diag([0.1, 1.0, 2.0]) * square
    shape = np.eye(23) + x @ np.linalg.inv(prior) @ x.T
    law = stats.multivariate_t(np.zeros(23), RATE / SHAPE * shape, df=2 * SHAPE)
    expected = law.logpdf(target) + stats.norm.logpdf(z[:2]).sum()
    assert float(reading.log_evidence[0, 0]) == pytest.approx(expected, abs=1e-6)
    w = np.linalg.solve(prior + x.T @ x, x.T @ target)
    path = list(z)
    for _ in range(3):
        path.append(w[0] * square**0.5 + w[1] * path[-1] + w[2] * path[-2])
    np.testing.assert_allclose(reading.mean[0, 0], path[-3:], rtol=1e-8)


def test_differences_undo_themselves():
    """A straight line with a season goes on, under seasonal differences."""
    t = torch.arange(40, dtype=F64)
    y = (t - t.mean() + 3 * (t % 4))[None] / 12
    reading = lag_readings(y, torch.tensor([39]), 4, 8)
    k = lag_models.lag_models(4).index(lag_models.Lags(4, (1,)))
    ahead = torch.arange(40, 48, dtype=F64)
    expected = (ahead - t.mean() + 3 * (ahead % 4)) / 12
    # The prior shrinks what a season adds by a fraction of a row in 36.
    torch.testing.assert_close(reading.mean[0, k], expected, atol=0.05, rtol=0)


def mixture(dof=None):
    weight = torch.tensor([[0.5, 0.2, 0.3]], dtype=F64).log()
    loc = torch.tensor([[0.0, 1.0, 0.5]], dtype=F64)
    scale = torch.tensor([[1.0, 0.3, 0.4]], dtype=F64)
    dof = None if dof is None else torch.full((1, 1), dof, dtype=F64)
    return SeriesPredictive(weight, loc, scale, torch.tensor([False, False, True]), dof)


@pytest.mark.parametrize("dof", [None, 7.0])
def test_predictive_is_a_distribution(dof):
    law = mixture(dof)
    grid = torch.linspace(-60.0, 60.0, 240_001, dtype=F64)[:, None]
    density = law.log_prob(grid).exp()[:, 0]
    assert torch.trapezoid(density, grid[:, 0]) == pytest.approx(1.0, abs=1e-3)
    below = torch.cumulative_trapezoid(density, grid[:, 0])
    torch.testing.assert_close(law.cdf(grid[1:])[:, 0], below, atol=1e-3, rtol=0)
    level = torch.linspace(0.01, 0.99, 30, dtype=F64)[:, None]
    torch.testing.assert_close(law.cdf(law.icdf(level)), level, atol=1e-6, rtol=0)
    rare = torch.tensor([1e-9, 1e-7, 1e-5], dtype=F64)[:, None]
    torch.testing.assert_close(law.cdf(law.icdf(rare)), rare, atol=0, rtol=1e-3)
    torch.testing.assert_close(1 - law.cdf(law.icdf(1 - rare)), rare, atol=0, rtol=1e-3)
    if dof is None:  # a log of Student's t has no mean
        mean = torch.trapezoid(density * grid[:, 0], grid[:, 0])
        second = torch.trapezoid(density * (grid[:, 0] - mean) ** 2, grid[:, 0])
        assert law.mean.item() == pytest.approx(mean.item(), abs=1e-3)
        assert law.variance.item() == pytest.approx(second.item(), rel=1e-3)


def test_paths_have_the_models_covariance_and_the_mixtures_margins():
    y = some_series(1, 40)
    seen, last = torch.ones(1, 40, dtype=torch.bool), torch.tensor([39])
    found = candidates(y, seen, last, (4.0,), 5)
    law, steps = found.average(), torch.arange(1, 6)
    paths = joint_draws(law, found, 0, seen, (4.0,), steps, 4000)
    u = law.cdf(paths[:, None])[:, 0]
    for h in range(5):
        assert stats.kstest(u[:, h].numpy(), "uniform").pvalue > 1e-4
    # A random walk with noise, in closed form: the later step has what the earlier one has.
    space = structures((1.0,))[0]
    cov = _covariance(3, seen, (1.0,), 3)
    steady = cov[0, 1]
    noise, drift = space.noise[3], space.step_cov[3, 0, 0]
    expected = steady + drift * torch.arange(3, dtype=F64) + noise
    torch.testing.assert_close(cov.diagonal(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(cov[0, 2], steady, atol=1e-8, rtol=0)


def test_waves_come_once():
    assert frequencies((4.0,)) == (0.25, 0.5)
    assert len(frequencies((24.0, 168.0))) == 12 + 8 - 1  # 7 of 168 is 1 of 24


def test_a_constant_is_forecast():
    seen, last = torch.ones(1, 12, dtype=torch.bool), torch.tensor([11, 11])
    y = torch.stack((torch.zeros(12), torch.full((12,), 5.0)))
    law = candidates(y, seen, last, (1.0,), 3).average()
    torch.testing.assert_close(law.mean[0], torch.zeros(3, dtype=F64), atol=1e-2, rtol=0)
    torch.testing.assert_close(law.icdf(torch.tensor(0.5))[1], torch.full((3,), 5.0, dtype=F64),
                               atol=1e-2, rtol=0)  # fmt: skip
