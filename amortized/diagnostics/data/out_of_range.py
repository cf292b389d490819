r"""The training range: is a dataset similar to those that a network was trained on?

Predictions outside of the training range are unreliable. Summary statistics of the dataset (moments
and shape of targets and inputs, roughness of the targets, log scores of held-out rows, and tails of
their errors) are compared with the same statistics of datasets drawn from the training prior with
equal numbers of rows and columns. Let :math:`z_j` be the distance of statistic j from its median,
in units of the distance of its 5% quantile on the same side. The score is
:math:`(\sum_j |z_j|^3)^{1/3}`, which is dominated by the largest, and its p-value is its rank among
the scores of further datasets of the prior. The probability of a false alarm is therefore exactly
the level, up to the number of these datasets.

References:
    Schmitt et al., Detecting model misspecification in amortized Bayesian inference with neural
    networks (2023), arXiv 2112.08866.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from amortized.arrays import refuse_nan
from amortized.networks import PFN
from amortized.priors.prior import Prior
from amortized.priors.regression.gaussian_process import GaussianProcessPrior

_N_FOLDS = 4
_BATCH = 100
_QUARTILES = torch.tensor([0.25, 0.5, 0.75]).reshape(3, 1, 1)


@dataclass(frozen=True)
class RangeVerdict:
    """The result for each dataset.

    Attributes:
        p_values: probability that a dataset of the prior is at least as unusual,
            ``(n_datasets,)``.
        distances: signed distance of each statistic, ``{statistic: (n_datasets,)}``; 5% of the
            prior's datasets are beyond 1 on each side.
    """

    p_values: Float[np.ndarray, " n"]
    distances: dict[str, Float[np.ndarray, " n"]]

    def flagged(self, level: float = 0.05) -> np.ndarray:
        """Whether each dataset lies outside of the range, ``(n_datasets,)``."""
        return self.p_values <= level

    def reason(self, i: int = 0) -> str:
        """The most unusual statistic of dataset i, in words."""
        name = max(self.distances, key=lambda feature: abs(self.distances[feature][i]))
        side = "high" if self.distances[name][i] > 0 else "low"
        return f"{name} is {side}er than in the training prior"


class TrainingRange:
    """The range of datasets of one size that a network was trained on.

    Args:
        network: the network; its errors on held-out rows are among the statistics.
        prior: its training prior.
        n_context: number of rows of the datasets to be checked, at least 8.
        n_features: number of their inputs.
        standardised: whether datasets come with standardised inputs and targets, as from
            estimators; those of the prior are then standardised as well.
        n_datasets: number of datasets drawn from the prior, half of them for the scale of the
            statistics and half for the ranks.
        seed: seed of these datasets.

    Example:
        >>> from amortized.pretrained import load
        >>> from amortized.priors import named_prior
        >>> prior = named_prior("gp-1d")
        >>> inside = TrainingRange(load("gp-1d"), prior, 10, 1, n_datasets=100)
        >>> batch = prior.sample(1, 10, 0, seed=1)
        >>> far = batch.y_context + 100.0
        >>> bool(inside(batch.x_context, far).flagged()[0])
        True
    """

    def __init__(
        self,
        network: PFN,
        prior: Prior,
        n_context: int,
        n_features: int,
        *,
        standardised: bool = False,
        n_datasets: int = 400,
        seed: int = 0,
    ) -> None:
        if n_context < 2 * _N_FOLDS or n_datasets < 40:
            raise ValueError(
                f"Expected at least {2 * _N_FOLDS} rows and 40 datasets of the prior; got "
                f"{n_context} and {n_datasets}."
            )
        self.network, self.standardised = network, standardised
        x, y = prior_datasets(prior, n_context, n_features, n_datasets, seed)
        self._shape = x.shape[1:]
        features = self._features(x, y)
        self.names = list(features)
        values = np.stack(list(features.values()), -1)
        measured, ranked = values[: n_datasets // 2], values[n_datasets // 2 :]
        # Far quantiles, because the tail of a heavy-tailed statistic would dominate the score if
        # its unit were a quantile near the centre.
        low, self._median, high = np.quantile(measured, [0.05, 0.5, 0.95], axis=0)
        self._below = np.maximum(self._median - low, 1e-9)
        self._above = np.maximum(high - self._median, 1e-9)
        self._scores = np.sort(self._score(ranked))

    def __call__(
        self, x: Float[Tensor, "batch n features"], y: Float[Tensor, "batch n"]
    ) -> RangeVerdict:
        """Checks datasets of the size for which this range was computed."""
        if x.shape[1:] != self._shape or y.shape != x.shape[:2]:
            raise ValueError(
                f"Expected x of shape (batch, {self._shape[0]}, {self._shape[1]}) and y to match; "
                f"got {tuple(x.shape)} and {tuple(y.shape)}. Make a TrainingRange of that size."
            )
        for name, part in (("x", x), ("y", y)):
            refuse_nan(name, part)
        values = np.stack(list(self._features(x.float(), y.float()).values()), -1)
        n = len(self._scores)
        as_unusual = n - np.searchsorted(self._scores, self._score(values), side="left")
        distances = self._distances(values)
        return RangeVerdict(
            (1 + as_unusual) / (1 + n), {name: distances[:, j] for j, name in enumerate(self.names)}
        )

    def _distances(self, values: np.ndarray) -> np.ndarray:
        deviation = values - self._median
        return deviation / np.where(deviation < 0, self._below, self._above)

    def _score(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(self._distances(values), ord=3, axis=-1))

    def _features(self, x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
        if self.standardised:
            x, y = standardise(x), standardise(y)
        found = _context_statistics(x, y) | _surprise(self.network, x, y)
        if self.standardised:
            for name in ("mean of y", "mean of y over its spread", "spread of y", "centre of x"):
                del found[name]
        return {name: value.double().numpy() for name, value in found.items()}


def standardise(values: Tensor) -> Tensor:
    """Standardises along the rows; constants become 0."""
    scale = values.std(1, keepdim=True, correction=0)
    return (values - values.mean(1, keepdim=True)) / torch.where(scale > 0, scale, 1.0)


def prior_datasets(
    prior: Prior, n_context: int, n_features: int, n_datasets: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Datasets with a given number of features; batches with other numbers are left out."""
    parts: list[Any] = []
    if isinstance(prior, GaussianProcessPrior):  # its number of features can be set
        prior = copy.copy(prior)
        prior.n_features = (n_features, n_features)
    for i in range(100 * (1 + n_datasets // _BATCH)):
        batch = prior.sample(_BATCH, n_context, 0, seed=seed * 10**6 + i)
        if batch.n_features == n_features:
            parts.append(batch)
        if len(parts) * _BATCH >= n_datasets:
            break
    else:
        raise ValueError(
            f"Expected a prior that draws datasets with {n_features} features; got {len(parts)} in "
            f"{i + 1} batches."
        )
    x, y = (torch.cat([getattr(b, f"{name}_context") for b in parts]) for name in "xy")
    return x[:n_datasets].float(), y[:n_datasets].float()


def _context_statistics(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Statistics of the context, ``{name: (batch,)}``, most of them transformed to near normal."""
    mean, scale = y.mean(1, keepdim=True), y.std(1, keepdim=True, correction=0) + 1e-9
    z = (y - mean) / scale
    middle = y.median(1, keepdim=True).values
    spread = (y - middle).abs().median(1, keepdim=True).values + 1e-3 * scale
    found = {
        "mean of y": mean[:, 0],
        "mean of y over its spread": (mean / scale)[:, 0].asinh(),
        "spread of y": scale[:, 0].log(),
        "skewness of y": z.pow(3).mean(1).asinh(),
        "largest deviation of y": ((y - middle).abs() / spread).amax(1).log(),
        "largest jump between neighbours": _jump(x, y, scale),
    }
    if x.shape[2]:
        found["centre of x"] = x.mean(1).abs().amax(1)
        found["largest absolute x"] = (x.abs().amax((1, 2)) + 1e-9).log()
        found["spacing of x"] = _spacing(x)
        found["unimodality of x"] = _unimodality(x)
    return found


def _nearest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and index of the nearest neighbour of each row."""
    distance = torch.cdist(x, x) + torch.diag_embed(torch.full(x.shape[:2], torch.inf))
    found = distance.min(-1)
    return found.values, found.indices


def _jump(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Log ratio of the largest to the typical difference from the nearest neighbour's target."""
    difference = (y - y.gather(1, _nearest(x)[1])).abs() / scale
    return (difference.amax(1) + 1e-3).log() - (difference.median(1).values + 1e-2).log()


def _spacing(x: Tensor) -> Tensor:
    """Log of the median distance to the nearest neighbour, in units of the inputs' spread."""
    spread = x.std((1, 2)) + 1e-9
    return (_nearest(x)[0].median(1).values / spread + 1e-4).log()


def _unimodality(x: Tensor) -> Tensor:
    """Log of the smallest ratio, over columns, of within-group to total variance of two groups.

    The groups are those of the best split of a column. The ratio is a quarter for a uniform column,
    about a third for a normal one, and near zero for two clusters.
    """
    x = x.sort(1).values.double()
    n = torch.arange(1, x.shape[1], dtype=x.dtype, device=x.device).unsqueeze(-1)
    x = x - x.mean(1, keepdim=True)
    low = x.cumsum(1)[:, :-1]  # the sum of all others is its negative
    between = low.square() * (1 / n + 1 / (x.shape[1] - n))
    total = x.square().sum(1) + 1e-9
    return (1 - between.amax(1) / total).amin(1).clamp_min(1e-3).log()


def _surprise(network: PFN, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Log scores and residuals of held-out targets, relative to what the network expects."""
    excess, extreme, residuals = [], [], []
    for fold in range(_N_FOLDS):
        held_out = torch.arange(x.shape[1]) % _N_FOLDS == fold
        with torch.no_grad():
            predictive = network(x[:, ~held_out], y[:, ~held_out], x[:, held_out])
            excess.append(-predictive.log_prob(y[:, held_out]) - predictive.entropy())
            u = predictive.cdf(y[:, held_out])
            # Quartiles, because a small mass in far bars inflates standard deviations.
            low, middle, high = predictive.icdf(_QUARTILES.to(y)).to(y)
        extreme.append(torch.minimum(u, 1 - u))
        residuals.append((y[:, held_out] - middle) / (high - low))
    residual = torch.cat(residuals, 1)
    size, centred = residual.abs(), residual - residual.mean(1, keepdim=True)
    kurtosis = centred.pow(4).mean(1) / (centred.var(1) + 1e-6).square()
    return {
        "mean excess loss of held-out rows": torch.cat(excess, 1).mean(1).asinh(),
        "least probable held-out target": -(torch.cat(extreme, 1).amin(1) + 1e-7).log(),
        "largest held-out residual": size.amax(1).log() - (size.median(1).values + 1e-2).log(),
        "kurtosis of held-out residuals": (kurtosis + 1e-6).log(),
    }
