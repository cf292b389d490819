r"""Prior fit: are the rows of a dataset plausible under the prior of a network?

A network can be calibrated over its prior and still be wrong for data that the prior does not
describe. Every row is held out once (five folds, one batch) and predicted from the others. Under
the prior
the probability integral transform u of its target is uniform and the normal score
:math:`z = \Phi^{-1}(u)` standard normal. Statistics of these, of ties and of the inputs are
compared with the same statistics of datasets drawn from the prior with equal numbers of rows and
features, because held-out rows of one dataset are dependent. The combined p-value is that of the
smallest p-value, again compared with datasets of the prior, so that the probability of a false
alarm equals the level (Westfall and Young's min-p). Beyond the simulated values an exponential tail
is assumed.

If the prior is not available, p-values are those of independent uniform u, with Bonferroni's
correction.

References:
    | Probabilistic forecasts, calibration and sharpness (Gneiting et al., 2007)
    | Resampling-Based Multiple Testing (Westfall and Young, 1993)
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from amortized.arrays import refuse_nan
from amortized.diagnostics.data.held_out import (
    Array,
    HeldOut,
    baseline_scores,
    held_out_rows,
    held_out_statistics,
    inside,
)
from amortized.diagnostics.data.out_of_range import prior_datasets, standardise
from amortized.diagnostics.uniformity import uniformity_p_value
from amortized.latent_priors.trained_prior import trained_prior
from amortized.networks import PFN
from amortized.priors.prior import Prior

LEAST_ROWS = 8
LEVEL = 0.05
GROSS = 1e-3
_MOST_ROWS = 100  # of more rows, a random subset is evaluated
_N_DATASETS = 400
_calibrations: dict[tuple[Any, ...], dict[str, Array]] = {}
NARROW = "too narrow; this prior expects noise far below that of these rows"
WIDE = "too wide; this prior expects more noise than these rows have"
DRIFT = "Targets drift with the order of the rows, which this prior takes to be exchangeable"
UNEVEN = "Errors are larger in one part of the rows; this prior assumes equal noise everywhere"
_checked = ContextVar("_checked", default=True)


@dataclass(frozen=True)
class Statistic:
    """One statistic of the held-out rows.

    Attributes:
        value: its value for these rows.
        low: its 5% quantile over datasets of the prior.
        high: its 95% quantile.
        p_value: two-sided p-value.
    """

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class PriorFit:
    """Whether the rows are plausible under the prior of a network.

    Attributes:
        p_value: probability that a dataset of the prior has a statistic as extreme as these rows.
        statistics: the statistics by name.
        log_scores: mean log score of held-out rows, for the network and two baselines.
        score_error: standard error of the network's.
        sentence: the finding in words, and what to do if the prior does not fit.
        expected_from: source of the expected values.
    """

    p_value: float
    statistics: dict[str, Statistic]
    log_scores: dict[str, float]
    score_error: float
    sentence: str
    expected_from: str


@contextmanager
def unchecked() -> Iterator[None]:
    """Disables the check of the prior by estimators, as for datasets drawn from the prior."""
    before = _checked.set(False)
    try:
        yield
    finally:
        _checked.reset(before)


def prior_fit(
    network: Any,
    x: Float[Tensor, "n features"],
    y: Float[Tensor, " n"],
    *,
    prior: Prior | None = None,
    seed: int = 0,
) -> PriorFit:
    """Compares held-out rows with their distribution under a network's prior.

    Args:
        network: a `PFN` or `TabularPFN` for regression.
        x: inputs in the network's units, in the order in which they were observed.
        y: targets in the network's units.
        prior: training prior of the network; None is the one its config names. The prior of a
            table network is not simulated.
        seed: seed of the folds and of the prior's datasets.

    Raises:
        ValueError: if there are fewer than 8 rows, or missing values.

    Example:
        >>> from amortized.pretrained import load
        >>> x = torch.linspace(-2, 2, 20)[:, None]
        >>> noisy = x[:, 0].sin() + 3.0 * torch.cos(torch.arange(20.0) ** 2)
        >>> prior_fit(load("gp-1d"), x, noisy).p_value < 0.05
        True
    """
    x, y = _judged(x, y, seed)
    held_out = held_out_rows(network, x[None], y[None], seed)
    expected = _expected(network, prior, x.shape[0], x.shape[1], seed)
    if expected is None:
        statistics, source = _exact_null(held_out), "independent rows, exactly calibrated"
        p_value = min(1.0, len(statistics) * min(s.p_value for s in statistics.values()))
    else:
        source = f"{_N_DATASETS} datasets of the prior"
        found = held_out_statistics(held_out, x[None], y[None], _is_raw(network))
        p_values, combined = _p_values(expected, found)
        statistics = {
            name: _statistic(
                found[name][0], np.quantile(expected[name], [0.05, 0.95]), p_values[name][0]
            )
            for name in found
        }
        p_value = float(combined[0])
    scores = {"network": float(held_out.log_prob.mean())} | baseline_scores(x, y, seed)
    sentence = _sentence(p_value, statistics, scores, len(x), _advice(network))
    error = float(held_out.log_prob.std(ddof=1)) / math.sqrt(len(x))
    return PriorFit(p_value, statistics, scores, error, sentence, source)


def gross_misfit(network: Any, x: Tensor, y: Tensor) -> str | None:
    """Describes a gross misfit of the prior to these rows, without simulation.

    To allow for their dependence, n held-out rows are treated as n / 2 independent ones.

    Args:
        network: a network over rows.
        x: inputs in the network's units, ``(rows, features)``.
        y: targets in the network's units.
    """
    if not _checked.get() or len(x) < LEAST_ROWS:
        return None
    x, y = _judged(x, y, 0)
    held_out = held_out_rows(network, x[None], y[None], 0)
    if not far_too_narrow(held_out)[0]:
        return None
    covered = inside(held_out.u, 0.9).mean()
    return f"{_about_intervals(NARROW, covered, len(x))}. {_advice(network)}"


def _about_intervals(finding: str, covered: float, n: int) -> str:
    """A sentence that begins with what matters, for the heading of a report."""
    side, why = finding.split("; ")
    return f"The 90% intervals are {side}: they cover {covered:.0%} of {n} held-out rows; {why}"


def far_too_narrow(held_out: HeldOut) -> NDArray[np.bool_]:
    """Whether the normal scores of each dataset are too large to be due to chance.

    Args:
        held_out: predictions of each dataset's rows; n rows count as n / 2 independent ones.
    """
    n_independent = held_out.u.shape[1] / 2
    squares = n_independent * np.square(held_out.z).mean(1)
    return np.asarray(stats.chi2.sf(squares, n_independent) < GROSS)


def _judged(x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """All rows, or a random subset of them, in the given order."""
    if x.ndim != 2 or y.shape != x.shape[:1] or len(x) < LEAST_ROWS:
        raise ValueError(
            f"Expected x (rows, features) and y (rows,) of at least {LEAST_ROWS} rows; got "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    refuse_nan("y", y)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randperm(len(x), generator=generator)[:_MOST_ROWS].sort().values
    return x.float().cpu()[kept], y.float().cpu()[kept]


def _is_raw(network: Any) -> bool:
    return isinstance(network, PFN) and network.config.units != "standardised"


def _expected(
    network: Any, prior: Prior | None, n: int, n_features: int, seed: int
) -> dict[str, Array] | None:
    """The statistics of datasets of the prior; None if no prior of such rows is available."""
    name = network.config.prior
    if not isinstance(network, PFN):
        return None
    source: Any = trained_prior(network) if prior is None else prior
    if source is None:
        return None
    weights = hashlib.sha1(usedforsecurity=False)
    for value in network.state_dict().values():
        weights.update(value.detach().cpu().contiguous().numpy().tobytes())
    described = prior or name or str(network.calibration)
    key = (described, weights.hexdigest(), n, n_features, seed)
    if key not in _calibrations:
        try:
            # The seed differs from that of datasets that other checks draw from the prior.
            x, y = prior_datasets(source, n, n_features, _N_DATASETS, seed + 7919)
        except ValueError:
            return None
        if not _is_raw(network):
            x, y = standardise(x), standardise(y)
        _calibrations[key] = held_out_statistics(
            held_out_rows(network, x, y, seed), x, y, _is_raw(network)
        )
    return _calibrations[key]


def _upper_tail(sample: Array, values: Array) -> Array:
    """P(a draw >= value): empirical, and exponential beyond the sample's 90% quantile."""
    ordered, n = np.sort(sample), len(sample)
    at_least = n - np.searchsorted(ordered, values - 1e-12, side="left")
    start = ordered[int(0.9 * n)]
    beyond = ordered[ordered > start]
    share = (len(beyond) + 1) / (n + 1)
    # A statistic without a tail, such as ties that the prior never draws, excludes larger values.
    rate = 1 / max((beyond - start).mean() if len(beyond) else 0.0, 1e-3 * abs(start), 1e-3)
    tail = share * np.exp(-rate * np.maximum(values - start, 0.0))
    return np.asarray(np.where(values > start, tail, (1 + at_least) / (1 + n)))


def _two_sided(sample: dict[str, Array], found: dict[str, Array]) -> dict[str, Array]:
    """Two-sided p-values of each statistic with respect to a sample of it."""
    return {
        name: np.minimum(
            1.0,
            2
            * np.minimum(
                _upper_tail(sample[name], found[name]), _upper_tail(-sample[name], -found[name])
            ),
        )
        for name in sample
    }


def _surprise(p_values: dict[str, Array]) -> Array:
    """Minus the log of each dataset's smallest p-value."""
    return np.asarray(-np.log(np.maximum(np.min(list(p_values.values()), axis=0), 1e-300)))


def _p_values(
    expected: dict[str, Array], found: dict[str, Array]
) -> tuple[dict[str, Array], Array]:
    """Two-sided p-values of each statistic, and combined p-values, for any number of datasets."""
    # Cross-fitting: each half of the prior's datasets is compared with the other half.
    halves = [{name: values[i::2] for name, values in expected.items()} for i in (0, 1)]
    null = np.concatenate([_surprise(_two_sided(halves[1 - i], halves[i])) for i in (0, 1)])
    each = [_upper_tail(null, _surprise(_two_sided(half, found))) for half in halves]
    # The p-values from both halves are combined by their geometric mean, because they are nearly
    # equal; the arithmetic mean would be conservative.
    return _two_sided(expected, found), np.asarray(np.sqrt(each[0] * each[1]))


def _statistic(value: Any, range_: Any, p_value: Any) -> Statistic:
    return Statistic(float(value), float(range_[0]), float(range_[1]), float(p_value))


def _exact_null(held_out: HeldOut) -> dict[str, Statistic]:
    """Statistics whose distribution is known if the held-out u are uniform and independent."""
    u, n = held_out.u[0], held_out.u.shape[1]
    squares = float(np.square(held_out.z).sum())
    statistics = {}
    for level in (0.9, 0.5):
        law, count = stats.binom(n, level), int(inside(u, level).sum())
        statistics[f"coverage of {level:.0%} intervals"] = _statistic(
            count / n, law.ppf([0.05, 0.95]) / n, stats.binomtest(count, n, level).pvalue
        )
    chi2 = stats.chi2(n)
    statistics["mean square of normal scores (log)"] = _statistic(
        math.log(squares / n),
        np.log(chi2.ppf([0.05, 0.95]) / n),
        min(1.0, 2 * min(chi2.cdf(squares), chi2.sf(squares))),
    )
    distance = float(np.abs(np.sort(u) - (np.arange(n) + 0.5) / n).max() + 0.5 / n)
    statistics["distance of PIT from uniform"] = _statistic(
        distance, stats.kstwo(n).ppf([0.05, 0.95]), uniformity_p_value(u)
    )
    return statistics


def _advice(network: Any) -> str:
    if _is_raw(network):
        other = "'gp' standardises the data and learns their noise"
    else:
        other = "'tabular-regressor' was trained on many kinds of tables"
    own = "train one on a prior of your own"
    if not isinstance(network, PFN):
        return f"Compare it with other models by cross-validation, or {own}."
    return f"Take a network whose prior fits ({other}), or {own}."


# Explanation of a low and of a high value of each statistic; the first extreme one is reported.
_FINDINGS = {
    "exact copies of rows": ("", "Rows are exact copies of others, which this prior never draws"),
    "repeated targets": ("", "Targets repeat a few values; this prior draws continuous ones"),
    "centre of x": ("", "The inputs are shifted against those that this prior draws"),
    "largest x": ("The inputs span less than this prior's", "The inputs reach beyond this prior's"),
    "coverage of 90% intervals": (NARROW, WIDE),
    "coverage of 50% intervals": (NARROW, WIDE),
    "trend over the order of rows": (DRIFT, DRIFT),
    "dependence of successive rows": (DRIFT, DRIFT),
    "error size along the prediction": (UNEVEN, UNEVEN),
    "error size along x": ("", UNEVEN),
    "largest residual (log interquartile ranges)": (WIDE, "Single rows lie far outside: outliers"),
    "kurtosis of normal scores (log)": (
        "Errors come in separate groups rather than about one value",
        "Errors have heavier tails than this prior's",
    ),
    "mean square of normal scores (log)": (WIDE, NARROW),
    "log score less its expectation": (NARROW, WIDE),
    "dependence of neighbours in x": (
        "The rows are rougher in x than this prior's functions",
        "Errors of neighbours in x are correlated: this prior's functions have another shape",
    ),
    "mean of normal scores": ("Targets lie below the predictions", "Targets lie above them"),
    "skewness of normal scores": ("Errors are skewed downwards", "Errors are skewed upwards"),
    "spread of y (log)": ("Targets vary less than this prior's", "Targets vary more than its"),
    "distance of PIT from uniform": ("", "The predictive distributions have the wrong shape"),
}


def _sentence(
    fit_p: float, statistics: dict[str, Statistic], scores: Any, n: int, advice: str
) -> str:
    covered = statistics["coverage of 90% intervals"].value
    if fit_p >= LEVEL:
        return (
            f"The rows are consistent with this prior (p = {fit_p:.2g}): the 90% intervals cover "
            f"{covered:.0%} of {n} held-out rows."
        )
    clear = max(min(s.p_value for s in statistics.values()), 1e-3)

    def counts(name: str) -> bool:
        found = statistics[name]
        # Low coverage matters most to users, and explains large residuals.
        missed = name.startswith("coverage") and found.value < found.low
        return found.p_value <= (max(clear, LEVEL) if missed else clear)

    name = next(name for name in _FINDINGS if name in statistics and counts(name))
    found = statistics[name]
    finding = _FINDINGS[name][int(found.value > (found.low + found.high) / 2)]
    if finding in (NARROW, WIDE):
        text = _about_intervals(finding, covered, n)
    else:
        text = f"{finding} ({name} {found.value:.2g}, expected {found.low:.2g} to {found.high:.2g})"
    best = max(scores, key=lambda method: scores[method])
    if best != "network":
        text += f"; a {best} predicts held-out rows better"
    return f"{text} (p = {fit_p:.2g}). {advice}"
