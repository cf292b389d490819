r"""Monotone transformations of regression targets that may make them easier to predict.

A transformation T is fitted to the targets of a table and maps the real line onto itself (the
logarithm maps from positive numbers), so it has an exact inverse. A bar of the network with borders
a and b becomes the bar :math:`[T^{-1}(a), T^{-1}(b)]` with equal mass, whose width accounts for the
Jacobian.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from scipy.stats import yeojohnson, yeojohnson_llf

from amortized.tables.encoding import centre_and_unit

Numbers = NDArray[np.float64]
TRANSFORMS = ("none", "power", "quantile")
_MAX_KNOTS = 24
_FEWEST = 10  # smallest number of targets from which a transformation is fitted
_FAR = 20.0  # units, see ``Compressed``
_LEAST = 1e-6  # smallest range above rounding error, in standard deviations of the whole table


def check_transforms(names: Any) -> None:
    """Raises a ValueError if names are not a tuple or list of known transformations."""
    if not isinstance(names, tuple | list) or not names or not set(names) <= set(TRANSFORMS):
        raise ValueError(
            f"Expected target_transforms to be a tuple of {TRANSFORMS}; got {names!r}."
        )


class TargetTransform(ABC):
    """An increasing transformation and its inverse."""

    @abstractmethod
    def forward(self, y: Numbers) -> Numbers:
        """Transforms targets."""

    @abstractmethod
    def inverse(self, t: Numbers) -> Numbers:
        """Inverts ``forward``."""


class Unchanged(TargetTransform):
    """The identity."""

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


class Compressed(TargetTransform):
    r"""Compresses outliers z beyond 20 units to :math:`\pm 20 (1 + \log(|z| / 20))`.

    A single extreme target would otherwise determine the scale of all others.

    Args:
        centre: origin of z.
        unit: unit of z.
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
        exponent: lambda, from 0 to 2; otherwise the transformation would not be onto.

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
    """Maps quantiles of the targets to those of the standard normal, piecewise linearly.

    Args:
        y: at least two different knots, ascending.
        t: values of the transformation at the knots, ascending.
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
    """Fits the named transformation that brings targets closest to normality.

    Args:
        name: one of ``TRANSFORMS``. 'none' only compresses outliers; 'power' is Yeo and Johnson's
            or, if all targets are positive and it fits better, the logarithm; 'quantile' maps
            quantiles.
        y: standardised targets.
        shift: constant whose sum with y is proportional to the targets in their own units.

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
    # Outliers are not compressed first for a logarithm, which compresses more. A power fitted to
    # targets with an outlier would be determined by the outlier alone.
    if np.abs(y - centre).max() > _FAR * unit and not isinstance(transform, Logarithm):
        return Compressed(centre, unit)
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
    # For equal targets several levels share a quantile, which is mapped to their middle.
    scores = np.bincount(members, ndtri(level)) / np.bincount(members)
    return NormalQuantiles(values, scores)
