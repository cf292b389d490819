"""The adapter for sktime; the checks that need sktime are skipped where it is not installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amortized.forecasting import PFNForecaster
from amortized.forecasting.sktime_adapter import SktimeForecaster
from amortized.networks import SeriesPFN, SeriesPFNConfig

HERE = importlib.util.find_spec("sktime") is not None
needs_sktime = pytest.mark.skipif(not HERE, reason="sktime, extra 'sktime', is not installed")
# Of sktime itself: announcements of changes, and steps of checks.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
NETWORK = SeriesPFN(SeriesPFNConfig(d_model=16, n_heads=2, n_layers=1, d_hidden=16, d_head=8))
MONTHS = pd.date_range("2015-01-01", periods=66, freq="MS")


def sales(index=MONTHS[:60]):
    t = np.arange(len(index))
    noise = np.random.default_rng(0).normal(size=len(t))
    return pd.Series(50 + 5 * np.sin(2 * np.pi * t / 12) + noise, index, name="sales")


@pytest.mark.skipif(HERE, reason="sktime is installed")
def test_without_sktime_the_error_says_what_to_install():
    with pytest.raises(ImportError, match=r"Expected sktime.*amortized\[sktime\]"):
        SktimeForecaster()


@needs_sktime
def test_quantiles_are_the_forecasters():
    y = sales().copy()
    y.iloc[[4, 20]] = np.nan
    forecaster = SktimeForecaster(NETWORK).fit(y)
    plain = PFNForecaster(NETWORK).fit(y).predict_quantiles(6, [0.05, 0.5, 0.95])
    for fh in ([2, 6], MONTHS[[61, 65]]):  # relative and absolute
        found = forecaster.predict(fh)
        assert found.index.tolist() == [MONTHS[61], MONTHS[65]] and found.name == "sales"
        np.testing.assert_allclose(found, plain[[1, 5], 1])
        np.testing.assert_allclose(forecaster.predict_quantiles(fh, alpha=[0.05, 0.95]),
                                   plain[[1, 5]][:, [0, 2]])  # fmt: skip
        interval = forecaster.predict_interval(fh, coverage=0.9)
        np.testing.assert_allclose(interval["sales", 0.9, "upper"], plain[[1, 5], 2])


@needs_sktime
@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(60),
        pd.RangeIndex(100, 160),
        pd.period_range("2015-01", periods=60, freq="M"),
        pd.date_range("2020-01-01", periods=60, freq="B"),
        pd.date_range("2020-01-01", periods=60, freq="QE"),
    ],
)
def test_stamps_are_those_of_the_index(index):
    found = SktimeForecaster(NETWORK).fit(sales(index)).predict([1, 3])
    assert found.index.tolist() == [index[-1] + index.freq, index[-1] + 3 * index.freq] if (
        getattr(index, "freq", None) is not None
    ) else found.index.tolist() == [index[-1] + 1, index[-1] + 3]  # fmt: skip


@needs_sktime
def test_covariates_of_the_horizon():
    x = pd.DataFrame({"x": np.random.default_rng(1).normal(size=66)}, MONTHS)
    y = sales() + 5 * x["x"][:60]
    y.name = "sales"
    forecaster = SktimeForecaster(NETWORK).fit(y, x)
    expected = PFNForecaster(NETWORK).fit(y, x[:60]).predict(6, x[60:])
    np.testing.assert_allclose(forecaster.predict([2, 6], x.iloc[[61, 65]]), expected[[1, 5]])
    with pytest.raises(ValueError, match="Expected X at the times of the horizon"):
        forecaster.predict([2, 6], x.iloc[[61]])


@needs_sktime
def test_update_adds_values():
    y = sales()
    forecaster = SktimeForecaster(NETWORK).fit(y[:50]).update(y[50:])
    expected = SktimeForecaster(NETWORK).fit(y).predict([1, 2])
    pd.testing.assert_series_equal(forecaster.predict([1, 2]), expected)


@needs_sktime
def test_a_horizon_of_the_past_is_refused():
    with pytest.raises((ValueError, NotImplementedError)):
        SktimeForecaster(NETWORK).fit(sales()).predict([-1, 0, 1])


CHECKS = """
from sktime.utils.estimator_checks import check_estimator
from amortized.forecasting.sktime_adapter import SktimeForecaster
results = check_estimator(SktimeForecaster, raise_exceptions=False, verbose=False)
failed = {name: result for name, result in results.items() if result != "PASSED"}
assert len(results) > 50 and not failed, failed
"""


@needs_sktime
def test_checks_of_sktime():
    """In a process of its own: these tests wrap every function, and sktime looks at signatures."""
    subprocess.run([sys.executable, "-c", CHECKS], check=True)


@needs_sktime
def test_the_how_to_runs():
    text = (Path(__file__).parents[1] / "docs/howto/forecasting.md").read_text(encoding="utf-8")
    snippet = re.search(r"```py\n(.*?)```", text, re.DOTALL)[1]
    exec(snippet, {"sales": sales()})
