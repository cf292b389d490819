r"""Hierarchical priors of the workers' skills.

The hyperparameters have uniform priors on grids. Given the true classes, the skills can be
integrated out of the likelihood, so that the hyperparameters are drawn from counts alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special
from scipy.special import gammaln

CONCENTRATIONS = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
_N_MEANS = 12


@dataclass(frozen=True)
class SkillPrior:
    r"""One probability for each worker: :math:`p_j \sim \mathrm{Beta}(s m, s (1 - m))`.

    Attributes:
        chance: smallest mean m.
    """

    chance: float

    @property
    def right(self) -> Float[np.ndarray, " grid"]:
        """Pseudo-counts of correct labels at every point of the grid."""
        return (_midpoints(self.chance)[:, None] * CONCENTRATIONS).ravel()

    @property
    def wrong(self) -> Float[np.ndarray, " grid"]:
        """Pseudo-counts of wrong labels."""
        return ((1 - _midpoints(self.chance))[:, None] * CONCENTRATIONS).ravel()

    def sample(
        self, counts: Int[np.ndarray, "chains n_workers 2"], rng: np.random.Generator
    ) -> Float[np.ndarray, "chains n_workers"]:
        """Draws the workers' accuracies given their numbers of wrong and correct labels."""
        logits = np.stack([self._log_likelihood(*each.T) for each in counts])
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(-1)[:, None]
        drawn = rng.beta(self.right[chosen] + counts[..., 1], self.wrong[chosen] + counts[..., 0])
        return drawn.clip(1e-12, 1 - 1e-12)

    def _log_likelihood(self, wrong: np.ndarray, right: np.ndarray) -> np.ndarray:
        alpha, beta = self.right, self.wrong
        total = _rising_sum(alpha + beta, wrong + right)
        return _rising_sum(alpha, right) + _rising_sum(beta, wrong) - total


@dataclass(frozen=True)
class WorkerMeans:
    r"""Confusion matrices whose rows share a mean for each worker.

    The means lie on a grid between chance and 1 and have a beta distribution over workers; its
    parameters and the concentration s of the rows are common to all workers. An unknown share of
    the workers are spammers, whose labels have the same frequencies whatever the class.

    Attributes:
        chance: smallest mean.
        n_classes: number of classes.
    """

    chance: float
    n_classes: int

    @property
    def means(self) -> Float[np.ndarray, " means"]:
        """Grid of a worker's mean."""
        return _midpoints(self.chance)

    @property
    def log_shares(self) -> Float[np.ndarray, "populations means"]:
        """Log probability of each mean for every beta distribution of the grid."""
        t = _midpoints(0.0)
        a = (t[:, None] * CONCENTRATIONS).ravel()[:, None]
        b = ((1 - t)[:, None] * CONCENTRATIONS).ravel()[:, None]
        logits = (a - 1) * np.log(t) + (b - 1) * np.log(1 - t)
        return logits - np.logaddexp.reduce(logits, -1, keepdims=True)

    def log_likelihood(
        self,
        counts: Int[np.ndarray, "*workers n_classes n_classes"],
        mean: np.ndarray | float,
        concentration: np.ndarray | float,
    ) -> np.ndarray:
        """Log probability of labels with matrices integrated out; broadcasts over workers."""
        k = self.n_classes
        alpha, beta = concentration * mean, concentration * (1 - mean) / (k - 1)
        right = counts.diagonal(axis1=-2, axis2=-1)
        wrong = counts[..., ~np.eye(k, dtype=bool)]
        totals = counts.sum(-1)
        rising = (_rising(alpha, right).sum(-1) + _rising(beta, wrong).sum(-1)) - _rising(
            concentration + 0 * alpha, totals
        ).sum(-1)
        return rising

    def sample(
        self,
        counts: Int[np.ndarray, "chains workers k k"],
        before: "Workers | None",
        rng: np.random.Generator,
    ) -> "Workers":
        """Draws the hyperparameters, and each worker's mean, with the matrices integrated out."""
        n_chains, n_workers = counts.shape[:2]
        middle = np.full(n_chains, len(self.log_shares) // 2)
        population, at = (middle, np.full(n_chains, 3)) if before is None else before.grid
        odds = np.zeros((n_chains, 1)) if before is None else before.log_odds
        each = counts[:, :, None]
        logits = self.log_likelihood(each, self.means, CONCENTRATIONS[at][:, None, None])
        logits = logits + self.log_shares[population][:, None]
        able = np.logaddexp.reduce(logits, -1)
        blind = rng.logistic(size=able.shape) < odds + _log_blind(counts.sum(-2)) - able
        n_blind = blind.sum(1, keepdims=True)
        odds = special.logit(rng.beta(1 + n_blind, 1 + n_workers - n_blind).clip(1e-9, 1 - 1e-9))
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        mean = self.means[chosen]
        logits = self.log_likelihood(each, mean[..., None], CONCENTRATIONS)
        logits = np.where(blind[..., None], 0.0, logits).sum(1)
        at = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        times = (chosen[..., None] == np.arange(len(self.means))) & ~blind[..., None]
        logits = times.sum(1) @ self.log_shares.T
        population = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        return Workers((population, at), odds, blind, mean, CONCENTRATIONS[at])


class Workers(NamedTuple):
    """The workers of each chain, without their matrices.

    Attributes:
        grid: indices of the beta distribution of the means, and of the concentration.
        log_odds: of being a spammer, ``(chains, 1)``.
        blind: whether a worker is one, ``(chains, n_workers)``.
        mean: each worker's mean.
        concentration: of the rows.
    """

    grid: tuple[np.ndarray, np.ndarray]
    log_odds: Float[np.ndarray, "chains 1"]
    blind: Bool[np.ndarray, "chains n_workers"]
    mean: Float[np.ndarray, "chains n_workers"]
    concentration: Float[np.ndarray, " chains"]


def _log_blind(labels: Int[np.ndarray, "*workers n_classes"]) -> np.ndarray:
    """Log probability of labels that do not depend on the true class, with flat frequencies."""
    k, n = labels.shape[-1], labels.sum(-1)
    return gammaln(k) - gammaln(k + n) + gammaln(1 + labels).sum(-1)


def _midpoints(least: float) -> Float[np.ndarray, " means"]:
    edges = np.linspace(least, 1.0, _N_MEANS + 1)
    return (edges[1:] + edges[:-1]) / 2


def _rising(alpha: np.ndarray | float, counts: np.ndarray) -> np.ndarray:
    """Log of the rising factorial; the parameter lacks the last axis of the counts."""
    alpha = np.asarray(alpha)[..., None]
    return gammaln(alpha + counts) - gammaln(alpha)


def _rising_sum(alpha: Float[np.ndarray, " grid"], counts: Int[np.ndarray, " cells"]) -> np.ndarray:
    """Sum over cells; equal counts are computed once."""
    times = np.bincount(counts)
    value = np.flatnonzero(times)
    return _rising(alpha, value) @ times[value]
