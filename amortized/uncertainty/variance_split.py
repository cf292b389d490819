r"""Decomposition of predictive variance into aleatoric and epistemic parts.

.. math::
    \mathrm{Var}(y^* \mid D) = \underbrace{E\,\mathrm{Var}(y^* \mid \theta)}_{\text{aleatoric}}
    + \underbrace{\mathrm{Var}\,E(y^* \mid \theta)}_{\text{epistemic}}

With draws of the latents both parts are averages. A network has no latents, but two targets y and
y' at the same input share the epistemic uncertainty and have independent noise, so their covariance
is the epistemic part. With m(y) the predictive mean at the input once y has been observed there,

.. math:: \mathrm{Cov}(y, y') = E_{y \mid D} [(y - E y)(m(y) - E y)].

References:
    Depeweg et al., Decomposition of uncertainty in Bayesian deep learning (2018), arXiv 1710.07283.
    The covariance of two targets at one input is our own construction.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.networks import PFN
from amortized.posterior import Posterior
from amortized.predictive import ProgramPredictive
from amortized.program.density import ProgramDensity
from amortized.program.vectorised import Program
from amortized.uncertainty.growing_context import Data, Predict, one_each, tasks_of
from amortized.validation import whole_number


class VarianceSplit(NamedTuple):
    """Parts of the predictive variance of each query.

    Attributes:
        aleatoric: variance of the noise, which more data cannot reduce.
        epistemic: variance that more data would remove.
    """

    aleatoric: Float[Tensor, "*batch query"]
    epistemic: Float[Tensor, "*batch query"]

    @property
    def total(self) -> Float[Tensor, "*batch query"]:
        """The predictive variance."""
        return self.aleatoric + self.epistemic


def split_by_twins(
    predict: Predict, x_context: Data, y_context: Data, x_query: Data, *, n_nodes: int = 16
) -> VarianceSplit:
    """Splits the predictive variance of a network, or of any function that returns a predictive.

    Args:
        predict: a PFN, or a function ``(x_context, y_context, x_query)`` to the predictive.
        x_context: inputs of the known rows, ``(batch, context, features)``.
        y_context: their targets, ``(batch, context)``.
        x_query: inputs of the queries, ``(batch, query, features)``.
        n_nodes: number of equally probable targets with which each query is repeated.

    Example:
        >>> def normal_mean(x, y, z):  # y ~ N(theta, 1) and theta ~ N(0, 1)
        ...     n = y.shape[1]
        ...     mean = (y.sum(1, keepdim=True) / (n + 1)).expand(z.shape[:2])
        ...     return torch.distributions.Normal(mean, (1 + 1 / (n + 1)) ** 0.5)
        >>> y = torch.zeros(1, 4)
        >>> split = split_by_twins(normal_mean, y[..., None], y, y[:, :1, None])
        >>> round(split.epistemic.item(), 2)  # Var(theta | D) = 1 / 5
        0.2
    """
    n_nodes = whole_number("n_nodes", n_nodes, 2)
    known_x, known_y, queries, _ = tasks_of(predict, x_context, y_context, x_query)
    if isinstance(predict, PFN) and known_x.shape[1] >= predict.config.max_context:
        raise ValueError(
            f"Expected fewer than {predict.config.max_context} rows, so that one more fits; got "
            f"{known_x.shape[1]}."
        )
    n_tasks, n_query = queries.shape[:2]
    with torch.no_grad():
        predictive = one_each(predict(known_x, known_y, queries), queries)
        mean, total = predictive.mean, predictive.variance
        levels = (torch.arange(n_nodes, dtype=mean.dtype) + 0.5) / n_nodes
        first = predictive.icdf(levels[:, None, None].expand(-1, n_tasks, n_query))
        second = torch.empty_like(first)
        for j in range(n_query):
            x = queries[:, j : j + 1].repeat(n_nodes, 1, 1)
            y = first[:, :, j].reshape(-1, 1)
            longer_x = torch.cat([known_x.repeat(n_nodes, 1, 1), x], 1)
            longer_y = torch.cat([known_y.repeat(n_nodes, 1), y], 1)
            again = one_each(predict(longer_x, longer_y, x), x)
            second[:, :, j] = again.mean.reshape(n_nodes, n_tasks)
    # A node represents a slice of the predictive and omits the variance within the slice.
    # Regressing the second mean on the first target restores it: the slope times the total
    # variance.
    deviation = first - first.mean(0)
    slope = (deviation * second).sum(0) / deviation.square().sum(0)
    epistemic = (slope * total).clamp(min=0.0)
    epistemic = torch.minimum(epistemic, total)
    return VarianceSplit(total - epistemic, epistemic)


def split_by_posterior(
    model: Program,
    posterior: Posterior,
    x_query: Float[Tensor, "query features"] | ArrayLike,
    x_known: Float[Tensor, "n features"] | ArrayLike,
    y_known: Float[Tensor, " n"] | ArrayLike,
    *,
    n_draws: int = 200,
    seed: int = 0,
) -> VarianceSplit:
    """Splits the predictive variance of a program into noise and uncertainty about its latents.

    What a program integrates out, such as the function of a Gaussian process, is not a latent and
    counts as noise; `split_by_twins` counts it as epistemic.

    Args:
        model: the Pyro program ``model(x, y=None)``.
        posterior: posterior of its latents given one dataset.
        x_query: inputs of the queries.
        x_known: inputs of the dataset.
        y_known: its targets.
        n_draws: number of posterior draws to average over.
        seed: seed for choosing them.

    Example:
        >>> from amortized.infer import infer
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> x, y = torch.zeros(4, 0), torch.zeros(4)
        >>> program = NormalMeanPrior().model
        >>> split = split_by_posterior(program, infer(program, x, y), x[:1], x, y)
        >>> round(split.aleatoric.item(), 2)
        1.0
    """
    x_query, x_known, y_known = (
        as_tensor(given, name, dtype=None)
        for given, name in ((x_query, "x_query"), (x_known, "x_known"), (y_known, "y_known"))
    )
    if posterior.batch_shape:
        raise ValueError(
            f"Expected the posterior of one dataset; got a batch {tuple(posterior.batch_shape)}."
        )
    n_draws = whole_number("n_draws", n_draws, 2)
    # Each draw is treated as a dataset of its own with one draw.
    latents = {
        name: (value.double() if value.is_floating_point() else value).unsqueeze(0)
        for name, value in posterior.sample(n_draws, seed=seed).items()
    }
    discrete = ProgramDensity(
        model, x_known.unsqueeze(0), y_known.unsqueeze(0), allow_no_latents=True
    ).discrete
    x, known, y = (
        torch.as_tensor(part, dtype=torch.float64).expand(n_draws, *part.shape)
        for part in (x_query, x_known, y_known)
    )
    weights = torch.zeros(1, n_draws, dtype=torch.float64)
    of_rows = frozenset() if discrete is None else discrete.of_rows
    each = ProgramPredictive(model, latents, weights, x, known, y, of_rows)
    return VarianceSplit(each.variance.mean(0), each.mean.var(0))
