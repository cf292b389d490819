r"""Leave-one-out predictive densities of several posteriors, by PSIS.

The density of an observation given the others is estimated from draws of the full posterior,

.. math::
    \mathrm{elpd} = \sum_i \log p(y_i \mid y_{-i}), \qquad
    p(y_i \mid y_{-i}) \approx \sum_s w_{is} \, p(y_i \mid \theta_s), \qquad
    w_{is} \propto 1 / p(y_i \mid \theta_s),

with Pareto-smoothed weights. Unlike the evidence it hardly depends on the width of the priors. Its
standard error, and that of a difference between two models, is
:math:`\sqrt{n \operatorname{var}_i}` of the terms: it describes the variation between observations.

References:
    Vehtari, Gelman and Gabry, Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC (2017), arXiv 1507.04544.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.plotting import COLOURS, label_axes, new_axes
from amortized.posterior.posterior import Posterior
from amortized.sampling.checks.pareto import smooth_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # checked at run time in the tests; Matplotlib loads when something is drawn
    Axes = Any


@dataclass(frozen=True, repr=False)
class LeaveOneOut:
    """Leave-one-out predictive densities of models for the same observations.

    Attributes:
        names: names of the models.
        pointwise: log predictive density of each observation given the others,
            ``(*batch, n_observations, n_models)``; NaN where it is missing.
        within: the same given all observations.
        k_hat: shape of the tail of each observation's weights.
        n_draws: number of draws of each posterior.
    """

    names: list[str]
    pointwise: Float[Tensor, "*batch n_observations n_models"]
    within: Float[Tensor, "*batch n_observations n_models"]
    k_hat: Float[Tensor, "*batch n_observations n_models"]
    n_draws: int

    @property
    def elpd(self) -> Float[Tensor, "*batch n_models"]:
        """Expected log predictive density of all observations; larger is better."""
        return self.pointwise.nansum(-2)

    @property
    def se(self) -> Float[Tensor, "*batch n_models"]:
        """Its standard error."""
        return _standard_error(self.pointwise)

    @property
    def p_loo(self) -> Float[Tensor, "*batch n_models"]:
        """Effective number of parameters: what fitting to each observation itself gains."""
        return (self.within - self.pointwise).nansum(-2)

    @property
    def difference(self) -> Float[Tensor, "*batch n_models"]:
        """How much less each model's elpd is than that of the best one."""
        return self.elpd.amax(-1, keepdim=True) - self.elpd

    @property
    def difference_se(self) -> Float[Tensor, "*batch n_models"]:
        """Standard error of the difference."""
        best = self.elpd.argmax(-1)[..., None, None].expand(*self.pointwise.shape[:-1], 1)
        return _standard_error(self.pointwise.gather(-1, best) - self.pointwise)

    @property
    def unreliable(self) -> Int[Tensor, "*batch n_models"]:
        """For how many observations k-hat is above the level that this number of draws allows.

        The posterior changes too much without them, and the estimate is too high or too low. It
        may help to draw more, or to leave these rows out in a fit of its own.
        """
        allowed = min(0.7, 1 - 1 / math.log10(max(self.n_draws, 2)))
        return (self.k_hat > allowed).sum(-2)

    def summary(self) -> dict[str, dict[str, float]]:
        """The numbers of each model, the best first; over a batch, means of the datasets."""
        columns = {
            "elpd_loo": self.elpd,
            "se": self.se,
            "p_loo": self.p_loo,
            "difference": self.difference,
            "difference_se": self.difference_se,
            "high_k_hat": self.unreliable.to(self.elpd),
        }
        order = self.elpd.reshape(-1, len(self.names)).mean(0).argsort(descending=True).tolist()
        return {
            self.names[i]: {key: value[..., i].mean().item() for key, value in columns.items()}
            for i in order
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """The elpd of each model below that of the best, with one standard error each way."""
        ax = new_axes(5.0, max(2.0, 0.8 + 0.35 * len(self.names))) if ax is None else ax
        rows = self.summary()
        for at, name in enumerate(self.names):
            behind, error = -rows[name]["difference"], rows[name]["difference_se"]
            ax.plot(behind, at, "o", color=COLOURS[2])
            ax.plot([behind - error, behind + error], [at, at], color=COLOURS[0])
        ax.axvline(0.0, color="0.8", zorder=0)
        ax.set_yticks(range(len(self.names)), self.names)
        ax.set_ylim(len(self.names) - 0.5, -0.5)
        return label_axes(ax, "elpd (PSIS-LOO) below the best", "")

    def __repr__(self) -> str:
        rows = self.summary()
        width = max(12, *(len(name) for name in self.names))
        n = int((~self.pointwise[..., 0].isnan()).sum(-1).max())
        lines = [f"LeaveOneOut({len(rows)} models, {n} observations)"]
        lines.append(" " * width + "".join(f"{key:>14}" for key in next(iter(rows.values()))))
        for name, row in rows.items():
            cells = "".join(f"{value:>14.4g}" for value in row.values())
            lines.append(f"{name:>{width}}{cells}{'  in doubt' if row['high_k_hat'] else ''}")
        return "\n".join(lines)


def leave_one_out(posteriors: Mapping[str, Posterior]) -> LeaveOneOut:
    """Estimates the leave-one-out predictive densities of posteriors for the same observations.

    Raises:
        ValueError: if one has no log likelihood of single observations, or another number of them.
    """
    terms = {name: posterior.log_likelihoods() for name, posterior in posteriors.items()}
    counts = {name: value.shape[-1] for name, value in terms.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "Expected the same single observations in all models; got log likelihoods of "
            f"{counts}. Rows that form one joint event have one: draw them inside a pyro.plate."
        )
    parts = [_of_one(value.movedim(0, -1).double()) for value in terms.values()]
    pointwise, within, k_hat = (torch.stack(part, -1) for part in zip(*parts, strict=True))
    # The likelihood of a missing observation is 1 under every model and latent.
    missing = torch.stack([(value == 0).all(0) for value in terms.values()]).all(0)
    pointwise = pointwise.masked_fill(missing.unsqueeze(-1), torch.nan)
    return LeaveOneOut(list(terms), pointwise, within, k_hat, len(next(iter(terms.values()))))


def _of_one(log_likelihood: Float[Tensor, "*batch n_observations n"]) -> tuple[Tensor, ...]:
    """Log densities given the others and given all, and k-hat, for each observation."""
    smoothed = smooth_weights(-log_likelihood)
    loo = (smoothed.log_weights + log_likelihood).logsumexp(-1)
    within = log_likelihood.logsumexp(-1) - math.log(log_likelihood.shape[-1])
    return loo, within, smoothed.k_hat


def _standard_error(terms: Float[Tensor, "*batch n_observations n_models"]) -> Tensor:
    """Of a sum of terms, of which some may be missing."""
    away = terms - terms.nanmean(-2, keepdim=True)
    return away.square().nansum(-2).sqrt()
