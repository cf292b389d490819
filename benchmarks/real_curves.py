"""Real curves of ``learning_curves``: LCDB's accuracies, and trainings that are stopped early."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from curve_baselines import EmceeCurve, end_quantiles, log_likelihood, power_law
from lcdb_extract import EXTRACT
from numpy.typing import NDArray
from scipy.stats import norm

from amortized import LearningCurveRegressor
from amortized.estimators.curves.curve_sets import StepScale
from amortized.priors import LearningCurvePrior, named_prior

SHARES = (0.2, 0.4, 0.8)
FEWEST_SIZES = 10
# min_delta and threshold
RULES = [(0.0, 0.01), (0.0, 0.05), (0.01, 0.05), (0.015, 0.05), (0.02, 0.05)]
Numbers = NDArray[np.float64]


def lcdb() -> dict[str, Any]:
    """The extract: datasets, learners, sizes and accuracies (NaN where there is none)."""
    stored = dict(np.load(EXTRACT))
    accuracy = stored["accuracy"].astype(np.float64)
    stored["accuracy"] = np.where(accuracy < 0, np.nan, accuracy / 10_000)
    return stored


def dataset_halves(seed: int = 0) -> list[NDArray[np.int64]]:
    """The datasets that may be tuned on, and those that methods are judged on."""
    datasets = np.random.default_rng(seed).permutation(np.unique(lcdb()["dataset"]))
    return np.array_split(datasets, 2)


def curves_by_dataset(seed: int = 0) -> tuple[list[Numbers], list[Numbers]]:
    """Curves of at least ten sizes, those of one half of the datasets and those of the other."""
    data = lcdb()
    halves = []
    for half in dataset_halves(seed):
        rows = data["accuracy"][np.isin(data["dataset"], half)]
        # A curve ends with its first gap.
        lengths = [int(np.isnan(np.append(row, np.nan)).argmax()) for row in rows]
        halves.append([row[:n] for row, n in zip(rows, lengths, strict=True) if n >= FEWEST_SIZES])
    order = [np.random.default_rng(seed).permutation(len(half)) for half in halves]
    first, second = ([half[i] for i in o] for half, o in zip(halves, order, strict=True))
    return first, second


def known_of(curve: Numbers, share: float) -> int:
    """How many values are known at a cut-off."""
    return max(2, round(share * len(curve)))


def sizes_of(curve: Numbers) -> Numbers:
    """Sizes of the training set: each is the root of two times the one before."""
    return 16.0 * 2.0 ** (np.arange(len(curve)) / 2)


def regressor(model: str, sizes: Numbers) -> LearningCurveRegressor:
    """For curves over these sizes."""
    return LearningCurveRegressor(model, first_step=sizes[0], horizon=sizes[-1], step_scale="log")


def network_scores(model: str, curve: Numbers, known: int) -> tuple[float, float, bool]:
    """Log-likelihood of the later values, and error and coverage at the last."""
    sizes = sizes_of(curve)
    fitted = regressor(model, sizes).fit(sizes[:known], curve[:known])
    predictive = fitted.predict_distribution(sizes[known:])
    ll = predictive.log_prob(torch.as_tensor(curve[known:])).mean().item()
    low, median, high = fitted.predict_quantiles(sizes[-1:], [0.05, 0.5, 0.95])[0]
    return ll, abs(median - curve[-1]), bool(low <= curve[-1] <= high)


def emcee_scores(curve: Numbers, known: int) -> tuple[float, float, bool]:
    """The same by emcee, on the same steps."""
    prior = named_prior("learning-curve")
    assert isinstance(prior, LearningCurvePrior)
    sizes = sizes_of(curve)
    steps = StepScale(sizes[0], sizes[-1], "log").to_prior(sizes, prior.n_steps)
    draws = EmceeCurve(prior, steps[:known], curve[:known]).draws(0, vectorised=True)
    ll = log_likelihood(prior, draws, steps[known:], curve[known:]).mean()
    levels = np.array([0.05, 0.5, 0.95])
    low, median, high = end_quantiles(prior, draws, steps[-1], levels, 0)
    return float(ll), abs(median - curve[-1]), bool(low <= curve[-1] <= high)


def last_value(steps: Numbers, values: Numbers, asked: Numbers) -> Numbers:
    """The last known value, for ever."""
    return np.full(len(asked), values[-1])


Point = Callable[[Numbers, Numbers, Numbers], Numbers]


def calibrated_scores(
    forecast: Point, tuning: list[Numbers], curves: list[Numbers], share: float
) -> list[tuple[float, float, bool]]:
    """Scores of a point forecast with the spread that it has on other curves."""

    def errors(curve: Numbers) -> Numbers:
        known, sizes = known_of(curve, share), sizes_of(curve)
        return curve[known:] - forecast(sizes[:known], curve[:known], sizes[known:])

    spread = float(np.concatenate([errors(curve) for curve in tuning]).std())
    ends = float(np.std([errors(curve)[-1] for curve in tuning]))
    scores = []
    for curve in curves:
        error = errors(curve)
        ll = norm.logpdf(error, scale=spread).mean()
        scores.append((float(ll), abs(error[-1]), bool(abs(error[-1]) <= 1.645 * ends)))
    return scores


def real_table(models: Sequence[str], n_curves: int, n_emcee: int) -> None:
    """Log-likelihood, error and coverage on LCDB."""
    tuning, curves = curves_by_dataset()
    tuning, curves = tuning[:n_curves], curves[:n_curves]
    print(
        f"\nLCDB, {len(curves)} curves\n"
        f"{'known':>6} {'method':>26} {'log-lik.':>9} {'error':>7} {'coverage of 90%':>16}"
    )
    for share in SHARES:
        pairs = [(curve, known_of(curve, share)) for curve in curves]
        rows = {model: [network_scores(model, *pair) for pair in pairs] for model in models}
        rows |= {
            "last value": calibrated_scores(last_value, tuning, curves, share),
            "power law": calibrated_scores(power_law, tuning, curves, share),
            f"network, first {n_emcee}": rows[models[0]][:n_emcee],
            f"emcee, first {n_emcee}": [emcee_scores(*pair) for pair in pairs[:n_emcee]],
        }
        for name, scores in rows.items():
            if scores:
                ll, error, inside = np.array(scores, dtype=np.float64).T
                print(
                    f"{share:5.0%} {name:>26} {ll.mean():9.3f} {error.mean():7.4f} "
                    f"{inside.mean():16.2f}"
                )


def trainings(datasets: Iterable[int], seed: int = 0) -> Iterator[list[Numbers]]:
    """For each dataset its learners' curves, equally long, in random order."""
    data, random = lcdb(), np.random.default_rng(seed)
    for dataset in datasets:
        rows = data["accuracy"][data["dataset"] == dataset]
        lengths = np.array([int(np.isnan(np.append(row, np.nan)).argmax()) for row in rows])
        n = int(np.median(lengths))
        rows = [row[:n] for row, length in zip(rows, lengths, strict=True) if length >= n]
        if n >= FEWEST_SIZES and len(rows) >= 5:
            yield [rows[i] for i in random.permutation(len(rows))]


def chances(model: str, curve: Numbers, mark: float, fewest: int) -> Numbers:
    """The chance to end above a mark, after each of the known parts, in one pass."""
    sizes, n = sizes_of(curve), len(curve)
    parts = np.stack([np.where(np.arange(n - 1) < k, curve[:-1], np.nan) for k in range(fewest, n)])
    fitted = regressor(model, sizes).fit(sizes[:-1], parts)
    return np.asarray(fitted.probability_of_exceeding(mark, at=sizes[-1]))


def early_stopping(
    model: str, kept: list[list[Numbers]], min_delta: float, threshold: float, fewest: int = 3
) -> tuple[float, Numbers]:
    """Trainings one after the other, stopped when they are unlikely to beat the best so far.

    Returns:
        by what factor fewer epochs are spent, and each dataset's relative regret.
    """
    spent, whole, regrets = 0, 0, []
    for runs in kept:
        best = -np.inf
        for run in runs:
            used = len(run)
            if best > -np.inf:
                low = np.flatnonzero(chances(model, run, best + min_delta, fewest) < threshold)
                used = fewest + int(low[0]) if len(low) else used
            best = max(best, run[-1]) if used == len(run) else best
            spent, whole = spent + used, whole + len(run)
        top = max(run[-1] for run in runs)
        regrets.append((top - best) / top)
    return whole / spent, np.array(regrets)


def early_stopping_table(model: str, n_datasets: int) -> None:
    """Rules on the datasets that they may be chosen on, and on those that judge them."""
    print(
        f"\n{'':>19} | {'datasets to choose on':^31} | {'datasets to judge on':^31}\n"
        f"{'min_delta':>9} {'threshold':>9}"
        + f" | {'number':>6} {'speed-up':>9} {'regret':>7} {'<= 1%':>6}"
        * 2
    )
    halves = [list(trainings(half[:n_datasets])) for half in dataset_halves()]
    for rule in RULES:
        cells = []
        for kept in halves:
            speed_up, regrets = early_stopping(model, kept, *rule)
            cells.append(
                f" | {len(kept):6d} {speed_up:9.2f} {regrets.mean():7.4f} "
                f"{(regrets <= 0.01).mean():6.2f}"
            )
        print(f"{rule[0]:9.3f} {rule[1]:9.3f}" + "".join(cells), flush=True)
