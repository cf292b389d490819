r"""Simulation-based calibration: where the truth ranks among the posterior's draws.

If latents come from the prior and data from the latents, the truth is one more draw from the
exact posterior. So its rank among L draws, made continuous by :math:`U \sim U(0, 1)`,

.. math:: u = \frac{\#\{l : \theta_l < \theta\} + U}{L + 1},

with U stretched over all draws that equal the truth, is uniform over datasets. A posterior too
narrow puts ranks at both ends, one too wide in the middle, a shifted one at one end.

References:
    Talts et al., Validating Bayesian inference algorithms with simulation-based calibration
    (2018), arXiv 1804.06788. Modrak et al., Simulation-based calibration checking for Bayesian
    computation: the choice of test quantities shapes sensitivity (2023), arXiv 2211.02383.
"""

import numpy as np
from jaxtyping import Float

from amortized.diagnostics.trial import PosteriorTrial
from amortized.diagnostics.uniformity import Uniformity
from amortized.finite import refuse_nan


def ranks(
    truth: Float[np.ndarray, "..."], draws: Float[np.ndarray, "..."], seed: int = 0
) -> Float[np.ndarray, "..."]:
    """Where each truth stands among its draws, in (0, 1); ties are broken at random.

    Args:
        truth: of any shape.
        draws: of the same shape, with the draws in front.
        seed: breaks ties, and places the truth between its neighbours.

    Raises:
        ValueError: if there is a NaN, which has no rank.

    Example:
        >>> import numpy as np
        >>> u = ranks(np.array([2.5]), np.arange(9.0)[:, None])
        >>> bool(0.3 < u[0] < 0.4)
        True
    """
    refuse_nan("values to be ranked", truth)
    refuse_nan("draws to rank among", draws)
    rng = np.random.default_rng(seed)
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return np.asarray((below + (equal + 1) * rng.random(truth.shape)) / (len(draws) + 1))


def sbc(trial: PosteriorTrial, *, seed: int = 0) -> Uniformity:
    """Tests the ranks of every scalar latent, and of the log density where the method knows it.

    The rank of the method's own log density sees what no single latent shows, such as a wrong
    correlation.

    Args:
        trial: datasets and answers; see `PosteriorTrial.run`.
        seed: breaks ties among draws.

    Example:
        >>> from amortized.priors.normal_mean import NormalMeanPrior
        >>> trial = PosteriorTrial.run(
        ...     NormalMeanPrior(), "exact", n_datasets=200, n_context=3, progress=False
        ... )
        >>> sbc(trial).p_value > 0.01
        True
    """
    truth, draws = trial.matrices()
    u = ranks(truth, draws, seed)
    values = {label: u[:, i] for i, label in enumerate(trial.labels())}
    if trial.log_prob_truth is not None and trial.log_prob_draws is not None:
        values["log density"] = ranks(
            trial.log_prob_truth.double().cpu().numpy(),
            trial.log_prob_draws.double().cpu().numpy(),
            seed + 1,
        )
    return Uniformity(values, f"SBC of {trial.method}", "rank of the truth among draws")
