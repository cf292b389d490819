r"""Posterior predictive checks: do data replicated from the posterior resemble the observed data?

For each dataset, replicates :math:`D' \sim p(D \mid \theta')` are simulated from one draw
:math:`\theta' \sim q(\theta \mid D)`. If q is exact, :math:`(\theta', D)` has the same distribution
as :math:`(\theta, D)`, so the rank of any statistic of D among those of the replicates is uniform.
(The usual check averages over all posterior draws; its p-values concentrate around 1/2.)

References:
    Gelman, Meng and Stern, Posterior predictive assessment of model fitness (1996).
    Gosselin, A new calibrated Bayesian internal goodness-of-fit method (2011).
"""

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from amortized.diagnostics.calibration import ranks
from amortized.diagnostics.trial import PosteriorTrial, batch_seed
from amortized.diagnostics.uniformity import Uniformity
from amortized.priors.program_prior import ProgramPrior
from amortized.program.density import ProgramDensity
from amortized.program.simulation import ProgramSimulator
from amortized.seeding import seeded
from amortized.validation import whole_number

Statistic = Callable[[Tensor, Tensor], Tensor]
"""Maps x ``(n_datasets, n, n_features)`` and y ``(n_datasets, n)`` to ``(n_datasets,)``."""

STATISTICS: Mapping[str, Statistic] = {
    "mean": lambda x, y: y.mean(-1),
    "standard deviation": lambda x, y: y.std(-1, correction=0),
    "largest": lambda x, y: y.amax(-1),
}


def predictive_check(
    trial: PosteriorTrial,
    prior: ProgramPrior,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    n_replicates: int = 99,
    seed: int = 0,
) -> Uniformity:
    """Tests the ranks of statistics of each dataset among those of its replicates.

    Args:
        trial: datasets and posterior draws; see `PosteriorTrial.run`.
        prior: the prior whose program simulates the replicates.
        statistics: functions by name; None uses mean, standard deviation and maximum of y.
        n_replicates: number of replicates of each dataset.
        seed: seed of the replicates.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> prior = NormalMeanPrior()
        >>> trial = PosteriorTrial.run(prior, "exact", n_datasets=200, n_context=3, progress=False)
        >>> predictive_check(trial, prior).p_value > 0.01
        True
    """
    if trial.x is None or trial.y is None:
        raise ValueError(
            "Expected a trial with the x and y of its datasets, as from PosteriorTrial.run."
        )
    n_replicates = whole_number("n_replicates", n_replicates, 1)
    statistics = STATISTICS if statistics is None else statistics
    x, y = trial.x, trial.y
    one = {name: value[0].double().unsqueeze(1) for name, value in trial.draws.items()}
    u = ProgramDensity(prior.model, x, y).unconstrain(one)[:, 0]
    simulate = ProgramSimulator(prior.model, x[0])
    replicated: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    # Not a seed of the trial, because replicates would be correlated with the posterior draws.
    with seeded(batch_seed(seed, trial.n_datasets)):
        for _ in range(n_replicates):
            _, replicate = simulate(u, x)
            for name, statistic in statistics.items():
                replicated[name].append(statistic(x, replicate).numpy())
    values = {
        name: ranks(statistic(x, y).numpy(), np.stack(replicated[name]), seed + i)
        for i, (name, statistic) in enumerate(statistics.items())
    }
    return Uniformity(
        values, f"Predictive check of {trial.method}", "rank of the data among replicates"
    )
