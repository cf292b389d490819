r"""Are these numbers uniform? The question that SBC, coverage, TARP and PIT all come down to.

Let :math:`c_k` be how many of n values lie at or below :math:`z_k = k / K`. If they are uniform,
:math:`c_k \sim \mathrm{Bin}(n, z_k)`, and the test statistic is the least two-sided tail
probability over all k,

.. math:: \gamma = \min_k 2 \min\{P(B_k \le c_k), P(B_k \ge c_k)\}.

Its law under uniformity is simulated, which gives the p-value and the band that a uniform
sample's whole distribution function leaves with probability ``level``. ArviZ's
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
    """The p-value of values in (0, 1) that should be independent and uniform."""
    n = len(values)
    points = np.arange(1, _N_POINTS) / _N_POINTS
    counts = np.searchsorted(np.sort(values), points, side="right")
    statistic = float(_statistic(counts, n))
    # A touch of slack, so that equal statistics computed in another order count as equal.
    smaller = np.searchsorted(_null_statistics(n), statistic * (1 + 1e-9), side="right")
    simulated = (1 + smaller) / (1 + _N_SIMULATIONS)
    # Beyond the resolution of the simulation, Bonferroni over the points is a bound.
    return float(min(simulated, statistic * (_N_POINTS - 1), 1.0))


def simultaneous_band(n: int, level: float = 0.05) -> tuple[Array, Array, Array]:
    """Points in [0, 1], and the band around them that n uniform values stay in.

    Args:
        n: number of values.
        level: probability that a uniform sample leaves the band anywhere.

    Returns:
        points, lower and upper end, each ``(65,)``.

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
    """The test of several sets of values for being uniform, one set a label.

    Attributes:
        values: in [0, 1], ``{label: (n,)}``, one value a dataset.
        title: what was tested.
        x_label: what a value is.
        y_label: what its distribution function is.
        p_values: of each label's test.
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
                raise ValueError(f"Expected values between 0 and 1; some of {label!r} are not.")
        p_values = {label: uniformity_p_value(values) for label, values in self.values.items()}
        object.__setattr__(self, "p_values", p_values)

    @property
    def n_datasets(self) -> int:
        """Number of values of each label."""
        return len(next(iter(self.values.values())))

    @property
    def p_value(self) -> float:
        """Of all labels together: the least one times their number (Bonferroni)."""
        return min(1.0, min(self.p_values.values()) * len(self.p_values))

    @property
    def worst(self) -> str:
        """The label with the least p-value."""
        return min(self.p_values, key=lambda label: self.p_values[label])

    def distribution_function(self, at: float) -> dict[str, float]:
        """Share of values at or below a number, of each label; the number itself if uniform."""
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
            points,
            lower - points,
            upper - points,
            color=BAND,
            label=f"{1 - level:.0%} band",
        )
        ax.axhline(0.0, color="0.5", linewidth=0.8)
        for i, (label, values) in enumerate(self.values.items()):
            height = np.searchsorted(np.sort(values), points, side="right") / len(values)
            # A legend of many lines would hide them; the worst keeps its name.
            named = len(self.values) <= 4 or label == self.worst
            name = label if named else "_"
            ax.plot(points, height - points, label=name, **line_style(i))
        title = f"{self.title}: p = {self.p_value:.2g}, {self.n_datasets} datasets"
        return label_axes(ax, self.x_label, f"{self.y_label} - uniform", title)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.title}, {self.n_datasets} datasets, "
            f"p = {self.p_value:.3g}, worst {self.worst!r})"
        )
