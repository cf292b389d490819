r"""Is a dataset like those that a network was trained on? Outside of them nobody promises anything.

Features of the dataset (moments and shape of answers and inputs, how jumpy the answers are, how
surprised the network is by rows it has not been shown, and how heavy the tails of its errors are)
are compared with the same features of datasets drawn from the training prior with as many rows and
columns. With :math:`z_j` the distance of feature j from its median, in units of that of its 5%
quantile on that side, the score is :math:`(\sum_j |z_j|^3)^{1/3}`, little more than the largest of
them, and its p-value is its rank among the scores of further prior datasets: a false alarm has
exactly the probability of the level, up to the number of these datasets.

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
    """What was found of each dataset.

    Attributes:
        p_values: probability that a dataset of the prior is as unusual, ``(n_datasets,)``.
        distances: signed distance of each feature, ``{feature: (n_datasets,)}``; beyond 1 are
            5% of the prior's datasets on each side.
    """

    p_values: Float[np.ndarray, " n"]
    distances: dict[str, Float[np.ndarray, " n"]]

    def flagged(self, level: float = 0.05) -> np.ndarray:
        """Which datasets lie outside, ``(n_datasets,)``."""
        return self.p_values <= level

    def reason(self, i: int = 0) -> str:
        """In words, the feature by which dataset i is most unusual."""
        name = max(self.distances, key=lambda feature: abs(self.distances[feature][i]))
        side = "high" if self.distances[name][i] > 0 else "low"
        return f"{name} is {side}er than in the training prior"


class TrainingRange:
    """The range of datasets of one size that a network was trained on.

    Args:
        network: whose surprise is one of the features.
        prior: that it was trained on.
        n_context: rows of the datasets to be judged, at least 8.
        n_features: their inputs.
        standardised: whether datasets come with inputs and answers of mean 0 and variance 1, as
            estimators make them; those of the prior are then made so too.
        n_datasets: drawn from the prior; half of them measure, half of them rank.
        seed: of these.

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
        # Far quantiles: in units of the middle of a heavy-tailed feature, its tail would be all
        # that the score sees.
        low, self._median, high = np.quantile(measured, [0.05, 0.5, 0.95], axis=0)
        self._below = np.maximum(self._median - low, 1e-9)
        self._above = np.maximum(high - self._median, 1e-9)
        self._scores = np.sort(self._score(ranked))

    def __call__(
        self, x: Float[Tensor, "batch n features"], y: Float[Tensor, "batch n"]
    ) -> RangeVerdict:
        """Judges datasets of the size that this was made for."""
        if x.shape[1:] != self._shape or y.shape != x.shape[:2]:
            raise ValueError(
                f"Expected x of shape (batch, {self._shape[0]}, {self._shape[1]}) and y to fit; "
                f"got {tuple(x.shape)} and {tuple(y.shape)}. Make a TrainingRange of that size."
            )
        for name, part in (("x", x), ("y", y)):
            refuse_nan(name, part)
        values = np.stack(list(self._features(x.float(), y.float()).values()), -1)
        n = len(self._scores)
        as_unusual = n - np.searchsorted(self._scores, self._score(values), side="left")
        distances = self._distances(values)
        return RangeVerdict(
            (1 + as_unusual) / (1 + n),
            {name: distances[:, j] for j, name in enumerate(self.names)},
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
    """Mean 0 and standard deviation 1 along the rows; constants become 0."""
    scale = values.std(1, keepdim=True, correction=0)
    return (values - values.mean(1, keepdim=True)) / torch.where(scale > 0, scale, 1.0)


def prior_datasets(
    prior: Prior, n_context: int, n_features: int, n_datasets: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Datasets of one size; batches of a prior over sizes that have another are left out."""
    parts: list[Any] = []
    if isinstance(prior, GaussianProcessPrior):  # it can be told the number
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
            f"Expected a prior that draws datasets with {n_features} features; in {i + 1} batches "
            f"it drew {len(parts)} with so many."
        )
    x, y = (torch.cat([getattr(b, f"{name}_context") for b in parts]) for name in "xy")
    return x[:n_datasets].float(), y[:n_datasets].float()


def _context_statistics(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """One number a dataset each, most of them brought to a scale on which they are near normal."""
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
        "jump between neighbours": _jump(x, y, scale),
    }
    if x.shape[2]:
        found["centre of x"] = x.mean(1).abs().amax(1)
        found["reach of x"] = (x.abs().amax((1, 2)) + 1e-9).log()
        found["crowding of x"] = _crowding(x)
        found["cleft of x"] = _cleft(x)
    return found


def _nearest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and number of every row's nearest other row."""
    distance = torch.cdist(x, x) + torch.diag_embed(torch.full(x.shape[:2], torch.inf))
    found = distance.min(-1)
    return found.values, found.indices


def _jump(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Log of the largest difference to the nearest row's answer, over the typical one."""
    difference = (y - y.gather(1, _nearest(x)[1])).abs() / scale
    return (difference.amax(1) + 1e-3).log() - (difference.median(1).values + 1e-2).log()


def _crowding(x: Tensor) -> Tensor:
    """Log of the median distance to the nearest row, in units of the inputs' spread."""
    spread = x.std((1, 2)) + 1e-9
    return (_nearest(x)[0].median(1).values / spread + 1e-4).log()


def _cleft(x: Tensor) -> Tensor:
    """Log of the least share of a column's variance that is left within its two halves.

    Halves are those of the best cut. A uniform column keeps a quarter, a normal one about a third,
    two clusters next to nothing.
    """
    x = x.sort(1).values.double()
    n = torch.arange(1, x.shape[1], dtype=x.dtype, device=x.device).unsqueeze(-1)
    x = x - x.mean(1, keepdim=True)
    low = x.cumsum(1)[:, :-1]  # the sum of all others is its negative
    between = low.square() * (1 / n + 1 / (x.shape[1] - n))
    total = x.square().sum(1) + 1e-9
    return (1 - between.amax(1) / total).amin(1).clamp_min(1e-3).log()


def _surprise(network: PFN, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """How far held-out answers are from what the network expects of them, fold by fold."""
    excess, extreme, residuals = [], [], []
    for fold in range(_N_FOLDS):
        held_out = torch.arange(x.shape[1]) % _N_FOLDS == fold
        with torch.no_grad():
            predictive = network(x[:, ~held_out], y[:, ~held_out], x[:, held_out])
            excess.append(-predictive.log_prob(y[:, held_out]) - predictive.entropy())
            u = predictive.cdf(y[:, held_out])
            # Not standard deviations, which a little mass in far bars makes too large.
            low, middle, high = predictive.icdf(_QUARTILES.to(y)).to(y)
        extreme.append(torch.minimum(u, 1 - u))
        residuals.append((y[:, held_out] - middle) / (high - low))
    residual = torch.cat(residuals, 1)
    size, centred = residual.abs(), residual - residual.mean(1, keepdim=True)
    kurtosis = centred.pow(4).mean(1) / (centred.var(1) + 1e-6).square()
    return {
        "surprise at held-out rows": torch.cat(excess, 1).mean(1).asinh(),
        "most surprising held-out row": -(torch.cat(extreme, 1).amin(1) + 1e-7).log(),
        "largest held-out residual": size.amax(1).log() - (size.median(1).values + 1e-2).log(),
        "kurtosis of held-out residuals": (kurtosis + 1e-6).log(),
    }
