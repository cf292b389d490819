r"""Independent check of draws by importance sampling.

The proposal is a mixture of normals that covers the known part of the posterior: a normal with the
draws' moments, wider copies, normals at the modes, and a share of prior draws. If its weights

.. math:: w_i = p(u_i, y) / q(u_i), \qquad u_i \sim q

are good, the weighted means, standard deviations and evidence are an estimate that does not depend
on the sampler: a spike that particles missed, a mode that chains never found, or a normal that is
too narrow shows as a difference. If the weights are poor, the check is inconclusive.

References:
    Vehtari et al., Pareto smoothed importance sampling (2024), arXiv 1507.02646.
    Owen and Zhou, Safe and effective importance sampling (2000).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.program.density import ProgramDensity
from amortized.sampling.checks.pareto import smooth_weights
from amortized.sampling.checks.verdict import features, summary
from amortized.sampling.draws import Draws
from amortized.sampling.laplace import fit_modes
from amortized.sampling.start import FromDraws
from amortized.sampling.steps.hamiltonian import spread_factor
from amortized.sampling.steps.tempering import Path

_FEWEST, _MOST = 512, 2048  # limits on the draws of the proposal, otherwise as many as are judged
_PRIOR_SHARE = 0.2
_WIDE = (0.25, 2.5)  # weight and factor of wider copies of every normal
_LEAST_ESS = 100.0
_MOST_K_HAT = 0.6
_SURE = 4.0  # standard errors beyond which a difference is significant


def widened(mixture: GaussianMixture, share: float, factor: float) -> GaussianMixture:
    """Adds wider copies of the components to a mixture, which cover heavy tails."""
    weights = mixture.log_weights
    return GaussianMixture(
        torch.cat([weights + math.log1p(-share), weights + math.log(share)], -1),
        mixture.means.repeat(1, 2, 1),
        torch.cat([mixture.scale_tril, factor * mixture.scale_tril], 1),
        validate_args=False,
    )


def joined(a: GaussianMixture, b: GaussianMixture) -> GaussianMixture:
    """The equal-weight mixture of two mixtures."""
    half = math.log(0.5)
    return GaussianMixture(
        torch.cat([a.log_weights + half, b.log_weights + half], -1),
        torch.cat([a.means, b.means], 1),
        torch.cat([a.scale_tril, b.scale_tril], 1),
        validate_args=False,
    )


def second_opinion(
    density: ProgramDensity,
    draws: Draws,
    modes: GaussianMixture | None = None,
    n: int | None = None,
) -> Draws:
    """Draws of the proposal with importance weights, and whether these are good.

    Args:
        density: log density of the posterior.
        draws: the draws to be checked.
        modes: normals at known modes; None finds them by optimisation from the draws.
        n: number of draws of the proposal; None takes about as many as are checked.

    Returns:
        weighted draws with diagnostics ``k_hat``, ``ess`` and ``usable``.
    """
    if modes is None:
        modes = fit_modes(density, start=FromDraws(draws.u, draws.log_weights))
    own = _normal(draws)
    proposal = widened(joined(own, modes), *_WIDE)
    shares = torch.full((density.n_datasets,), _PRIOR_SHARE)
    path = Path(density, proposal, shares)
    n = min(_MOST, max(_FEWEST, draws.u.shape[1])) if n is None else n
    u = path.sample_start(n)
    smoothed = smooth_weights(path.log_weights(u))
    usable = (smoothed.k_hat < _MOST_K_HAT) & (smoothed.ess > _LEAST_ESS)
    error = (1 / smoothed.ess - 1 / n).clamp(min=0.0).sqrt()
    numbers = {"k_hat": smoothed.k_hat, "ess": smoothed.ess, "usable": usable}
    cluster = torch.arange(n).expand(len(u), -1)
    return Draws(u, smoothed.log_weights, smoothed.log_mean, 1, numbers, error, cluster)


def _normal(draws: Draws) -> GaussianMixture:
    n = draws.u.shape[1]
    weights = draws.u.new_full(draws.u.shape[:2], 1 / n)
    weights = weights if draws.log_weights is None else draws.log_weights.softmax(-1)
    mean = (weights.unsqueeze(-1) * draws.u).sum(1, keepdim=True)
    factor = spread_factor(draws.u, weights).unsqueeze(1)
    return GaussianMixture(draws.u.new_zeros(len(draws.u), 1), mean, factor, validate_args=False)


def compared(
    density: ProgramDensity, draws: Draws, other: Draws, sure: float = _SURE
) -> dict[str, Tensor]:
    """Differences between two answers beyond their standard errors.

    Args:
        density: log density of the posterior.
        draws: one answer.
        other: the other.
        sure: standard errors beyond which a difference counts.

    Returns:
        ``mean_off`` in standard deviations, ``sd_off`` as a ratio on the log scale, and
        ``evidence_off`` in nats if both have an evidence with an error: the largest difference over
        the latents and bounded functions of them, 0 where errors explain it.
    """
    values, others = (features(density, each.u) for each in (draws, other))
    scale = _Scale.of(draws, values)
    a, b = (
        summary(each, torch.cat([value, scale.bounded(value)], -1))
        for each, value in ((draws, values), (other, others))
    )
    mean_off = _significant(
        (a.mean - b.mean) / b.sd, torch.hypot(a.mean_error, b.mean_error) / b.sd, sure
    )
    sd_off = _significant(
        (a.sd / b.sd).log(), torch.hypot(a.sd_error / a.sd, b.sd_error / b.sd), sure
    )
    varies = a.varies & b.varies
    numbers = {
        "mean_off": torch.where(varies, mean_off, 0.0).amax(-1),
        "sd_off": torch.where(varies & ~a.heavy & ~b.heavy, sd_off, 0.0).amax(-1),
    }
    if draws.log_evidence_error is not None and other.log_evidence_error is not None:
        assert draws.log_evidence is not None and other.log_evidence is not None
        error = torch.hypot(draws.log_evidence_error, other.log_evidence_error)
        numbers["evidence_off"] = _significant(draws.log_evidence - other.log_evidence, error, sure)
    return numbers


class _Scale(NamedTuple):
    """Median and spread of each feature, ``(batch, 1, features)``."""

    centre: Tensor
    spread: Tensor

    @classmethod
    def of(cls, draws: Draws, values: Tensor) -> "_Scale":
        """Quartiles of equally weighted draws."""
        if draws.log_weights is not None:
            index = torch.multinomial(draws.log_weights.exp(), values.shape[1], replacement=True)
            values = values.gather(1, index.unsqueeze(-1).expand_as(values))
        levels = values.new_tensor([0.25, 0.5, 0.75])
        low, centre, high = values.quantile(levels, 1, keepdim=True)
        return cls(centre, (high - low).clamp(min=1e-300))

    def bounded(self, values: Tensor) -> Tensor:
        """Values between -1 and 1, whose moments show what heavy tails hide."""
        return ((values - self.centre) / self.spread).nan_to_num().tanh()


def _significant(difference: Tensor, error: Tensor, sure: float) -> Tensor:
    """The absolute difference where errors do not explain it, otherwise 0."""
    size = difference.abs()
    return torch.where(size <= sure * error, 0.0, size)
