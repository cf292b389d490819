r"""Evidence and weights from the points of nested sampling, with any numbers of live points.

Point i, of ascending likelihood, leaves a share :math:`X_i = X_{i-1} t_i` of the prior above it,
with :math:`t_i \sim \mathrm{Beta}(n_i, 1)` where :math:`n_i` points are alive: born below it, and
not dead before it. Runs are therefore merged by pooling their points. The weights and the evidence
are

.. math:: w_i = L_i (X_{i-1} - X_i), \qquad Z = \sum_i w_i,

and the error of the evidence follows from simulated shrinkages t.

References:
    Skilling, Nested sampling for general Bayesian computation (2006).
    Higson, Handley, Hobson and Lasenby, Sampling errors in nested sampling parameter estimation
    (2018), arXiv 1704.03459.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.sampling.steps.constrained_slice import ordered

_N_SIMULATED = 200  # shrinkages, for the error of the evidence


class Points(NamedTuple):
    """All points of some runs on one dataset.

    Attributes:
        u: ``(points, dim)``.
        log_likelihood: ``(points,)``.
        label: uniform numbers that order points of equal likelihood.
        birth: index of the point above which each was drawn; -1 for draws of the whole prior.
        run: index of the run.
    """

    u: Float[Tensor, "points dim"]
    log_likelihood: Float[Tensor, " points"]
    label: Float[Tensor, " points"]
    birth: Int[Tensor, " points"]
    run: Int[Tensor, " points"]

    def of_run(self, run: int) -> "Points":
        """The points of one run."""
        mine = (self.run == run).nonzero()[:, 0]
        place = torch.full_like(self.run, -1).index_copy(0, mine, torch.arange(len(mine)))
        u, log_likelihood, label, birth, own = (each[mine] for each in self)
        birth = torch.where(birth < 0, -1, place[birth.clamp(min=0)])
        return Points(u, log_likelihood, label, birth, own)


class Shrinkage(NamedTuple):
    """Points in ascending order and how many of them are alive at each.

    Attributes:
        order: indices of the points, ``(points,)``.
        log_likelihood: of the points in this order.
        n_live: number of live points at each, itself included.
    """

    order: Int[Tensor, " points"]
    log_likelihood: Float[Tensor, " points"]
    n_live: Int[Tensor, " points"]

    def log_weights(self, log_t: Float[Tensor, "*sets points"]) -> Float[Tensor, "*sets points"]:
        """Log weights of the ordered points, given the logs of the shrinkages."""
        log_x = log_t.cumsum(-1)
        before = torch.nn.functional.pad(log_x[..., :-1], (1, 0))
        return self.log_likelihood + before + torch.log(-torch.expm1(log_t))

    def expected(self) -> Float[Tensor, " points"]:
        """Log weights at the expected logs of the shrinkages."""
        return self.log_weights(-1.0 / self.n_live.double())

    def simulated_evidence(self) -> Float[Tensor, " sets"]:
        """Log evidences of simulated shrinkages, with torch's global generator."""
        uniform = torch.rand(_N_SIMULATED, len(self.order), dtype=torch.float64)
        log_t = uniform.clamp(min=1e-300).log() / self.n_live
        return self.log_weights(log_t).logsumexp(-1)


def shrinkage(points: Points) -> Shrinkage:
    """Orders points and counts the live ones.

    Example:
        >>> log_l, label = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.rand(4)
        >>> birth = torch.tensor([-1, -1, 0, 1])  # two live points at first, and in between
        >>> points = Points(torch.zeros(4, 1), log_l, label, birth, torch.zeros(4).long())
        >>> shrinkage(points).n_live.tolist()
        [2, 2, 2, 1]
    """
    order = ordered(points.log_likelihood, points.label)
    n = len(order)
    rank = torch.empty_like(order).index_copy(0, order, torch.arange(n))
    born_after = torch.where(points.birth < 0, 0, rank[points.birth.clamp(min=0)] + 1)
    born = torch.bincount(born_after, minlength=n + 1)[:n].cumsum(0)
    return Shrinkage(order, points.log_likelihood[order], born - torch.arange(n))
