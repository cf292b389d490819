r"""The local classifier two-sample test: for which datasets is a posterior wrong?

A classifier learns to distinguish pairs (true latents, dataset) from pairs (draw, dataset). No
reference posterior is needed. The test statistics are computed for datasets held out from training:

- over all of them, the rank of the classifier's score of the truth among its scores of the draws.
  It is uniform if the posterior is exact, and high if the classifier found a difference;
- for each of them, :math:`T(x) = \frac1L \sum_l (d(\theta_l, x) - \tfrac12)^2`, compared with its
  distribution over classifiers trained after truth and draw were swapped at random.

References:
    Linhart, Gramfort and Rodrigues, L-C2ST: local diagnostics for posterior approximations in
    simulation-based inference (2023), arXiv 2306.03580. Yao and Domke, Discriminative calibration:
    check Bayesian computation from simulations and flexible classifier (2023), arXiv 2305.14709.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from sklearn.base import clone
from torch import Tensor
from tqdm import tqdm

from amortized.diagnostics.calibration import ranks
from amortized.diagnostics.classifier_test import quadratic_classifier
from amortized.diagnostics.trial import PosteriorTrial
from amortized.plotting import BAND, COLOURS, label_axes, new_axes
from amortized.validation import seed_number


def summary_statistics(
    x: Float[Tensor, "datasets n features"], y: Float[Tensor, "datasets n"]
) -> Float[Tensor, "datasets statistics"]:
    """Mean and log standard deviation of y, and its covariance with each input, by dataset."""
    mean = y.mean(-1, keepdim=True)
    centred = y - mean
    log_sd = (centred.square().mean(-1, keepdim=True) + 1e-12).log() / 2
    covariance = torch.einsum("bn,bnf->bf", centred, x) / y.shape[-1]
    return torch.cat([mean, log_sd, covariance], -1).double()


@dataclass(frozen=True)
class LocalClassifierTest:
    """The result of a classifier of (latents, dataset), over all datasets and for some of them.

    Attributes:
        ranks: rank of the truth's score among the draws' scores, in (0, 1), for each held-out
            dataset.
        inspected: indices of the datasets that were tested individually, ``(n_inspected,)``.
        p_values: p-value of each of these.
        title: what was tested.
    """

    ranks: np.ndarray
    inspected: np.ndarray
    p_values: np.ndarray
    title: str

    @property
    def accuracy(self) -> float:
        """Probability that the truth has a higher score than a draw: 0.5 for an exact method."""
        return float(self.ranks.mean())

    @property
    def p_value(self) -> float:
        """p-value of the mean rank over all held-out datasets, if ranks are uniform."""
        error = np.sqrt(1 / 12 / len(self.ranks))
        return float(stats.norm.sf((self.ranks.mean() - 0.5) / error))

    def plot(self, ax: Any = None) -> Any:
        """The sorted p-values of the inspected datasets against uniform quantiles."""
        ax = new_axes() if ax is None else ax
        n = len(self.p_values)
        expected = (np.arange(n) + 0.5) / max(n, 1)
        ax.plot([0, 1], [0, 1], color=BAND, linewidth=3, label="exact posterior")
        ax.plot(expected, np.sort(self.p_values), ".", color=COLOURS[0], label="datasets")
        title = f"{self.title}: p = {self.p_value:.2g} over all"
        return label_axes(ax, "expected p-value", "p-value at the dataset", title)

    def __repr__(self) -> str:
        return (
            f"LocalClassifierTest({self.title}, accuracy {self.accuracy:.3f}, "
            f"p = {self.p_value:.3g}, {len(self.inspected)} datasets inspected)"
        )


def local_c2st(
    trial: PosteriorTrial,
    *,
    n_inspected: int = 20,
    n_null: int = 50,
    classifier: Any | None = None,
    seed: int = 0,
    progress: bool = True,
) -> LocalClassifierTest:
    """Trains a classifier on half of the trial's datasets and tests on the other half.

    Args:
        trial: at least 40 datasets, with their x and y.
        n_inspected: number of held-out datasets that are also tested individually.
        n_null: number of classifiers trained on swapped pairs; the smallest possible p-value is
            ``1 / (1 + n_null)``.
        classifier: any scikit-learn classifier with ``predict_proba``; None uses a quadratic one.
        seed: seed of the splits and swaps.
        progress: whether a progress bar is shown.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PosteriorTrial.run(NormalMeanPrior(), "exact", n_context=3, progress=False)
        >>> local_c2st(trial, n_inspected=0, progress=False).p_value > 0.01
        True
    """
    if trial.x is None or trial.y is None or trial.n_datasets < 40:
        raise ValueError(
            f"Expected at least 40 datasets, with their x and y; got {trial.n_datasets}. "
            "PosteriorTrial.run(...) stores both."
        )
    statistics = summary_statistics(trial.x, trial.y).cpu().numpy()
    truth, draws = trial.matrices()
    rng = np.random.default_rng(seed_number(seed))
    order = rng.permutation(len(truth))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    fit = _Pairs(truth, draws, statistics, classifier)
    model = fit(train, np.zeros(len(train), dtype=bool))
    scores = fit.scores(model, draws, test)
    u = ranks(fit.scores(model, truth[None], test)[0], scores, seed)
    inspected = test[:n_inspected]
    statistic = _departure(scores[:, :n_inspected])
    smaller = np.zeros(len(inspected))
    n_null = n_null if len(inspected) else 0
    for _ in tqdm(range(n_null), unit="classifier", disable=not progress):
        null = fit(train, rng.random(len(train)) < 0.5)
        smaller += _departure(fit.scores(null, draws, inspected)) >= statistic
    p_values = (1 + smaller) / (1 + n_null)
    return LocalClassifierTest(u, inspected, p_values, f"Local C2ST of {trial.method}")


def _departure(scores: Float[np.ndarray, "n_draws datasets"]) -> Float[np.ndarray, " datasets"]:
    """Mean squared difference of the classifier's probabilities from 1/2, for each dataset."""
    return np.asarray(((scores - 0.5) ** 2).mean(0))


@dataclass(frozen=True)
class _Pairs:
    """Trains and evaluates classifiers of (latents, statistics of the dataset)."""

    truth: np.ndarray
    draws: np.ndarray
    statistics: np.ndarray
    classifier: Any | None

    def __call__(self, datasets: np.ndarray, swapped: np.ndarray) -> Any:
        """A classifier of truth (1) and draw (0), trained with some of the pairs swapped."""
        # Each dataset contributes its truth and one draw, so the classes are of equal size.
        draw, truth, at = self.draws[0, datasets], self.truth[datasets], self.statistics[datasets]
        first = np.where(swapped[:, None], draw, truth)
        second = np.where(swapped[:, None], truth, draw)
        features = np.concatenate([np.hstack([first, at]), np.hstack([second, at])])
        model = quadratic_classifier() if self.classifier is None else clone(self.classifier)
        return model.fit(features, np.repeat([1, 0], len(datasets)))

    def scores(self, model: Any, latents: np.ndarray, datasets: np.ndarray) -> np.ndarray:
        """Probability of not being a draw, ``(n, datasets)`` for latents ``(n, all, dim)``."""
        some = latents[:, datasets]
        at = np.broadcast_to(self.statistics[datasets], (*some.shape[:2], self.statistics.shape[1]))
        flat = np.concatenate([some, at], -1).reshape(-1, some.shape[2] + at.shape[2])
        if not len(flat):
            return np.empty(some.shape[:2])
        return np.asarray(model.predict_proba(flat)[:, 1].reshape(some.shape[:2]))
