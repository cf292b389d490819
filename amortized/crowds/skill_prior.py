r"""Hierarchical priors of the workers' skills.

The hyperparameters have uniform priors on grids. Given the true classes, the skills can be
integrated out of the likelihood, so that the hyperparameters are drawn from counts alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
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
    parameters and the concentration s of the rows are common to all workers.

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
        self, counts: Int[np.ndarray, "chains workers k k"], before: Any, rng: np.random.Generator
    ) -> tuple[Any, Float[np.ndarray, "chains workers"], Float[np.ndarray, " chains"]]:
        """Draws the hyperparameters, each worker's mean, and the concentration of rows."""
        n_chains = len(counts)
        population, at = before or (np.full(n_chains, len(self.log_shares) // 2), None)
        at = np.full(n_chains, 3) if at is None else at
        each = counts[:, :, None]
        concentration = CONCENTRATIONS[at][:, None, None]
        logits = self.log_likelihood(each, self.means, concentration)
        logits = logits + self.log_shares[population][:, None]
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        mean = self.means[chosen]
        logits = self.log_likelihood(each, mean[..., None], CONCENTRATIONS).sum(1)
        at = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        times = (chosen[..., None] == np.arange(len(self.means))).sum(1)
        logits = times @ self.log_shares.T
        population = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        return (population, at), mean, CONCENTRATIONS[at]


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
