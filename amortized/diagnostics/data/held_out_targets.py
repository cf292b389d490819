"""Held-out targets: are predictive distributions calibrated, and better than baselines?

Every row is predicted from the others. If the predictive is exact, the probability integral
transform (PIT) of its target is uniform; rows of one table are treated as independent.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import HistGradientBoostingRegressor
from torch.distributions import Distribution

from amortized.diagnostics.data.held_out import Array, baseline_scores, boosted_trees, folds, inside
from amortized.diagnostics.reports.page import ALARM, Section
from amortized.diagnostics.uniformity import Uniformity
from amortized.plotting import COLOURS, label_axes, new_axes
from amortized.validation import seed_number

Rows = NDArray[np.intp]

MOST_ROWS = 500  # of a larger table, a random subset of rows is evaluated
_LEVEL = 0.9


@dataclass(frozen=True)
class HeldOutTargets:
    """Targets and their predictions from the other rows, each ``(rows,)``.

    Attributes:
        y: targets.
        u: distribution function of the predictive at the target.
        log_prob: log density of the predictive at the target.
        mean: mean of the predictive.
        low: its 5% quantile.
        high: its 95% quantile.
        log_scores: mean log score of baselines, by name.
        predictions: predictions of baselines that only predict a mean, by name.
    """

    y: Array
    u: Array
    log_prob: Array
    mean: Array
    low: Array
    high: Array
    log_scores: dict[str, float] = field(default_factory=dict)
    predictions: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, predictive: Distribution, y: Array, **baselines: Any) -> "HeldOutTargets":
        """Scores a predictive of batch shape ``(rows,)``."""
        dtype = predictive.mean.dtype
        target = torch.as_tensor(y, dtype=dtype).reshape(predictive.batch_shape)
        ends = [predictive.icdf(torch.full_like(target, p)) for p in (0.05, 0.95)]
        parts = {"u": predictive.cdf(target).clamp(0, 1), "log_prob": predictive.log_prob(target)}
        parts |= {"mean": predictive.mean, "low": ends[0], "high": ends[1]}
        found: dict[str, Any] = {
            name: part.detach().double().cpu().numpy().ravel() for name, part in parts.items()
        }
        return cls(np.asarray(y, np.float64).ravel(), **found, **baselines)


def held_out_targets(
    answer: Callable[[Rows, Rows], Distribution], x: Array, y: Array, seed: int = 0
) -> HeldOutTargets:
    """Predicts every row from the rows of the other folds, by a method and by baselines.

    Args:
        answer: the predictive of the rows ``out`` given the rows ``given``, of batch shape
            ``(out,)``, as ``answer(given, out)``.
        x: inputs as numbers, ``(rows, features)``.
        y: targets, ``(rows,)``.
        seed: seed of the folds.
    """
    rows = np.sort(np.random.default_rng(seed_number(seed)).permutation(len(y))[:MOST_ROWS])
    parts, boosted, order = [], [], list[int]()
    for held, _ in zip(*folds(len(rows), seed), strict=True):
        out = np.setdiff1d(rows[held], order)  # the last fold may repeat rows
        given = np.setdiff1d(np.arange(len(y)), rows[held])
        parts.append(HeldOutTargets.of(answer(given, out), y[out]))
        trees = boosted_trees(HistGradientBoostingRegressor, x[given], y[given])
        boosted.append(trees.predict(x[out]))
        order += list(out)
    names = ("y", "u", "log_prob", "mean", "low", "high")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    scores = baseline_scores(torch.as_tensor(x[rows]), torch.as_tensor(y[rows]), seed)
    predictions = {"boosted trees": np.concatenate(boosted)}
    return HeldOutTargets(**joined, log_scores=scores, predictions=predictions)


def targets_section(held_out: HeldOutTargets, what: str = "row") -> Section:
    """Coverage, PIT, log score and error of held-out targets.

    Args:
        held_out: predictions of a method and of baselines.
        what: what a target belongs to, in the text, such as "row".

    Example:
        >>> y = np.random.default_rng(0).normal(size=200)
        >>> normal = torch.distributions.Normal(torch.zeros(200), 1.0)
        >>> targets_section(HeldOutTargets.of(normal, y)).warnings
        []
    """
    n, covered = len(held_out.y), inside(held_out.u, _LEVEL)
    p_value = float(stats.binomtest(int(covered.sum()), n, _LEVEL).pvalue)
    low, high = stats.binom(n, _LEVEL).ppf([0.05, 0.95]) / n
    pit = Uniformity({"y": held_out.u}, f"PIT of held-out {what}s", "PIT", f"share of {what}s")
    share = covered.mean()
    finding = f"The {_LEVEL:.0%} intervals cover {share:.0%} of {n} held-out {what}s"
    warnings = list[str]()
    if p_value < ALARM:
        side = "too narrow" if share < _LEVEL else "too wide"
        warnings.append(
            f"The {_LEVEL:.0%} intervals are {side}: they cover {share:.0%} of {n} held-out "
            f"{what}s (p = {p_value:.2g})."
        )
    elif pit.p_value < ALARM:
        warnings.append(
            f"The predictive distributions of held-out {what}s have the wrong shape or location "
            f"(PIT not uniform, p = {pit.p_value:.2g})."
        )
    entries: dict[str, Any] = {
        "finding": f"{finding}.",
        f"coverage of {_LEVEL:.0%} intervals": (
            f"{share:.3g} ({low:.3g} to {high:.3g} if calibrated; p = {p_value:.2g})"
        ),
        "PIT, p-value": pit.p_value,
    }
    entries |= _compared(held_out, what, warnings)
    figures = {
        f"Calibration of held-out {what}s: calibrated if inside the grey band.": pit.plot().figure,
        f"Held-out {what}s: prediction with {_LEVEL:.0%} interval, and target.": _plot(held_out),
    }
    return Section(f"Held-out {what}s", entries, warnings, figures)


def _compared(held_out: HeldOutTargets, what: str, warnings: list[str]) -> dict[str, Any]:
    own, n = held_out.log_prob.mean(), len(held_out.y)
    error = held_out.log_prob.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
    entries: dict[str, Any] = {"log score, estimator": f"{own:.4g} +- {error:.2g} nats per {what}"}
    for name, score in held_out.log_scores.items():
        entries[f"log score, {name}"] = score
    if held_out.log_scores:
        best = max(held_out.log_scores, key=lambda name: held_out.log_scores[name])
        if held_out.log_scores[best] > own + 3 * error:
            warnings.append(
                f"On held-out {what}s a {best} has a higher log score than this estimator "
                f"({held_out.log_scores[best]:.3g} against {own:.3g}): prefer another model."
            )
    for name, mean in {"estimator": held_out.mean, **held_out.predictions}.items():
        entries[f"root mean squared error, {name}"] = float(
            np.sqrt(np.square(held_out.y - mean).mean())
        )
    return entries


def _plot(held_out: HeldOutTargets) -> Any:
    ax = new_axes()
    shown = np.random.default_rng(0).permutation(len(held_out.y))[:150]
    x = held_out.mean[shown]
    ax.vlines(x, held_out.low[shown], held_out.high[shown], color=COLOURS[2], alpha=0.4)
    ax.plot(x, held_out.y[shown], ".", color=COLOURS[0], markersize=4, label="target")
    ends = [x.min(), x.max()]
    ax.plot(ends, ends, color=COLOURS[1], linewidth=0.8, label="mean of the predictive")
    return label_axes(ax, "prediction", "target").figure
