r"""Importance sampling with Pareto-smoothed weights, for a batch of datasets.

.. math:: w_i = p(u_i, y) / q(u_i), \quad u_i \sim q, \qquad p(y) \approx \frac1n \sum_i w_i

The shape :math:`\hat k` of the weights' tail shows whether the estimates can be trusted.
"""

import torch
from torch.distributions import Distribution

from amortized.program.density import ProgramDensity
from amortized.sampling.checks.pareto import smooth_weights
from amortized.sampling.draws import Draws
from amortized.sampling.laplace import fit_modes
from amortized.sampling.start import Start
from amortized.sampling.steps.tempering import Path
from amortized.validation import number_between

_MOST_K_HAT = 0.7
_LEAST_ESS = 0.05  # as a share of the draws


def importance(
    density: ProgramDensity,
    n_draws: int = 1000,
    *,
    start: Start | Distribution | None = None,
    prior_share: float = 0.2,
) -> Draws:
    """Draws of every dataset's latents with importance weights, and the evidence.

    Args:
        density: the target log density.
        n_draws: draws for each dataset.
        start: the proposal density, such as a network's answer; None uses the normals of
            `fit_modes`.
        prior_share: share of prior draws mixed into the proposal, which bounds the weights.

    Returns:
        weighted draws with diagnostics ``k_hat``, ``start`` and ``poor_weights``, which is 1 if
        k-hat is at least 0.7 or the effective sample size is below 5% of the draws.
    """
    prior_share = number_between("prior_share", prior_share, 0, 1, least=True)
    name = "laplace" if start is None else type(start).__name__
    start = fit_modes(density) if start is None else start
    shares = torch.full((density.n_datasets,), prior_share)
    path = Path(density, start, shares)
    u = path.sample_start(n_draws)
    smoothed = smooth_weights(path.log_weights(u))
    poor = ~((smoothed.k_hat < _MOST_K_HAT) & (smoothed.ess >= _LEAST_ESS * n_draws))
    diagnostics = {"k_hat": smoothed.k_hat, "start": name, "poor_weights": poor.double()}
    error = (1 / smoothed.ess - 1 / n_draws).clamp(min=0.0).sqrt()
    return Draws(u, smoothed.log_weights, smoothed.log_mean, 1, diagnostics, error)
