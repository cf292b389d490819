r"""The efficiency of a method's draws as importance samples from the exact posterior.

For draws :math:`\theta_l \sim q` the weights are :math:`w_l = p(\theta_l, D) / q(\theta_l)`.
Their efficiency :math:`(\sum w)^2 / (L \sum w^2)` is 1 for the exact posterior. The weighted draws
are reliable if the Pareto shape :math:`\hat k` of the weights' tail is below 0.7.

Weights correct an approximation that is too wide, or slightly too narrow. They cannot detect a mode
that q misses; `amortized.diagnostics.sbc` can.

References:
    Vehtari et al., Pareto smoothed importance sampling (2024), arXiv 1507.02646.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from amortized.arrays import refuse_nan
from amortized.diagnostics.trial import PosteriorTrial
from amortized.infer import METHODS
from amortized.plotting import COLOURS, label_axes, new_axes
from amortized.priors.program_prior import ProgramPrior
from amortized.program.density import ProgramDensity
from amortized.sampling.checks.pareto import smooth_weights

TRUSTED_K = 0.7
_KNOW_THEIR_DENSITY = {"dt", "exact"}
_TOLERATED = 0.05  # fraction of datasets with unreliable weights that raises no alarm


@dataclass(frozen=True)
class ImportanceEfficiency:
    """Efficiency and Pareto k-hat of the importance weights, for each dataset.

    Attributes:
        efficiency: relative effective sample size, in [0, 1], ``(n_datasets,)``.
        k_hat: Pareto shape of the weights' tail, ``(n_datasets,)``; minus infinity for equal
            weights.
        title: what was weighted.
    """

    efficiency: Float[np.ndarray, " n"]
    k_hat: Float[np.ndarray, " n"]
    title: str

    @property
    def mean(self) -> float:
        """Mean efficiency."""
        return float(self.efficiency.mean())

    def quantile(self, level: float) -> float:
        """A quantile of the efficiency over datasets."""
        return float(np.quantile(self.efficiency, level))

    @property
    def share_trusted(self) -> float:
        """Fraction of datasets with k-hat below 0.7."""
        return float((self.k_hat < TRUSTED_K).mean())

    @property
    def p_value(self) -> float:
        """p-value of the hypothesis that k-hat is 0.7 or more for at most 5% of all datasets."""
        n_beyond = int((self.k_hat >= TRUSTED_K).sum())
        return float(stats.binom.sf(n_beyond - 1, len(self.k_hat), _TOLERATED))

    def plot(self, ax: Any = None) -> Any:
        """A histogram of k-hat, with the limit of 0.7."""
        ax = new_axes() if ax is None else ax
        ax.hist(self.k_hat.clip(-0.5, 1.5), bins=np.linspace(-0.5, 1.5, 41), color=COLOURS[2])
        ax.axvline(TRUSTED_K, color=COLOURS[1], linestyle="--", label="reliable below 0.7")
        title = f"{self.title}: efficiency {self.mean:.2f}, {self.share_trusted:.0%} reliable"
        return label_axes(ax, "Pareto k-hat (clipped)", "datasets", title)

    def __repr__(self) -> str:
        return (
            f"ImportanceEfficiency({self.title}, mean {self.mean:.3f}, "
            f"{self.share_trusted:.1%} reliable, p = {self.p_value:.3g})"
        )


def importance_efficiency(
    trial: PosteriorTrial, prior: ProgramPrior | None = None
) -> ImportanceEfficiency:
    """Weights each dataset's draws by the exact density.

    Args:
        trial: a trial of a method that provides the density of its draws, such as a network, or
            that reports ``k_hat`` and ``ess`` itself, such as "importance".
        prior: the program that defines the exact density; not needed if the trial contains it.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> prior = NormalMeanPrior()
        >>> trial = PosteriorTrial.run(prior, "exact", n_datasets=8, n_context=3, progress=False)
        >>> round(importance_efficiency(trial, prior).mean, 6)
        1.0
    """
    title = f"Importance weights of {trial.method}"
    if {"k_hat", "ess"} <= set(trial.per_dataset):
        k_hat, ess = (trial.per_dataset[name].double().cpu().numpy() for name in ("k_hat", "ess"))
        refuse_nan(f"k-hat of {trial.method}", k_hat)
        refuse_nan(f"effective draws of {trial.method}", ess)
        return ImportanceEfficiency(ess / trial.n_drawn, k_hat, title)
    if trial.log_prob_draws is None or trial.method in METHODS.keys() - _KNOW_THEIR_DENSITY:
        raise ValueError(
            "Expected a method that provides the density of its own draws; got "
            f"{trial.method!r}. Use a network, 'exact' or 'importance'."
        )
    log_weights = _log_density(trial, prior) - trial.log_prob_draws
    refuse_nan(f"log weights of the draws of {trial.method}", log_weights)
    smoothed = smooth_weights(log_weights.T.double())
    efficiency = smoothed.ess.cpu().numpy() / trial.n_draws
    return ImportanceEfficiency(efficiency, smoothed.k_hat.cpu().numpy(), title)


def _log_density(trial: PosteriorTrial, prior: ProgramPrior | None) -> Tensor:
    """Unnormalised exact log density of the trial's draws, ``(n_draws, n_datasets)``."""
    if trial.log_density_draws is not None:
        return trial.log_density_draws
    if prior is None or trial.x is None or trial.y is None:
        raise ValueError(
            "Expected the trial's prior, and a trial with the x and y of its datasets; give "
            "importance_efficiency(PosteriorTrial.run(prior, ...), prior)."
        )
    density = ProgramDensity(prior.model, trial.x, trial.y)
    latents = {name: value.double().movedim(1, 0) for name, value in trial.draws.items()}
    u = density.unconstrain(latents)
    return (density.log_density(u) - density.log_jacobian(u)).T
