r"""A test of uniformity, on which SBC, coverage, TARP and PIT are based.

Let :math:`c_k` be the number of n values at or below :math:`z_k = k / K`. If they are uniform,
:math:`c_k \sim \mathrm{Bin}(n, z_k)`. The test statistic is the smallest two-sided tail probability
over all k,

.. math:: \gamma = \min_k 2 \min\{P(B_k \le c_k), P(B_k \ge c_k)\}.

Its distribution under uniformity is simulated, which gives the p-value and a simultaneous band: the
distribution function of a uniform sample leaves it anywhere with probability ``level``. ArviZ's
``ecdf_confidence_band`` is the same band without the p-value.

References:
    Saeilynoja, Buerkner and Vehtari, Graphical test for discrete uniformity and its applications
    in goodness of fit evaluation and multiple sample comparison (2022), arXiv 2103.10522.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from amortized.arrays import refuse_nan
from amortized.plotting import BAND, label_axes, line_style, new_axes

Array = NDArray[np.float64]

_N_POINTS = 64
_N_SIMULATIONS = 5000


@lru_cache(maxsize=32)
def _tail_probabilities(n: int) -> Array:
    """Two-sided tail probability of each count at each inner point, ``(points, n + 1)``."""
    z = np.arange(1, _N_POINTS)[:, None] / _N_POINTS
    count = np.arange(n + 1)
    below = stats.binom.cdf(count, n, z)
    above = stats.binom.sf(count - 1, n, z)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(below, above)))


@lru_cache(maxsize=32)
def _null_statistics(n: int) -> Array:
    """Simulated statistics of uniform samples of size n, in ascending order."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, np.full(_N_POINTS, 1 / _N_POINTS), size=_N_SIMULATIONS)
    return np.sort(_statistic(counts.cumsum(-1)[:, :-1], n))


def _statistic(counts: NDArray[np.int64], n: int) -> Array:
    return np.asarray(_tail_probabilities(n)[np.arange(_N_POINTS - 1), counts].min(-1))


def uniformity_p_value(values: Array) -> float:
    """The p-value of the hypothesis that values are independent and uniform on (0, 1)."""
    n = len(values)
    points = np.arange(1, _N_POINTS) / _N_POINTS
    counts = np.searchsorted(np.sort(values), points, side="right")
    statistic = float(_statistic(counts, n))
    # The tolerance makes statistics equal that differ by rounding only.
    smaller = np.searchsorted(_null_statistics(n), statistic * (1 + 1e-9), side="right")
    simulated = (1 + smaller) / (1 + _N_SIMULATIONS)
    # Below the resolution of the simulation, Bonferroni's correction over the points is a bound.
    return float(min(simulated, statistic * (_N_POINTS - 1), 1.0))


def simultaneous_band(n: int, level: float = 0.05) -> tuple[Array, Array, Array]:
    """Simultaneous band of the distribution function of n uniform values.

    Args:
        n: number of values.
        level: probability that a uniform sample leaves the band anywhere.

    Returns:
        points in [0, 1], and lower and upper end of the band there, each ``(65,)``.

    Example:
        >>> points, lower, upper = simultaneous_band(1000)
        >>> round(float(lower[32]), 2), round(float(upper[32]), 2)
        (0.45, 0.55)
    """
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"Expected n >= 1 and a level in (0, 1); got {n!r} and {level!r}.")
    gamma = np.quantile(_null_statistics(n), level)
    points = np.arange(_N_POINTS + 1) / _N_POINTS
    lower = stats.binom.ppf(gamma / 2, n, points) / n
    upper = stats.binom.ppf(1 - gamma / 2, n, points) / n
    lower[[0, -1]], upper[[0, -1]] = (0.0, 1.0), (0.0, 1.0)
    return points, lower, upper


@dataclass(frozen=True)
class Uniformity:
    """Tests of uniformity of several sets of values, one set for each label.

    Attributes:
        values: values in [0, 1], ``{label: (n,)}``, one per dataset.
        title: what was tested.
        x_label: meaning of a value.
        y_label: meaning of its distribution function.
        p_values: p-value of each label.
    """

    values: Mapping[str, Float[np.ndarray, " n"]]
    title: str
    x_label: str
    y_label: str = "share of datasets"
    p_values: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"Expected at least one scalar to test; {self.title} got none.")
        for label, values in self.values.items():
            refuse_nan(f"values of {label!r} to be tested", values)
            inside = np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
            if not inside:
                raise ValueError(f"Expected values of {label!r} in [0, 1]; got others.")
        p_values = {label: uniformity_p_value(values) for label, values in self.values.items()}
        object.__setattr__(self, "p_values", p_values)

    @property
    def n_datasets(self) -> int:
        """Number of values of each label."""
        return len(next(iter(self.values.values())))

    @property
    def p_value(self) -> float:
        """p-value of all labels together: the smallest times their number (Bonferroni)."""
        return min(1.0, min(self.p_values.values()) * len(self.p_values))

    @property
    def worst(self) -> str:
        """The label with the smallest p-value."""
        return min(self.p_values, key=lambda label: self.p_values[label])

    def distribution_function(self, at: float) -> dict[str, float]:
        """Fraction of values at or below a number, for each label."""
        return {label: float((values <= at).mean()) for label, values in self.values.items()}

    def plot(self, ax: Any = None, *, level: float = 0.05) -> Any:
        """Each distribution function minus the uniform one, with the simultaneous band.

        Args:
            ax: Matplotlib axes to draw on; None makes a figure.
            level: probability that an exact method leaves the band.

        Returns:
            the axes.
        """
        ax = new_axes() if ax is None else ax
        points, lower, upper = simultaneous_band(self.n_datasets, level)
        ax.fill_between(
            points, lower - points, upper - points, color=BAND, label=f"{1 - level:.0%} band"
        )
        ax.axhline(0.0, color="0.5", linewidth=0.8)
        for i, (label, values) in enumerate(self.values.items()):
            height = np.searchsorted(np.sort(values), points, side="right") / len(values)
            # A long legend would hide the lines, so only the worst is named.
            named = len(self.values) <= 4 or label == self.worst
            name = label if named else "_"
            ax.plot(points, height - points, label=name, **line_style(i))
        counted = self.y_label.removeprefix("share of ").split()[0]
        title = f"{self.title}: p = {self.p_value:.2g}, {self.n_datasets} {counted}"
        return label_axes(ax, self.x_label, f"{self.y_label} - uniform", title)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.title}, {self.n_datasets} datasets, "
            f"p = {self.p_value:.3g}, worst {self.worst!r})"
        )
