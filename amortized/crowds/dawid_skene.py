r"""The model of Dawid and Skene with a hierarchical prior of the workers, by Gibbs sampling.

.. math::
    \pi \sim \mathrm{Dirichlet}(1), \quad z_i \sim \pi, \quad
    c_{jk} \sim \mathrm{Dirichlet}(s \, b(m_j)), \quad a_{ij} \sim c_{j z_i},

where :math:`b(m)` is m for the correct class and distributes the rest equally. The rows of a
worker's matrix share the mean :math:`m_j`, so that errors in one class make a worker less credible
in the others. The means of all workers have a beta distribution on the interval from chance to 1;
its parameters and s are inferred on grids. With an unknown probability, which has a uniform prior,
a worker is a spammer instead: all rows of the matrix are the same draw of a flat Dirichlet, because
a worker who ignores the items answers at random or always alike.

A sweep draws spammers, means, their distribution and s with the matrices integrated out, then
the matrices and the class frequencies given these, and then the true classes. Posterior
probabilities are averages of conditional probabilities instead of draws (Rao-Blackwellisation).

References:
    | Maximum likelihood estimation of observer error-rates using the EM algorithm (Dawid and Skene,
    | 1979)
    | Eliminating spammers and ranking annotators for crowdsourced labeling tasks (Raykar and Yu,
    | 2012)
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from amortized.crowds.answers import Answers
from amortized.crowds.skill_prior import WorkerMeans


class Sweep(NamedTuple):
    """The state of every chain after a sweep.

    Attributes:
        truth: draws of the true classes, ``(chains, n_items)``.
        probability: conditional probability of each class given the skills,
            ``(chains, n_items, n_classes)``.
        skill: probability of a correct label, ``(chains, n_workers)``.
        confusion: confusion matrix of each worker, with true classes in rows and labels in columns.
        second: like ``probability``, for the second class; None if the model has none.
        confusability: mean of the probability q of each item; None if the model has none.
        rest: other variables of the model's state.
    """

    truth: Int[np.ndarray, "chains n_items"]
    probability: Float[np.ndarray, "chains n_items n_classes"]
    skill: Float[np.ndarray, "chains n_workers"]
    confusion: Float[np.ndarray, "chains n_workers n_classes n_classes"]
    second: Float[np.ndarray, "chains n_items n_classes"] | None = None
    confusability: Float[np.ndarray, "chains n_items"] | None = None
    rest: Any = None


def start(answers: Answers, n_chains: int, rng: np.random.Generator) -> np.ndarray:
    """Initial true classes: the label of a random worker for each item."""
    votes = answers.votes() ** 2.0
    noise = rng.gumbel(size=(n_chains, *votes.shape))
    with np.errstate(divide="ignore"):
        return (np.log(votes) + noise).argmax(-1)


def sweep(answers: Answers, before: np.ndarray | Sweep, rng: np.random.Generator) -> Sweep:
    """One sweep of all chains."""
    truth = before.truth if isinstance(before, Sweep) else before
    rest = before.rest if isinstance(before, Sweep) else None
    k = answers.n_classes
    counts = answers.count(truth[:, answers.item] * k + answers.answer, k * k)
    counts = counts.reshape(*counts.shape[:2], k, k)
    workers = WorkerMeans(1 / k, k).sample(counts, rest, rng)
    mean, concentration = workers.mean[..., None, None], workers.concentration[:, None, None, None]
    off = (1 - mean) / (k - 1)
    confusion = _dirichlet(counts + concentration * (off + (mean - off) * np.eye(k)), rng)
    same = _dirichlet(1.0 + counts.sum(-2), rng)[:, :, None]
    confusion = np.where(workers.blind[..., None, None], same, confusion)
    shares = class_shares(truth, k, rng)
    log_answer = np.log(confusion)[:, answers.worker, :, answers.answer].swapaxes(0, 1)
    logits = answers.by_item(log_answer) + np.log(shares)[:, None]
    skill = np.einsum("ck,cwkk->cw", shares, confusion)
    return Sweep(draw(logits, rng), softmax(logits, -1), skill, confusion, rest=workers)


def class_shares(truth: np.ndarray, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the class frequencies given the true classes, ``(chains, n_classes)``."""
    return _dirichlet(1.0 + (truth[..., None] == np.arange(n_classes)).sum(1), rng)


def draw(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws an index of the last axis from logits."""
    return (logits + rng.gumbel(size=logits.shape)).argmax(-1)


def _dirichlet(concentration: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dirichlet draws over the last axis, clipped at 1e-30 so that logarithms are finite."""
    raised = np.maximum(rng.standard_gamma(concentration), 1e-30)
    return raised / raised.sum(-1, keepdims=True)
