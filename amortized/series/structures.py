r"""Structural models of a series, on a grid of signal-to-noise ratios.

.. math::
    y_t = l_t + a_t + \sum_j c_{jt} + \sigma \sqrt r \epsilon_t, \qquad
    l_t = l_{t-1} + \phi b_{t-1} + \ldots, \quad b_t = \phi b_{t-1} + \ldots, \quad
    a_t = \rho a_{t-1} + \ldots

The level l has a slope b, which fades by :math:`\phi`; a is an autoregression of order one, and
each c is one wave of a season, which turns at its own frequency. Every variance is relative to
:math:`\sigma^2`, which is unknown. All models of a grid have the same states, so that one
recursion filters all of them.

References:
    Forecasting, structural time series models and the Kalman filter (Harvey, 1989).
    Bayesian forecasting and dynamic models (West and Harrison, 1997).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

DIFFUSE = 1e6  # variance of the first level, in noise variances
MOST_WAVES = 8  # of a long period; up to a period of 24 the pattern is free


class Ratios(NamedTuple):
    """Variances of one model, relative to its scale.

    Attributes:
        noise: of an observation.
        level: of the level's step.
        first_slope: of the slope at the start.
        slope: of the slope's step.
        fading: factor of the slope a step.
        memory: variance of the autoregression's step.
        rho: its factor a step.
    """

    noise: float = 1.0
    level: float = 0.0
    first_slope: float = 0.0
    slope: float = 0.0
    fading: float = 1.0
    memory: float = 0.0
    rho: float = 0.0


LEVELS = (
    Ratios(),  # a constant
    Ratios(level=0.003),
    Ratios(level=0.03),
    Ratios(level=0.3),
    Ratios(level=3.0),
    Ratios(noise=0.01, level=1.0),  # a random walk
    Ratios(first_slope=0.25),  # a straight line
    Ratios(level=0.03, first_slope=0.25),
    Ratios(level=0.5, first_slope=0.25),
    Ratios(noise=0.01, level=1.0, first_slope=0.25),
    Ratios(first_slope=0.25, slope=1e-4),
    Ratios(level=0.1, first_slope=0.25, slope=0.003),
    Ratios(noise=0.1, level=0.3, first_slope=0.25, slope=0.1),
    Ratios(noise=0.01, level=0.0, first_slope=0.25, slope=1.0),
    Ratios(level=0.1, first_slope=0.1, slope=0.01, fading=0.9),
    Ratios(noise=0.01, level=0.5, first_slope=0.25, slope=0.25, fading=0.8),
    Ratios(noise=0.1, memory=1.0, rho=0.5),
    Ratios(noise=0.1, memory=1.0, rho=0.8),
    Ratios(noise=0.1, memory=1.0, rho=0.95),
)
SEASONAL_LEVELS = (0, 2, 3, 5, 7, 8, 9, 11, 15, 17, 18)
SEASONS = (0.0, 0.02, 0.3)  # change of the pattern's variance in one period
FIRST_SEASON = 25.0  # variance of the pattern at the start
REPEATING = Ratios(noise=0.05, level=0.0)  # with a pattern that changes by 2: the last one repeated


@dataclass(frozen=True)
class StateSpace:
    """Matrices of K models with S states, in double precision.

    Attributes:
        transition: ``(K, S, S)``.
        step_cov: of the states' step, ``(K, S, S)``.
        first_cov: of the first states, ``(K, S, S)``.
        noise: variance of an observation, ``(K,)``.
        observation: of the states, ``(S,)``.
        number: of each model among all kinds, ``(K,)``.
    """

    transition: Tensor
    step_cov: Tensor
    first_cov: Tensor
    noise: Tensor
    observation: Tensor
    number: Tensor

    def responses(self, horizon: int) -> Tensor:
        """What each state adds to the observations 0, 1, ..., H steps later, ``(K, H + 1, S)``."""
        now = self.observation.expand(len(self.noise), 1, -1)
        rows = [now]
        for _ in range(horizon):
            rows.append(rows[-1] @ self.transition)
        return torch.cat(rows, 1)


N_KINDS = len(LEVELS) + len(SEASONAL_LEVELS) * len(SEASONS) + 1


def frequencies(periods: tuple[float, ...]) -> tuple[float, ...]:
    """Waves of the patterns of some periods, in cycles a step, each once, at most one half."""
    found: list[float] = []
    for period in periods:
        most = int(period // 2)
        waves = most if period <= 24 else MOST_WAVES
        for wave in range(1, min(waves, most) + 1):
            if all(abs(wave / period - other) > 1e-9 for other in found):
                found.append(wave / period)
    return tuple(found)


@lru_cache(maxsize=64)
def structures(periods: tuple[float, ...]) -> tuple[StateSpace, ...]:
    """The models without a season, and those with one if there is a period of at least 2."""
    with torch.device("cpu"):
        plain = _state_space([(ratios, 0.0, 0.0) for ratios in LEVELS], (), 0)
        waves = frequencies(tuple(p for p in periods if p >= 2))
        if not waves:
            return (plain,)
        length = max(periods)
        rows = [
            (LEVELS[i], FIRST_SEASON, change / length)
            for i in SEASONAL_LEVELS
            for change in SEASONS
        ]
        rows.append((REPEATING, FIRST_SEASON, 2 / length))
        return plain, _state_space(rows, waves, len(LEVELS))


def _state_space(
    rows: list[tuple[Ratios, float, float]], waves: tuple[float, ...], first_number: int
) -> StateSpace:
    """Matrices of models that are given by ratios, first variance and change of a pattern."""
    ratios = torch.tensor([row[0] for row in rows], dtype=torch.float64).T
    noise, level, first_slope, slope, fading, memory, rho = ratios
    k, size = len(rows), 3 + sum(1 if abs(f - 0.5) < 1e-9 else 2 for f in waves)
    a, q, p = (torch.zeros(k, size, size, dtype=torch.float64) for _ in range(3))
    h = torch.zeros(size, dtype=torch.float64)
    h[0] = h[2] = 1.0
    a[:, 0, 0], a[:, 0, 1], a[:, 1, 1], a[:, 2, 2] = 1.0, fading, fading, rho
    q[:, 0, 0], q[:, 1, 1], q[:, 2, 2] = level, slope, memory
    q[:, 0, 1] = q[:, 1, 0] = slope
    q[:, 0, 0] += slope
    p[:, 0, 0], p[:, 1, 1], p[:, 2, 2] = DIFFUSE, first_slope, memory / (1 - rho**2)
    pattern, change = torch.tensor([row[1:] for row in rows], dtype=torch.float64).T
    at = 3
    for frequency in waves:
        width = 1 if abs(frequency - 0.5) < 1e-9 else 2
        angle = 2 * math.pi * frequency
        turn = torch.tensor(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]],
            dtype=torch.float64,
        )
        block = slice(at, at + width)
        a[:, block, block] = turn[:width, :width]
        eye = torch.eye(width, dtype=torch.float64)
        p[:, block, block] = (pattern / len(waves))[:, None, None] * eye
        q[:, block, block] = (change / len(waves))[:, None, None] * eye
        h[at] = 1.0
        at += width
    return StateSpace(a, q, p, noise, h, first_number + torch.arange(k))
