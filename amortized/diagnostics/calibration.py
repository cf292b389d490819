r"""Calibration: numbers that are uniform over datasets if a method is exact.

Simulation-based calibration (SBC): if latents come from the prior and data from the latents, the
truth is one more draw from the exact posterior. Its rank among L draws, made continuous by
:math:`U \sim U(0, 1)`,

.. math:: u = \frac{\#\{l : \theta_l < \theta\} + U}{L + 1},

with U stretched over all draws that equal the truth, is therefore uniform over datasets. If the
posterior is too narrow, ranks pile up at both ends; if too wide, in the middle; if shifted, at one
end.

Expected coverage: the central interval of a scalar with credibility :math:`\alpha` contains the
truth if :math:`2 |u - 1/2| \le \alpha`; the highest-density region does if at most a fraction
:math:`\alpha` of the draws has a higher density than the truth. Both statistics are uniform if the
posterior is exact, and their distribution function is the coverage.

The probability integral transform (PIT) of a target, :math:`u = F(y^* \mid x^*, D)`, is uniform if
F is the exact predictive. For classes, where F has steps, u is drawn uniformly within the step.

References:
    | Talts et al., Validating Bayesian inference algorithms with simulation-based calibration
    | (2018), arXiv 1804.06788
    | Modrak et al., Simulation-based calibration checking for Bayesian computation: the choice of
    | test quantities shapes sensitivity (2023), arXiv 2211.02383
    | Hermans et al., A trust crisis in simulation-based inference? Your posterior approximations
    | can be unfaithful (2022), arXiv 2110.06581
    | Gneiting, Balabdaoui and Raftery, Probabilistic forecasts, calibration and sharpness (2007)
    | Czado, Gneiting and Held, Predictive model assessment for count data (2009)
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from amortized.arrays import refuse_nan
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.trial import PosteriorTrial
from amortized.diagnostics.uniformity import Uniformity
from amortized.validation import seed_number

Region = Literal["central", "highest"]

_PAIRS_AT_ONCE = 2**22  # distances in memory together


def ranks(
    truth: Float[np.ndarray, "..."], draws: Float[np.ndarray, "..."], seed: int = 0
) -> Float[np.ndarray, "..."]:
    """The rank of each truth among its draws, scaled to (0, 1); ties are broken at random.

    Args:
        truth: true values, of any shape.
        draws: draws, of the same shape with a leading axis of draws.
        seed: seed for breaking ties and for placing the truth between its neighbours.

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
    rng = np.random.default_rng(seed_number(seed))
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return np.asarray((below + (equal + 1) * rng.random(truth.shape)) / (len(draws) + 1))


def sbc(trial: PosteriorTrial, *, seed: int = 0) -> Uniformity:
    """Tests the ranks of every scalar latent, and of the log density if the method provides it.

    The rank of the method's own log density detects errors that no single latent shows, such as a
    wrong correlation.

    Args:
        trial: datasets and posterior draws; see `PosteriorTrial.run`.
        seed: seed for breaking ties among draws.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PosteriorTrial.run(NormalMeanPrior(), "exact", n_context=3, progress=False)
        >>> sbc(trial).p_value > 0.01
        True
    """
    truth, draws = trial.matrices()
    u = ranks(truth, draws, seed)
    values = {label: u[:, i] for i, label in enumerate(trial.labels())}
    if log_densities := trial.log_densities():
        values["log density"] = ranks(*log_densities, seed + 1)
    return Uniformity(values, f"SBC of {trial.method}", "rank of the truth among draws")


class Coverage(Uniformity):
    """Expected coverage of credible regions; `Uniformity` has the numbers, p-value and plot."""

    def table(
        self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)
    ) -> dict[str, dict[float, float]]:
        """Fraction of datasets whose truth is in the region, ``{label: {level: fraction}}``."""
        shares = {level: self.distribution_function(level) for level in levels}
        return {label: {at: shares[at][label] for at in levels} for label in self.values}


def coverage(trial: PosteriorTrial, region: Region = "central", *, seed: int = 0) -> Coverage:
    """Tests the coverage of central intervals of each scalar, or of joint highest-density regions.

    If the method provides no density, it is estimated from nearest neighbours among the draws and
    the truth together. Because the truth is treated like one of the draws, a poor estimate costs
    power but causes no false alarms.

    Args:
        trial: datasets and posterior draws.
        region: "central" or "highest".
        seed: seed for breaking ties among draws.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PosteriorTrial.run(NormalMeanPrior(), "exact", n_context=3, progress=False)
        >>> abs(coverage(trial).table()["mean"][0.5] - 0.5) < 0.15
        True
    """
    truth, draws = trial.matrices()
    if region == "central":
        u = 2 * np.abs(ranks(truth, draws, seed) - 0.5)
        values = {label: u[:, i] for i, label in enumerate(trial.labels())}
    elif region == "highest":
        at_truth, at_draws = trial.log_densities() or neighbour_density(truth, draws)
        values = {"all latents": 1 - ranks(at_truth, at_draws, seed)}
    else:
        raise ValueError(f"Expected region to be 'central' or 'highest'; got {region!r}.")
    title = f"{region.capitalize()} coverage of {trial.method}"
    return Coverage(values, title, "credibility of the region", "share of datasets covered")


def neighbour_density(
    truth: Float[np.ndarray, "datasets dim"], draws: Float[np.ndarray, "draws datasets dim"]
) -> tuple[Float[np.ndarray, " datasets"], Float[np.ndarray, "draws datasets"]]:
    """An increasing function of the density, from distances to nearest neighbours.

    It is minus the distance to the k-th nearest neighbour among truth and draws together, with k
    about the square root of their number and each coordinate in units of its standard deviation.
    """
    points = np.concatenate([truth[None], draws]).swapaxes(0, 1)
    n, dim = points.shape[1:]
    k = min(n - 1, max(1, round(np.sqrt(n))))
    density = np.empty(points.shape[:2])
    chunk = max(1, _PAIRS_AT_ONCE // (n * n * dim))
    for start in range(0, len(points), chunk):
        some = points[start : start + chunk]
        some = some / np.maximum(some.std(1, keepdims=True), 1e-300)
        squares = np.zeros((len(some), n, n))
        for i in range(dim):
            squares += (some[:, :, None, i] - some[:, None, :, i]) ** 2
        density[start : start + chunk] = -np.partition(squares, k, axis=-1)[..., k]
    return density[:, 0], density[:, 1:].T


def pit(trial: PredictiveTrial) -> Uniformity:
    """Tests whether predictives are calibrated.

    Targets of one dataset depend on each other, so each dataset contributes one value, from its
    queries in turn. More datasets increase the power, more queries do not.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PredictiveTrial.run(NormalMeanPrior(), "exact", n_context=3, progress=False)
        >>> pit(trial).p_value > 0.01
        True
    """
    if trial.cdf is None:
        raise ValueError(
            "Expected predictives of classes or with a distribution function; these have neither. "
            "Use log_score."
        )
    n, m = trial.y.shape
    row = np.arange(n)
    # Rounding errors may lead outside of [0, 1].
    u = trial.cdf.numpy()[row, row % m].clip(0.0, 1.0)
    return Uniformity({"y": u}, f"PIT of {trial.method}", "predictive probability below the target")
