r"""The distribution of each new row's target given the latents and the known targets.

If a program's rows are independent given its latents, it is the program's own. If its observation
has a joint distribution over all rows, the program is run on known and new rows together and each
new row is conditioned on the known targets. With residuals r of the k known rows, covariance or
scale matrix :math:`\Sigma` and :math:`d = r^T \Sigma_{kk}^{-1} r`,

.. math:: y^* \mid y \sim N(\mu_* + \Sigma_{*k} \Sigma_{kk}^{-1} r, S), \qquad
    S = \Sigma_{**} - \Sigma_{*k} \Sigma_{kk}^{-1} \Sigma_{k*},

and for Student's t with :math:`\nu` degrees of freedom, a t distribution with :math:`\nu + k`
degrees and S multiplied by :math:`(\nu + d) / (\nu + k)`. Any other joint distribution is rejected,
because its marginals ignore the data.

References:
    Ding, On the conditional distribution of the multivariate t distribution (2016), American
    Statistician 70(3).
"""

from typing import Any

import pyro
import torch
from pyro.distributions import MaskedDistribution, MultivariateStudentT
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal

from amortized.program.observations.row_mixture import EnumerateRows
from amortized.program.observations.student_t import StudentT
from amortized.program.vectorised import Program

_NORMALS = (MultivariateNormal, LowRankMultivariateNormal)


class NoPredictive(ValueError):
    """Raised if the program has no predictive of single rows."""


def row_distribution(
    model: Program,
    latents: dict[str, Tensor],
    x: Tensor,
    x_known: Tensor,
    y_known: Tensor,
    of_rows: frozenset[str] = frozenset(),
) -> Any:
    """The distribution of each row's target given the latents, with batch shape ``(m,)``.

    Args:
        model: the program.
        latents: values of the latents.
        x: inputs of the new rows.
        x_known: inputs of the known rows.
        y_known: targets of the known rows; NaN if missing.
        of_rows: discrete latents of single rows, which are summed out.

    Raises:
        NoPredictive: if the dependence of the rows is not supported.
    """
    with EnumerateRows(of_rows, -2) as rows:
        fn = rows.summed_out(_observation(model, latents, x), len(x))
    if not fn.event_shape:
        return fn if fn.batch_shape else fn.expand([len(x)])
    if fn.shape() != (len(x),) or not isinstance(fn, (*_NORMALS, MultivariateStudentT)):
        raise NoPredictive(
            "Expected rows that are independent given the latents, or jointly normal or Student's "
            f"t; got {type(fn).__name__} of batch shape "
            f"{tuple(fn.batch_shape)} and event shape {tuple(fn.event_shape)}, whose rows cannot "
            "be conditioned on the data. Draw rows in a plate or with to_event, or condition "
            "manually at draws of the latents."
        )
    joint = _observation(model, latents, torch.cat([x_known, x]))
    if isinstance(joint, MultivariateStudentT):
        mean, matrix = joint.loc, joint.scale_tril @ joint.scale_tril.mT
    else:
        mean, matrix = joint.mean, joint.covariance_matrix
    mean, variance, distance = _given(mean, matrix, y_known)
    if not isinstance(joint, MultivariateStudentT):
        return torch.distributions.Normal(mean, variance.sqrt())
    df = joint.df + (~y_known.isnan()).sum()
    scale = (variance * (joint.df + distance) / df).sqrt()
    return StudentT(df + torch.zeros_like(scale), mean, scale)


def _given(mean: Tensor, matrix: Tensor, y_known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Conditional means and variances of the new rows, and the distance d of the known rows."""
    k = len(y_known)
    missing = torch.nn.functional.pad(y_known.isnan(), (0, len(matrix) - k))
    alone = torch.eye(len(matrix), dtype=matrix.dtype)  # a missing row is uninformative
    matrix = torch.where(missing.unsqueeze(-1) | missing, alone, matrix)
    factor, _ = torch.linalg.cholesky_ex(matrix[:k, :k])
    half = torch.linalg.solve_triangular(factor, matrix[:k, k:], upper=False)
    residual = torch.where(missing[:k], 0.0, y_known - mean[:k]).unsqueeze(-1)
    whitened = torch.linalg.solve_triangular(factor, residual, upper=False).squeeze(-1)
    alone = matrix.diagonal()[k:]
    variance = torch.maximum(alone - half.square().sum(0), 1e-12 * alone)  # in any units
    return mean[k:] + whitened @ half, variance, whitened.square().sum()


class _Observation(Messenger):
    """Records the distribution of each row at site "y", without drawing from it."""

    def __init__(self) -> None:
        super().__init__()
        self.distribution: Any = None

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] != "y":
            return
        fn = message["fn"]
        message["value"] = torch.zeros(fn.shape())
        while isinstance(fn, Independent | MaskedDistribution):
            fn = fn.base_dist
        self.distribution = fn


def _observation(model: Program, latents: dict[str, Tensor], x: Tensor) -> Any:
    with _Observation() as caught, pyro.poutine.condition(data=latents):
        model(x, None)
    return caught.distribution
