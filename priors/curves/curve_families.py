r"""Eleven parametric families of learning curves: a formula in the step t and a parameter prior.

The formulas are those of Domhan et al.; the priors are those of LC-PFN's code, which its authors
consider correct where the paper differs. Positive parameters with a log-normal prior are given in
their own unit; parameters that are log-uniform are given as their logarithm.

References:
    | Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by Extrapolation of
    | Learning Curves (Domhan, Springenberg and Hutter, 2015)
    | Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks
    | (Adriaensen et al., 2023), arXiv:2310.20447
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor

# A distribution class and its two parameters; it is instantiated where it is used, in the dtype and
# on the device needed there.
ParameterPrior = tuple[Callable[[float, float], Any], float, float]


class CurveFamily(NamedTuple):
    """A parametric family of curves.

    Attributes:
        formula: ``(t, *parameters) -> f(t)``, parameters in the order of ``priors``; all broadcast.
        priors: for each parameter a distribution class and its two arguments.
    """

    formula: Callable[..., Tensor]
    priors: Mapping[str, ParameterPrior]


def pow3(t: Tensor, c: Tensor, a: Tensor, alpha: Tensor) -> Tensor:
    r""":math:`c - a t^{-\alpha}`."""
    return c - a * torch.exp(-alpha * t.log())


def ilog2(t: Tensor, c: Tensor, a: Tensor) -> Tensor:
    r""":math:`c - a / \log(t + 1)`."""
    return c - a / (t + 1).log()


def janoschek(t: Tensor, a: Tensor, beta: Tensor, k: Tensor, delta: Tensor) -> Tensor:
    r""":math:`a - (a - \beta) \exp(-k t^\delta)`."""
    return a - (a - beta) * torch.exp(-k * torch.exp(delta * t.log()))


def weibull(t: Tensor, alpha: Tensor, beta: Tensor, kappa: Tensor, delta: Tensor) -> Tensor:
    r""":math:`\alpha - (\alpha - \beta) \exp(-(\kappa t)^\delta)`."""
    return alpha - (alpha - beta) * torch.exp(-torch.exp(delta * (kappa * t).log()))


def mmf(t: Tensor, alpha: Tensor, beta: Tensor, kappa: Tensor, delta: Tensor) -> Tensor:
    r""":math:`\alpha - (\alpha - \beta) / (1 + (\kappa t)^\delta)`."""
    # Written as a logistic function, which does not overflow.
    return alpha - (alpha - beta) * torch.sigmoid(-delta * (kappa * t).log())


def vap(t: Tensor, a: Tensor, b: Tensor, log_c: Tensor) -> Tensor:
    r""":math:`\exp(a + b / t + c \log t)`."""
    return torch.exp(a + b / t + log_c.exp() * t.log())


def loglog_linear(t: Tensor, a: Tensor, log_b: Tensor) -> Tensor:
    r""":math:`\log(a \log t + b)`."""
    return torch.log(a * t.log() + log_b.exp())


def exp4(t: Tensor, c: Tensor, a: Tensor, alpha: Tensor, b: Tensor) -> Tensor:
    r""":math:`c - \exp(-a t^\alpha + b)`."""
    return c - torch.exp(-a * torch.exp(alpha * t.log()) + b)


def pow4(t: Tensor, log_gap: Tensor, a: Tensor, alpha: Tensor, log_b: Tensor) -> Tensor:
    r""":math:`c - (a t + b)^{-\alpha}`, with :math:`c = 1 - e^{gap}`."""
    return 1 - log_gap.exp() - torch.exp(-alpha * torch.log(a * t + log_b.exp()))


def log_power(t: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    r""":math:`a / (1 + (t / e^b)^c)`."""
    return a * torch.sigmoid(-c * (t.log() - b))


def dr_hill(t: Tensor, theta: Tensor, eta: Tensor, kappa: Tensor) -> Tensor:
    r""":math:`\theta t^\eta / (\kappa^\eta + t^\eta)`."""
    return theta * torch.sigmoid(eta * (t.log() - kappa.log()))


U, N, LN = dist.Uniform, dist.Normal, dist.LogNormal

PEAKED: Mapping[str, CurveFamily] = {
    "pow3": CurveFamily(pow3, {"c": (U, 0, 1.25), "a": (U, -0.6, 0.6), "alpha": (LN, 0, 2)}),
    "ilog2": CurveFamily(ilog2, {"c": (U, 0, 1), "a": (U, -0.5, 0.5)}),
    "janoschek": CurveFamily(
        janoschek, {"a": (U, 0, 1), "beta": (U, 0, 2), "k": (LN, -2, 1), "delta": (LN, 0, 0.5)}
    ),
    "weibull": CurveFamily(
        weibull,
        {"alpha": (U, 0, 1.5), "beta": (U, 0, 1), "kappa": (LN, -2, 1), "delta": (LN, 0, 0.5)},
    ),
    "mmf": CurveFamily(
        mmf,
        {"alpha": (N, 0.8, 0.1), "beta": (N, 0.2, 0.1), "kappa": (LN, 0, 2), "delta": (LN, 0, 1)},
    ),
    "vap": CurveFamily(vap, {"a": (U, -2, 0), "b": (U, -4, 0), "log_c": (U, -8, 0)}),
    "loglog_linear": CurveFamily(loglog_linear, {"a": (LN, -2, 1), "log_b": (U, 0, 1)}),
    "exp4": CurveFamily(
        exp4, {"c": (N, 0.8, 0.1), "a": (LN, -2, 1), "alpha": (LN, 0, 1), "b": (LN, 0, 0.5)}
    ),
    "pow4": CurveFamily(
        pow4, {"log_gap": (U, -5, 0), "a": (LN, -3, 2), "alpha": (LN, 0, 1), "log_b": (U, 0, 1)}
    ),
    "log_power": CurveFamily(log_power, {"a": (N, 0.8, 0.1), "b": (N, 1, 1), "c": (U, -3, 0)}),
    "dr_hill": CurveFamily(
        dr_hill, {"theta": (N, 0.8, 0.1), "eta": (LN, 1, 1), "kappa": (LN, 1, 2)}
    ),
}
"""All families with the priors of LC-PFN's networks ("peaked" in its code)."""

UNIFORM: Mapping[str, CurveFamily] = {
    "pow3": CurveFamily(pow3, {"c": (U, 0, 1), "a": (U, -1, 1), "alpha": (U, 0, 1)}),
    "ilog2": CurveFamily(ilog2, {"c": (U, 0, 1), "a": (U, -1, 1)}),
    "janoschek": CurveFamily(
        janoschek, {"a": (U, 0, 1), "beta": (U, 0, 2), "k": (U, 0, 1), "delta": (U, -5, 5)}
    ),
}
"""The three families for which LC-PFN's code also has flat priors."""
