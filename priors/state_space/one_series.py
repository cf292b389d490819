r"""Exact answers for one series of scalars whose function has a Markov state, in linear time.

A forward pass gives the evidence :math:`\sum_i \log N(y_i; H m_i, H P_i H^T + s^2)`, and a backward
pass the moments of the function given all values (Rauch, Tung and Striebel).

References:
    Bayesian filtering and smoothing (Särkkä, 2013), chapters 4 and 8.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.state_space.components import Component


class Smoothed(NamedTuple):
    """The function given the values.

    Attributes:
        mean: at each time, ``(n,)``.
        variance: without the noise, ``(n,)``.
        log_evidence: log evidence of the values.
    """

    mean: Tensor
    variance: Tensor
    log_evidence: Tensor


def smoothed(
    part: Component, t: Float[Tensor, " n"], y: Float[Tensor, " n"], noise_variance: Tensor
) -> Smoothed:
    """Filter and smooth one series.

    Args:
        part: with hyperparameters that are numbers.
        t: times in ascending order, which may be equal.
        y: values; NaN where only the function is asked for.
        noise_variance: noise variance of each value.

    Example:
        >>> from amortized.priors.state_space.matern import Matern
        >>> t = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
        >>> y = torch.tensor([1.0, torch.nan, 1.0], dtype=torch.float64)
        >>> smoothed(Matern("matern12", 10.0, 1.0), t, y, torch.tensor(1e-6)).mean
        tensor([1.0000, 0.9950, 1.0000], dtype=torch.float64)
    """
    gaps = torch.cat((torch.zeros_like(t[:1]), t.diff()))
    a, q = part.transition(gaps).unbind(), part.noise(gaps).unbind()
    h, p = part.observation(t), part.initial_cov(t)
    m, evidence = torch.zeros_like(h), t.new_zeros(())
    predicted, kept = [], []
    for i, value in enumerate(y.unbind()):
        if i:
            m, p = a[i] @ m, a[i] @ p @ a[i].T + q[i]
        predicted.append((m, p))
        if not value.isnan():
            cross = p @ h
            s = h @ cross + noise_variance
            error = value - h @ m
            evidence = evidence - 0.5 * (error**2 / s + (2 * math.pi * s).log())
            m = m + cross * (error / s)
            p = p - torch.outer(cross, cross) / s
        kept.append((m, p))
    course = [(h @ m, h @ p @ h)]
    for i in range(len(kept) - 2, -1, -1):
        (now, cov), (ahead, ahead_cov) = kept[i], predicted[i + 1]
        gain = torch.linalg.solve(ahead_cov, a[i + 1] @ cov).T
        m = now + gain @ (m - ahead)
        p = cov + gain @ (p - ahead_cov) @ gain.T
        course.append((h @ m, h @ p @ h))
    mean, variance = (torch.stack(part) for part in zip(*course[::-1], strict=True))
    return Smoothed(mean, variance.clamp_min(0), evidence)
