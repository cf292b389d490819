r"""TARP, tests of accuracy with random points: coverage of balls around reference points.

For a reference point r of each dataset, drawn independently of its latents, the fraction of
posterior draws closer to r than the truth,

.. math:: f = P(\|\theta' - r\| < \|\theta - r\| \mid x), \qquad \theta' \sim q(\cdot \mid x),

is uniform if the posterior is exact. This tests the joint coverage of all latents and needs draws
only.

References:
    Lemos et al., Sampling-based accuracy testing of posterior estimators for general inference
    (2023), arXiv 2302.03026.
"""

import numpy as np

from amortized.diagnostics.calibration import ranks
from amortized.diagnostics.trial import PosteriorTrial
from amortized.diagnostics.uniformity import Uniformity
from amortized.validation import seed_number


def tarp(trial: PosteriorTrial, *, seed: int = 0) -> Uniformity:
    """Tests the coverage of balls around the true latents of *another* dataset.

    Distances are in units of each latent's standard deviation under the prior. Because the
    reference points are independent of the data, this test cannot tell the posterior from the
    prior; SBC of the log density and the local classifier test can.

    Args:
        trial: at least two datasets and their posterior draws.
        seed: seed of the reference points.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PosteriorTrial.run(NormalMeanPrior(), "exact", n_context=3, progress=False)
        >>> tarp(trial).p_value > 0.01
        True
    """
    if trial.n_datasets < 2:
        raise ValueError(f"Expected at least 2 datasets; got {trial.n_datasets}.")
    truth, draws = trial.matrices()
    rng = np.random.default_rng(seed_number(seed))
    order = rng.permutation(len(truth))
    # Each dataset takes the truth of the next one in a random cyclic order, never its own.
    reference = np.empty_like(truth)
    reference[order] = truth[np.roll(order, 1)]
    spread = np.maximum(truth.std(0), np.finfo(float).tiny)
    distance = (((truth - reference) / spread) ** 2).sum(-1)
    distances = (((draws - reference) / spread) ** 2).sum(-1)
    return Uniformity(
        {"all latents": ranks(distance, distances, seed + 1)},
        f"TARP of {trial.method}",
        "credibility of the ball",
        "share of datasets covered",
    )
