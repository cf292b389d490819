r"""The one-coin model: one accuracy for each worker, and equally probable errors.

.. math::
    \pi \sim \mathrm{Dirichlet}(1), \quad z_i \sim \pi, \quad
    p_j \sim \mathrm{Beta}(s m, s (1 - m)), \quad
    P(a_{ij} = a) = p_j [a = z_i] + \frac{1 - p_j}{K - 1} [a \neq z_i].
"""

import numpy as np
from scipy.special import softmax

from amortized.crowds.answers import Answers
from amortized.crowds.dawid_skene import Sweep, class_shares, draw
from amortized.crowds.skill_prior import SkillPrior


def sweep(answers: Answers, before: np.ndarray | Sweep, rng: np.random.Generator) -> Sweep:
    """One sweep of all chains, as in `amortized.crowds.dawid_skene`."""
    truth = before.truth if isinstance(before, Sweep) else before
    k = answers.n_classes
    right = (truth[:, answers.item] == answers.answer).astype(int)
    counts = answers.count(right, 2)
    skill = SkillPrior(1 / k).sample(counts, rng)
    shares = class_shares(truth, k, rng)
    gain = np.log(skill) - np.log((1 - skill) / (k - 1))
    votes = gain[:, answers.worker, None] * (answers.answer[:, None] == np.arange(k))
    logits = answers.by_item(votes) + np.log(shares)[:, None]
    wrong = ((1 - skill) / (k - 1))[..., None, None]
    confusion = wrong + (skill[..., None, None] - wrong) * np.eye(k)
    return Sweep(draw(logits, rng), softmax(logits, -1), skill, confusion)
