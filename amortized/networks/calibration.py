"""Calibration of a network as measured after training; it is stored with the weights."""

from dataclasses import dataclass

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
