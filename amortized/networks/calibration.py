"""Calibration of a network as measured after training; it is stored with the weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

# With thousands of tasks a test detects irrelevant deviations, so p-value and size must agree.
ALARM, LARGE = 0.01, 0.08
LEAST_EFFICIENCY = 0.25


@dataclass(frozen=True)
class Calibration:
    """Calibration of a network on fresh tasks from its own prior.

    Attributes:
        n_datasets: number of tasks.
        n_context: sizes of their contexts.
        p_value: p-value of the test that the ranks of the true values are uniform, over all
            quantities together.
        deviation: largest distance of their distribution function from the uniform one.
        worst: the quantity with the largest deviation.
        efficiency: relative effective sample size of a posterior's draws after weighting by the
            exact density, median over tasks; None without a density.
        prior: import path of the prior, such as "my_priors:decay(inputs=1)"; None if it has none.

    Example:
        >>> print(Calibration(600, (10,), 0.4, 0.02, "y"))
        600 tasks of 10 rows: p-value 0.4, largest deviation 0.02 (y)
    """

    n_datasets: int
    n_context: tuple[int, ...]
    p_value: float
    deviation: float
    worst: str
    efficiency: float | None = None
    prior: str | None = None

    @classmethod
    def of_ranks(
        cls,
        ranks: Mapping[str, Float[Tensor, " tasks"]],
        n_context: tuple[int, ...],
        efficiency: float | None = None,
    ) -> "Calibration":
        """Tests the uniformity of ranks in [0, 1] of some quantities.

        Args:
            ranks: ranks of each quantity, see `random_rank`.
            n_context: as the attribute.
            efficiency: as the attribute.
        """
        # If an output is NaN the truth has no rank; zero counts against the network.
        values = {name: np.nan_to_num(u.double().cpu().numpy()) for name, u in ranks.items()}
        tests = {name: stats.kstest(u, "uniform") for name, u in values.items()}
        worst = min(tests, key=lambda name: float(tests[name].pvalue))
        return cls(
            n_datasets=len(values[worst]),
            n_context=n_context,
            p_value=min(1.0, float(tests[worst].pvalue) * len(tests)),
            deviation=float(tests[worst].statistic),
            worst=worst,
            efficiency=efficiency,
        )

    @property
    def doubts(self) -> list[str]:
        """Reasons to distrust the network, as sentences; empty if there are none."""
        doubts = []
        if self.p_value < ALARM and self.deviation > LARGE:
            doubts.append(
                f"its answers are not calibrated over its own prior (ranks of {self.worst} deviate "
                f"by {self.deviation:.2f}, p = {self.p_value:.2g})"
            )
        if self.efficiency is not None and self.efficiency < LEAST_EFFICIENCY:
            doubts.append(
                f"its answers are far from exact over its own prior (efficiency of importance "
                f"weights {self.efficiency:.1%})"
            )
        return doubts

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.n_context))
        text = (
            f"{self.n_datasets} tasks of {sizes} rows: p-value {self.p_value:.2g}, largest "
            f"deviation {self.deviation:.2g} ({self.worst})"
        )
        if self.efficiency is not None:
            text += f", efficiency of importance weights {self.efficiency:.2g}"
        return text


def random_rank(
    truth: Float[Tensor, "..."], draws: Float[Tensor, "draws ..."]
) -> Float[Tensor, "..."]:
    """Rank of the truth among draws, scaled to (0, 1), at random between its neighbours."""
    return ((draws < truth).sum(0) + torch.rand_like(truth)) / (len(draws) + 1)
