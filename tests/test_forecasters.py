"""Forecasters: exact averages against the Kalman filter, calibration, and awkward series."""

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone

from amortized.forecasting import PFNForecaster, StructuralForecaster
from amortized.networks import SeriesPFN, SeriesPFNConfig
from amortized.series.structures import structures

SMALL = SeriesPFNConfig(d_model=16, n_heads=2, n_layers=1, d_hidden=16, d_head=8)
FORECASTERS = {
    "structural": lambda **options: StructuralForecaster(**options),
    "pfn": lambda **options: PFNForecaster(SeriesPFN(SMALL), **options),
}
each_forecaster = pytest.mark.parametrize("make", FORECASTERS.values(), ids=FORECASTERS)


def monthly(n=60, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    return 50 + 0.3 * t + 5 * np.sin(2 * np.pi * t / 12) + rng.normal(size=n)


def simulated(number, n, n_series, period=4.0, seed=0):
    """Series of one structural model, with a scale of one."""
    rng = np.random.default_rng(seed)
    space = structures((period,))[1]
    k = int((space.number == number).nonzero())
    a, q = space.transition[k].numpy(), space.step_cov[k].numpy()
    first = space.first_cov[k].numpy().copy()
    first[0, 0] = 4.0
    state = rng.multivariate_normal(np.zeros(len(a)), first, size=n_series)
    steps = rng.multivariate_normal(np.zeros(len(a)), q, size=(n, n_series))
    noise = np.sqrt(float(space.noise[k])) * rng.normal(size=(n, n_series))
    rows = []
    for t in range(n):
        rows.append(state @ space.observation.numpy() + noise[t])
        state = state @ a.T + steps[t]
    return np.array(rows)


def test_ranks_are_uniform_under_its_own_models():
    """Series of models that compete: the average is calibrated, whichever made a series."""
    first = structures((4.0,))[1].number[0].item()
    y = np.concatenate([simulated(first + k, 44, 60, seed=k) for k in (4, 10, 14, 28)], axis=1)
    forecaster = StructuralForecaster(period=4).fit(y[:40])
    law = forecaster.predict_distribution(4)
    pit = law.cdf(torch.from_numpy(y[40:]))
    for h in (0, 3):
        assert stats.kstest(pit[h].numpy(), "uniform").pvalue > 1e-3


def test_close_to_the_model_that_made_the_series():
    """Within a tenth of a nat a step of the exact predictive of the true model."""
    first = structures((4.0,))[1].number[0].item()
    y = simulated(first + 10, 84, 60, seed=3)
    law = StructuralForecaster(period=4).fit(y[:80]).predict_distribution(4)
    space = structures((4.0,))[1]
    from amortized.series.filter_bank import structural_readings

    past = torch.from_numpy(y[:80].T.copy())
    seen, last = torch.ones(1, 80, dtype=torch.bool), torch.full((60,), 79)
    reading = structural_readings(past, seen, last, (4.0,), 4)[0][1]
    k = int((space.number == first + 10).nonzero())
    exact = torch.distributions.StudentT(
        reading.dof[:, None].double(), reading.mean[:, k].double(), reading.sd[:, k].double()
    )
    future = torch.from_numpy(y[80:].T.copy())
    gap = exact.log_prob(future) - law.log_prob(future.T).T
    assert float(gap.mean()) < 0.1


@each_forecaster
def test_shapes_and_order(make):
    y = np.stack([monthly(seed=i) for i in range(3)], 1)
    forecaster = clone(make(period=12)).fit(y)
    assert forecaster.predict(5).shape == (5, 3)
    quantiles = forecaster.predict_quantiles(5, [0.05, 0.5, 0.95])
    assert quantiles.shape == (5, 3, 3) and (np.diff(quantiles, axis=-1) > 0).all()
    paths = forecaster.sample_paths(5, 7)
    assert paths.shape == (7, 5, 3)
    np.testing.assert_array_equal(paths, make(period=12).fit(y).sample_paths(5, 7))
    assert forecaster.predict_distribution(5).batch_shape == (5, 3)
    one = make(period=12).fit(y[:, 1])
    np.testing.assert_allclose(one.predict(5), forecaster.predict(5)[:, 1], rtol=1e-3)
    assert one.sample_paths(5, 7).shape == (7, 5) and one.predict_quantiles(2).shape == (2, 3)


@each_forecaster
def test_many_series_of_any_lengths_are_answered_as_if_alone(make):
    rng = np.random.default_rng(1)
    several = [monthly(60), monthly(45, 1), rng.normal(size=9), monthly(60, 2)]
    several[3][[5, 20, 21]] = np.nan
    several.append(np.r_[monthly(40, 3), np.nan, np.nan])  # the last values are late
    together = make(period=12).fit(several).predict_quantiles(4)
    for i, series in enumerate(several):
        alone = make(period=12).fit(series).predict_quantiles(4)
        np.testing.assert_allclose(together[:, i], alone, rtol=2e-3, atol=1e-3)


@each_forecaster
def test_paths_have_the_margins_of_the_predictive(make):
    forecaster = make(period=12).fit(monthly(48))
    paths = forecaster.sample_paths(6, 3000)
    law = forecaster.predict_distribution(6)
    pit = law.cdf(torch.from_numpy(paths))
    for h in (0, 5):
        assert stats.kstest(pit[:, h].numpy(), "uniform").pvalue > 1e-4


def test_a_walk_goes_on_from_where_it_was():
    """Paths of a random walk: neighbours are close, and increments independent."""
    walk = np.random.default_rng(0).normal(size=300).cumsum()
    paths = StructuralForecaster().fit(walk).sample_paths(12, 4000)
    cov = np.cov(paths.T)
    assert cov[11, 3] / cov[3, 3] == pytest.approx(1.0, abs=0.25)
    assert cov[11, 11] / cov[3, 3] == pytest.approx(3.0, rel=0.35)


@each_forecaster
def test_units_do_not_matter(make):
    y = monthly()
    one = make(period=12).fit(y).predict_quantiles(4)
    for scale in (1e-30, 1e-6, 1e9, 1e90):
        other = make(period=12).fit(scale * y).predict_quantiles(4)
        np.testing.assert_allclose(other, scale * one, rtol=1e-3)
    paths, other = (make(period=12).fit(s * y).sample_paths(3, 20) for s in (1.0, 1e90))
    np.testing.assert_allclose(other, 1e90 * paths, rtol=1e-3)
    shifted = make(period=12).fit(y - 1000).predict_quantiles(4)  # no longer positive
    assert np.abs(shifted + 1000 - one).max() < 3


@each_forecaster
@pytest.mark.parametrize("level", [1e5, 1e9, 1e12])
def test_a_high_level_does_not_widen_the_forecast(make, level):
    """Noise of one part in a trillion is noise, not the rounding of a constant."""
    y = np.random.default_rng(0).normal(size=60)
    one, other = (
        make().fit(level * up + y).predict_quantiles(2, [0.05, 0.5, 0.95]) for up in (0, 1)
    )
    width = (one[:, 2] - one[:, 0])[:, None]
    assert (np.abs(other - level - one) < 0.1 * width).all()


@each_forecaster
def test_gaps_and_times_are_the_same_thing(make):
    y = monthly()
    kept = np.r_[0:10, 14:60]
    by_nan = y.copy()
    by_nan[10:14] = np.nan
    expected = make(period=12).fit(by_nan).predict(6)
    np.testing.assert_allclose(make(period=12).fit(y[kept], t=kept).predict(6), expected)
    index = pd.date_range("2015-01-01", periods=60, freq="MS")
    series = pd.Series(y, index).iloc[kept]
    forecaster = make().fit(series)
    np.testing.assert_allclose(forecaster.predict(6), expected)
    assert forecaster.future_index(2)[0] == pd.Timestamp("2020-01-01")
    frame = pd.DataFrame({"a": y, "b": by_nan}, index)
    assert list(make().fit(frame).columns_) == ["a", "b"]


@each_forecaster
def test_short_and_constant_series(make):
    five = make().fit([1.0, 2.0, 3.0, 4.0, 5.0]).predict_quantiles(2)
    assert np.isfinite(five).all() and 4 < five[0, 1] < 8
    three = make(period=12).fit([3.0, 1.0, 2.0]).predict_quantiles(2)
    assert np.isfinite(three).all()
    for value in (0.0, 7.0, -1e6):
        constant = make(period=4).fit(np.full(30, value)).predict_quantiles(3)
        np.testing.assert_allclose(constant, value, rtol=1e-2, atol=0.1)
    assert np.isfinite(make(period=4).fit(np.full(30, 7.0)).sample_paths(3, 5)).all()


def test_long_series_are_read_at_their_end():
    rng = np.random.default_rng(0)
    y = rng.normal(size=20_000).cumsum()
    with pytest.warns(UserWarning, match="The last 512 are read"):
        forecaster = PFNForecaster(SeriesPFN(SMALL)).fit(y)
    expected = PFNForecaster(SeriesPFN(SMALL)).fit(y[-512:]).predict(3)
    np.testing.assert_allclose(forecaster.predict(3), expected)


@each_forecaster
def test_counts_are_whole(make):
    y = np.random.default_rng(0).poisson(0.7, size=60)
    forecaster = make(counts=True).fit(y)
    answers = np.r_[forecaster.predict_quantiles(3).ravel(), forecaster.sample_paths(3, 50).ravel()]
    assert (answers >= 0).all() and (answers == np.round(answers)).all()


def test_covariates():
    """A known effect, and a forecast that uses it; against least squares with the true noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(110, 2))
    y = monthly(110) + x @ [4.0, -2.0]
    forecaster = StructuralForecaster(period=12).fit(y[:100], x[:100])
    effects = forecaster._effects
    error = effects.mean.numpy() - [4.0, -2.0]
    assert (np.abs(error) < 4 * effects.cov.diagonal().sqrt().numpy()).all()
    with_x = np.abs(forecaster.predict(10, x[100:]) - y[100:]).mean()
    without = np.abs(StructuralForecaster(period=12).fit(y[:100]).predict(10) - y[100:]).mean()
    assert with_x < 0.6 * without
    for wrong in (None, x[:3]):
        with pytest.raises(ValueError, match="Expected X of shape"):
            forecaster.predict(10, wrong)
    with pytest.raises(ValueError, match="Expected no X"):
        StructuralForecaster().fit(y).predict(3, x[:3])
    with pytest.raises(ValueError, match="one series with covariates"):
        StructuralForecaster().fit(np.stack((y, y), 1), x)


def test_covariates_and_values_must_stand_at_the_same_times():
    days = pd.date_range("2020-01-01", periods=64)
    x = pd.DataFrame({"x": np.random.default_rng(0).normal(size=64)}, days)
    y = pd.Series(monthly(60), days[:60])
    forecaster = StructuralForecaster().fit(y, x[:60])
    by_hand = StructuralForecaster(period=7).fit(y.to_numpy(), x[:60].to_numpy())
    np.testing.assert_allclose(forecaster.predict(4, x[60:]), by_hand.predict(4, x[60:].to_numpy()))
    with pytest.raises(ValueError, match="rows of X at the steps to come, from 2020-03-01"):
        forecaster.predict(4, x[59:63])
    with pytest.raises(ValueError, match="index of X to be that of y"):
        StructuralForecaster().fit(y, x[:60][::-1])
    with pytest.raises(ValueError, match="3 values more than columns of X"):
        StructuralForecaster().fit(y[:10], np.ones((10, 8)))


def test_each_series_of_a_list_has_its_own_times_to_come():
    days, months = (pd.date_range("2020-01-01", periods=9, freq=f) for f in ("D", "MS"))
    several = [pd.Series(np.arange(9.0), index) for index in (days, months)]
    first, second = StructuralForecaster().fit(several).future_index(1)
    assert first[0] == pd.Timestamp("2020-01-10") and second[0] == pd.Timestamp("2020-10-01")


def test_report_of_counts_and_of_gaps():
    """Of the true distribution of counts, ranks are uniform though values tie."""
    y = np.random.default_rng(0).poisson(3.0, size=260)
    report = StructuralForecaster(counts=True).fit(y).report(h=1, n_origins=200)
    assert report.p_value > 1e-3 and (report.median == np.round(report.median)).all()
    gaps = np.where(np.arange(40) % 2 == 0, np.arange(40.0), np.nan)
    report = StructuralForecaster().fit(gaps).report(h=2, n_origins=5)
    assert np.isnan(report.mase[0]) and np.isfinite(report.mase[1]) and "missing" in str(report)
    with pytest.raises(ValueError, match="Expected n_origins"):
        StructuralForecaster().fit(y).report(n_origins=0)


def test_a_tensor_with_a_gradient_is_read():
    y = torch.arange(8.0, dtype=torch.float64)
    expected = StructuralForecaster().fit(y).predict(2)
    with_gradient = StructuralForecaster().fit(y.requires_grad_()).predict(2)
    np.testing.assert_array_equal(with_gradient, expected)


def test_report():
    rng = np.random.default_rng(0)
    series = [rng.normal(size=80).cumsum() for _ in range(6)]
    report = StructuralForecaster().fit(series).report(h=4, n_origins=15)
    assert report.y.shape == (90, 4) and report.p_value > 1e-3 and not report.doubt
    assert 0.8 < report.coverage(0.9)[0] <= 1.0 and "90% covers" in str(report)
    np.testing.assert_allclose(report.residuals, report.y - report.median)
    # The last origin of a series is a forecast of its last four values.
    alone = StructuralForecaster().fit(series[0][:-4]).predict(4)
    last = np.flatnonzero(report.series == 0)[-1]
    np.testing.assert_allclose(report.median[last], alone, rtol=1e-3, atol=1e-3)
    assert len(report.plot().axes) == 2
    with pytest.raises(ValueError, match="Expected a series with"):
        StructuralForecaster().fit(series).report(h=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 0.5}, "Expected period"),
        ({"period": np.nan}, "Expected period"),
        ({"max_steps": 2}, "Expected max_steps"),
    ],
)
def test_wrong_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        StructuralForecaster(**options).fit(monthly())


@pytest.mark.parametrize(
    ("last", "message"), [(1e12, "within 10,000,000 of"), (1e5, "at least 3 values among the last")]
)
def test_times_far_apart_are_refused(last, message):
    with (
        pytest.raises(ValueError, match=f"Expected .*{message}"),
        pytest.warns(UserWarning) if last == 1e5 else nullcontext(),
    ):
        StructuralForecaster().fit([1.0, 2.0, 3.0, 4.0], t=[0.0, 1.0, 2.0, last])


def test_wrong_questions():
    forecaster = StructuralForecaster().fit(monthly())
    with pytest.raises(ValueError, match="Expected h"):
        forecaster.predict(0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        forecaster.predict_quantiles(2, [0.5, 1.0])
    with pytest.raises(ValueError, match="Expected a SeriesPFN"):
        PFNForecaster("gp-1d").fit(monthly())
