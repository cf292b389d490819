r"""Increasing maps of a regression's answers, under which a network may find them easier.

A map T is fitted to the answers of a table and goes from all numbers to all numbers (the logarithm
from the positive ones), so each has an exact inverse. A bar of the network with borders a and b
becomes the bar :math:`[T^{-1}(a), T^{-1}(b)]` of equal mass: its new width holds the Jacobian.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from scipy.stats import yeojohnson, yeojohnson_llf

from amortized.estimators.tables import centre_and_unit

Numbers = NDArray[np.float64]
TRANSFORMS = ("none", "power", "quantile")
_MAX_KNOTS = 24
_FEWEST = 10  # answers that tell their distribution's shape
_FAR = 20.0  # units, see ``PulledIn``
_LEAST = 1e-6  # range, in standard deviations of the whole table, that is no rounding


def check_transforms(names: Any) -> None:
    """Raises a ValueError where names of transforms are not a tuple or list of known ones."""
    if not isinstance(names, tuple | list) or not names or not set(names) <= set(TRANSFORMS):
        raise ValueError(
            f"Expected target_transforms to be a tuple of {TRANSFORMS}; got {names!r}."
        )


class TargetTransform(ABC):
    """An increasing map of numbers and its inverse."""

    @abstractmethod
    def forward(self, y: Numbers) -> Numbers:
        """Answers as the network sees them, up to their mean and scale."""

    @abstractmethod
    def inverse(self, t: Numbers) -> Numbers:
        """What ``forward`` maps to t."""


class Unchanged(TargetTransform):
    """The map that changes nothing."""

    def forward(self, y: Numbers) -> Numbers:
        return y

    def inverse(self, t: Numbers) -> Numbers:
        return t


class Logarithm(TargetTransform):
    """Logarithm of numbers above ``-shift``."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def forward(self, y: Numbers) -> Numbers:
        return np.log(y + self.shift)

    def inverse(self, t: Numbers) -> Numbers:
        return np.exp(np.minimum(t, 700.0)) - self.shift


class PulledIn(TargetTransform):
    r"""What lies far out pulled in to :math:`\pm 20 (1 + \log(|z| / 20))`, all else left as it is.

    One answer of a million scales must not decide the scale on which the others are told apart.

    Args:
        centre: from which z is counted.
        unit: of z.
    """

    def __init__(self, centre: float, unit: float) -> None:
        self.centre, self.unit = centre, unit

    def forward(self, y: Numbers) -> Numbers:
        z = (y - self.centre) / self.unit
        size = np.maximum(np.abs(z), _FAR)
        return np.where(size > _FAR, np.sign(z) * _FAR * (1 + np.log(size / _FAR)), z)

    def inverse(self, t: Numbers) -> Numbers:
        beyond = np.clip(np.abs(t) / _FAR - 1, 0.0, 300.0)
        z = np.where(beyond > 0, np.sign(t) * _FAR * np.exp(beyond), t)
        return self.centre + self.unit * z


class YeoJohnson(TargetTransform):
    r"""The power :math:`((1 + y)^\lambda - 1) / \lambda`, below zero that of 2 - lambda, mirrored.

    Args:
        exponent: lambda, from 0 to 2: beyond, the map would not reach all numbers.

    References:
        | A New Family of Power Transformations to Improve Normality or Symmetry
        | (Yeo and Johnson, 2000)
    """

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def forward(self, y: Numbers) -> Numbers:
        return np.asarray(yeojohnson(y, self.exponent))

    def inverse(self, t: Numbers) -> Numbers:
        exponent = np.where(t >= 0, self.exponent, 2 - self.exponent)
        size, near_zero = np.abs(t), np.abs(exponent) < 1e-12
        power = np.where(near_zero, 1.0, exponent)
        with np.errstate(over="ignore"):
            grown = np.where(near_zero, np.expm1(size), np.expm1(np.log1p(power * size) / power))
        return np.sign(t) * np.minimum(grown, np.finfo(np.float64).max)


class NormalQuantiles(TargetTransform):
    """Quantiles of the answers to those of the standard normal, linear between knots and beyond.

    Args:
        y: at least two different knots, ascending.
        t: what they are mapped to, ascending.
    """

    def __init__(self, y: Numbers, t: Numbers) -> None:
        self.y, self.t = y, t

    def forward(self, y: Numbers) -> Numbers:
        return _interpolated(y, self.y, self.t)

    def inverse(self, t: Numbers) -> Numbers:
        return _interpolated(t, self.t, self.y)


def _interpolated(x: Numbers, knots: Numbers, values: Numbers) -> Numbers:
    piece = np.clip(np.searchsorted(knots, x) - 1, 0, len(knots) - 2)
    slope = np.diff(values) / np.diff(knots)
    return values[piece] + slope[piece] * (x - knots[piece])


def fit_transform(name: str, y: Numbers, shift: float) -> TargetTransform:
    """The map of this name that makes answers look most like a normal distribution.

    Args:
        name: one of ``TRANSFORMS``. 'none' leaves the answers but for those far out, which are
            pulled in. 'power' is Yeo and Johnson's or, where all answers are
            positive and it fits better, the logarithm; 'quantile' goes by quantiles.
        y: answers, standardised.
        shift: what makes answers of y in their own units, up to a factor, when it is added.

    Example:
        >>> y = np.exp(np.linspace(-2, 2, 20))
        >>> transform = fit_transform("power", y, 0.0)
        >>> type(transform).__name__, np.allclose(transform.inverse(transform.forward(y)), y)
        ('Logarithm', True)
    """
    if len(y) < _FEWEST or np.ptp(y) < _LEAST:
        return Unchanged()
    if name == "quantile":
        return _normal_quantiles(y)
    transform = Unchanged() if name == "none" else _power(y, shift)
    centre, unit = centre_and_unit(y)
    # A logarithm pulls in more; a power of what one outlier has scaled sees the outlier alone.
    if np.abs(y - centre).max() > _FAR * unit and not isinstance(transform, Logarithm):
        return PulledIn(centre, unit)
    return transform


def _power(y: Numbers, shift: float) -> TargetTransform:
    def surprise(exponent: float) -> Any:
        return -yeojohnson_llf(exponent, y)

    best = minimize_scalar(surprise, bounds=(0.0, 2.0), method="bounded")
    if (y + shift > 0).all():
        logs = np.log(y + shift)
        if np.ptp(logs) > 0 and len(y) * np.log(logs.std()) + logs.sum() < best.fun:
            return Logarithm(shift)
    return YeoJohnson(float(best.x))


def _normal_quantiles(y: Numbers) -> TargetTransform:
    n_knots = int(np.clip(len(y) // 4, 2, _MAX_KNOTS))
    level = (np.arange(n_knots) + 0.5) / n_knots
    values, members = np.unique(np.quantile(y, level), return_inverse=True)
    if len(values) < 2:
        return Unchanged()
    # Where answers are equal, several levels have one quantile: its place is their middle.
    scores = np.bincount(members, ndtri(level)) / np.bincount(members)
    return NormalQuantiles(values, scores)
