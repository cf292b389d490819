"""What a training has measured of its network's calibration: it travels with the weights."""

from dataclasses import dataclass

# A test of thousands of values sees what nobody need mind; both have to speak against a network.
ALARM, LARGE = 0.01, 0.08
LEAST_EFFICIENCY = 0.25


@dataclass(frozen=True)
class Calibration:
    """Of a network's answers to fresh tasks of its own prior.

    Attributes:
        n_datasets: how many tasks.
        n_context: the sizes of their contexts.
        p_value: of the ranks of the truth in the answers being uniform, for all quantities
            together.
        deviation: the largest distance of their distribution function from the uniform one.
        worst: the quantity that is farthest.
        efficiency: what is left of an answer's draws, as a share, once they are weighted by the
            exact density: the median over tasks; None where there is no density.

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

    @property
    def doubts(self) -> list[str]:
        """What speaks against the network, in words; empty where nothing does."""
        doubts = []
        if self.p_value < ALARM and self.deviation > LARGE:
            doubts.append(
                f"its answers are not calibrated over its own prior (ranks of {self.worst} are off "
                f"by {self.deviation:.2f}, p = {self.p_value:.2g})"
            )
        if self.efficiency is not None and self.efficiency < LEAST_EFFICIENCY:
            doubts.append(
                f"its answers are far from exact over its own prior (importance weights leave "
                f"{self.efficiency:.1%} of their draws)"
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
