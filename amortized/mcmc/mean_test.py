r"""Tests that many dependent statistics all have mean zero, with one stated level.

The statistic is the largest studentised mean over the columns, and its distribution that of the
largest absolute value of normals with the columns' correlations, so that dependent columns
cost no power and the level is the nominal one.

References:
    Chernozhukov, Chetverikov and Kato, Gaussian approximations and multiplier bootstrap for maxima
    of sums of high-dimensional random vectors (2013), arXiv 1212.6906.
    Neyman, "Smooth test" for goodness of fit (1937): Legendre polynomials of ranks.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_N_SIMULATED = 10_000
_DEGREE = 4  # of the polynomials of each rank
_CHUNK = 4096  # simulated rows at a time


class MeanTest(NamedTuple):
    """Whether all means are zero.

    Attributes:
        p_value: chance of a deviation as large in any column, if all means are zero.
        column: the one with the largest deviation.
        deviation: deviation of this column, in standard errors.
    """

    p_value: float
    column: int
    deviation: float


def means_are_zero(values: Float[Tensor, "n columns"], generator: torch.Generator) -> MeanTest:
    """Tests that independent rows have mean zero in every column.

    Columns without any variation say nothing and are left out, unless they are constant and not 0.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> fair = torch.randn(1000, 3, generator=generator)
        >>> means_are_zero(fair, generator).p_value > 0.01
        True
        >>> means_are_zero(fair + torch.tensor([0.0, 0.2, 0.0]), generator).column
        1
    """
    values = values.double()
    n = len(values)
    mean, sd = values.mean(0), values.std(0)
    z = math.sqrt(n) * mean / sd
    z = torch.where(sd > 1e-12 * values.abs().amax(0), z, mean.sign() * torch.inf)
    z = z.nan_to_num(0.0, torch.inf, -torch.inf)
    column = int(z.abs().argmax())
    largest = float(z.abs()[column])
    if not math.isfinite(largest) or largest == 0:
        return MeanTest(0.0 if largest else 1.0, column, float(z[column]))
    white = ((values - mean) / sd)[:, sd > 0].nan_to_num(0.0)
    correlation = white.mT @ white / (n - 1)
    eigenvalues, vectors = torch.linalg.eigh(correlation)
    factor = vectors * eigenvalues.clamp(min=0.0).sqrt()
    exceeded = 0
    for first in range(0, _N_SIMULATED, _CHUNK):
        size = (min(_CHUNK, _N_SIMULATED - first), len(factor))
        noise = torch.randn(size, generator=generator, dtype=torch.float64)
        exceeded += int(((noise @ factor.mT).abs().amax(-1) >= largest).sum())
    simulated = (exceeded + 1) / (_N_SIMULATED + 1)
    # Far out the simulation has no draws; Bonferroni's bound is valid everywhere.
    bound = len(factor) * math.erfc(largest / math.sqrt(2))
    return MeanTest(min(simulated, bound), column, float(z[column]))


class RankFeatures:
    """Bounded functions of several scalars, orthonormal under a distribution of independent ones.

    For each scalar, Legendre polynomials of its rank among reference draws; for each pair, the
    product of the first ones, which is a rank correlation.

    Args:
        reference: draws of the scalars, ``(m, scalars)``.
        names: names of the scalars.

    Attributes:
        names: names of the columns of the features.
    """

    def __init__(self, reference: Float[Tensor, "m scalars"], names: list[str]) -> None:
        self._sorted = reference.double().sort(0).values.mT.contiguous()
        self.names = [
            f"{name}{'' if degree == 1 else f' (degree {degree})'}"
            for degree in range(1, _DEGREE + 1)
            for name in names
        ]
        self._pairs = torch.combinations(torch.arange(len(names)), 2)
        self.names += [f"{names[i]} with {names[j]}" for i, j in self._pairs.tolist()]

    def __call__(self, values: Float[Tensor, "n scalars"]) -> Float[Tensor, "n columns"]:
        """The features of each row."""
        at = values.double().mT.contiguous()
        below = torch.searchsorted(self._sorted, at) + torch.searchsorted(
            self._sorted, at, right=True
        )
        rank = (0.5 * below.double() + 0.5) / (self._sorted.shape[1] + 1)
        t = 2 * rank.mT - 1
        legendre = [torch.ones_like(t), t]
        for k in range(1, _DEGREE):
            legendre.append(((2 * k + 1) * t * legendre[k] - k * legendre[k - 1]) / (k + 1))
        own = [math.sqrt(2 * k + 1) * legendre[k] for k in range(1, _DEGREE + 1)]
        first = own[0]
        pairs = first[:, self._pairs[:, 0]] * first[:, self._pairs[:, 1]]
        return torch.cat([*own, pairs], -1)
