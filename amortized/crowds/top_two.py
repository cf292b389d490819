r"""The top-two model: every item has a true class g and a second class h that is confused with it.

.. math::
    P(a_{ij} = a) = p_j q_i [a = g_i] + p_j (1 - q_i) [a = h_i] + (1 - p_j) / K, \qquad
    p_j \sim \mathrm{Beta}(s m, s (1 - m)), \quad q_i \sim U(1/2, 1),

with (g, h) uniform over pairs of different classes. A sweep draws (g, h, q) of every item jointly,
with q on a grid of midpoints, then which labels are guesses, and the reliabilities p given these.

References:
    | Recovering top-two answers and confusion probability in multi-choice crowdsourcing (Jeong and
    | Chung, 2023)
"""

import numpy as np

from amortized.crowds.answers import Answers
from amortized.crowds.dawid_skene import Sweep, draw
from amortized.crowds.skill_prior import SkillPrior

_N_GRID = 16
CONFUSION_GRID = 0.5 + (np.arange(_N_GRID) + 0.5) / (2 * _N_GRID)
"""Values of q."""


def sweep(answers: Answers, before: np.ndarray | Sweep, rng: np.random.Generator) -> Sweep:
    """One sweep of all chains, as in `amortized.crowds.dawid_skene`."""
    skill = _skill(answers, before, rng)
    k = answers.n_classes
    share = skill / np.maximum((1 - skill) / k, 1e-300)  # odds against a guess
    share = share[:, answers.worker, None, None] * (answers.answer[:, None, None] == np.arange(k))
    q = CONFUSION_GRID[:, None]
    first = answers.by_item(np.log1p(share * q))  # (chains, items, grid, classes)
    second = answers.by_item(np.log1p(share * (1 - q)))
    joint = first[..., :, None] + second[..., None, :]
    joint = np.where(np.eye(k, dtype=bool), -np.inf, joint)
    flat = joint.reshape(*joint.shape[:2], -1)
    at = np.unravel_index(draw(flat, rng), joint.shape[2:])
    probability = np.exp(flat - flat.max(-1, keepdims=True)).reshape(joint.shape)
    probability /= probability.sum((-3, -2, -1), keepdims=True)
    confusion = skill[..., None, None] * np.eye(k) + ((1 - skill) / k)[..., None, None]
    return Sweep(
        at[1],
        probability.sum((2, 4)),
        skill,
        confusion,
        probability.sum((2, 3)),
        probability.sum((3, 4)) @ CONFUSION_GRID,
        rest=(at[2], at[0]),
    )


def _skill(answers: Answers, before: np.ndarray | Sweep, rng: np.random.Generator) -> np.ndarray:
    """Draws the workers' reliabilities given the true classes, ``(chains, n_workers)``."""
    k = answers.n_classes
    if isinstance(before, Sweep):
        assert before.rest is not None
        truth, (second, at), skill = before.truth, before.rest, before.skill
        q = CONFUSION_GRID[at]
    else:  # initially every label other than the drawn class counts as a guess
        truth = second = before
        q, skill = np.full(before.shape, 0.75), np.full((len(before), answers.n_workers), 0.5)
    item = answers.item
    meant = np.where(truth[:, item] == answers.answer, q[:, item], 0.0)
    meant = np.where(
        (second[:, item] == answers.answer) & (second != truth)[:, item], 1 - q[:, item], meant
    )
    p = skill[:, answers.worker]
    known = rng.uniform(size=p.shape) < p * meant / (p * meant + (1 - p) / k)
    counts = answers.count(known.astype(int), 2)
    return SkillPrior(0.0).sample(counts, rng)
