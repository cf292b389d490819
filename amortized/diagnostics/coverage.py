r"""Expected coverage: how often regions of credibility :math:`\alpha` hold the truth.

The central interval of a scalar holds it if :math:`2 |u - 1/2| \le \alpha` with u its rank. The
highest-density region holds it if the share of draws denser than the truth is at most
:math:`\alpha`. Both numbers are uniform if the posterior is exact, and their distribution
function is the coverage.

References:
    Hermans et al., A trust crisis in simulation-based inference? Your posterior approximations
    can be unfaithful (2022), arXiv 2110.06581.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from amortized.diagnostics.sbc import ranks
from amortized.diagnostics.trial import PosteriorTrial
from amortized.diagnostics.uniformity import Uniformity

Region = Literal["central", "highest"]

_PAIRS_AT_ONCE = 2**22  # distances in memory together


class Coverage(Uniformity):
    """Expected coverage of credible regions; `Uniformity` has the numbers, p-value and plot."""

    def table(
        self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)
    ) -> dict[str, dict[float, float]]:
        """Share of datasets whose truth is in the region, ``{label: {level: share}}``."""
        shares = {level: self.distribution_function(level) for level in levels}
        return {label: {at: shares[at][label] for at in levels} for label in self.values}


def coverage(trial: PosteriorTrial, region: Region = "central", *, seed: int = 0) -> Coverage:
    """Tests the coverage of central intervals of each scalar, or of joint highest-density regions.

    Where the method knows no density, the regions' density is that of nearest neighbours among
    the draws and the truth together. As the truth is treated like one of the draws, a wrong
    density costs power but raises no false alarm.

    Args:
        trial: datasets and answers.
        region: "central" or "highest".
        seed: breaks ties among draws.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PosteriorTrial.run(
        ...     NormalMeanPrior(), "exact", n_datasets=200, n_context=3, progress=False
        ... )
        >>> abs(coverage(trial).table()["mean"][0.5] - 0.5) < 0.15
        True
    """
    truth, draws = trial.matrices()
    if region == "central":
        u = 2 * np.abs(ranks(truth, draws, seed) - 0.5)
        values = {label: u[:, i] for i, label in enumerate(trial.labels())}
    elif region == "highest":
        if trial.log_prob_truth is not None and trial.log_prob_draws is not None:
            at_truth = trial.log_prob_truth.double().cpu().numpy()
            at_draws = trial.log_prob_draws.double().cpu().numpy()
        else:
            at_truth, at_draws = neighbour_density(truth, draws)
        values = {"all latents": 1 - ranks(at_truth, at_draws, seed)}
    else:
        raise ValueError(f"Expected region to be 'central' or 'highest'; got {region!r}.")
    title = f"{region.capitalize()} coverage of {trial.method}"
    return Coverage(values, title, "credibility of the region", "share of datasets covered")


def neighbour_density(
    truth: Float[np.ndarray, "datasets dim"], draws: Float[np.ndarray, "draws datasets dim"]
) -> tuple[Float[np.ndarray, " datasets"], Float[np.ndarray, "draws datasets"]]:
    """An increasing function of the density, from distances to nearest neighbours.

    Minus the distance to the k-th nearest among truth and draws together, k about the root of
    their number, each coordinate in units of its spread.
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
