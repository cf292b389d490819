r"""The exact predictive of learning curves, by importance sampling from millions of prior curves.

With f an accepted curve of the prior and its noise integrated out,

.. math::
    p(y_t \mid y_{1:c}) = \frac{\sum_i g_{c+1}(S_i + (y_t - f_i(t))^2)}{\sum_i g_c(S_i)},
    \quad S_i = \sum_{s \le c} (y_s - f_i(s))^2, \quad
    g_n(S) = \int (2 \pi \sigma^2)^{-n/2} e^{-S / 2 \sigma^2} \, p(\sigma) \, d\sigma .

No chain has to converge: the effective number of curves says how exact the answer is. It is large
for noisy curves and short beginnings, and small for long beginnings of nearly noise-free curves.
"""

import math

import torch
from torch import Tensor

from amortized.priors import LearningCurvePrior

CHUNK = 10_000
# A curve whose weight is this factor (in logs) below the largest is left out of both sums.
NEGLIGIBLE = 16.0


class _Evidence:
    """log g_n of the docstring above, interpolated in log S."""

    def __init__(self, n: int, noise: tuple[float, float]) -> None:
        self.low, self.high, self.cells = -30.0, 8.0, 6000
        log_sigma = torch.linspace(noise[0] - 6 * noise[1], noise[0] + 6 * noise[1], 600).double()
        log_prior = torch.distributions.Normal(*noise).log_prob(log_sigma)
        log_step = math.log(float(log_sigma[1] - log_sigma[0]))
        s = torch.linspace(self.low, self.high, self.cells + 1).double().exp()
        exponent = -n * log_sigma - 0.5 * s[:, None] * (-2 * log_sigma).exp()
        self.table = (
            (exponent + log_prior).logsumexp(-1) + log_step - 0.5 * n * math.log(2 * math.pi)
        )

    def __call__(self, squares: Tensor) -> Tensor:
        at = (squares.double().log().clamp(self.low, self.high) - self.low) / (self.high - self.low)
        at = at * self.cells
        cell = at.floor().long().clamp(0, self.cells - 1)
        return self.table[cell].lerp(self.table[cell + 1], at - cell)


def exact_log_likelihoods(
    prior: LearningCurvePrior, curves: Tensor, cutoff: int, n_draws: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean log-likelihood of each curve's later values, its log evidence and the effective size.

    Args:
        prior: of the curves.
        curves: values at all steps, ``(curves, steps)``.
        cutoff: number of known ones.
        n_draws: curves drawn from the prior, whatever the cut-off the same ones.
        seed: of these draws.

    Returns:
        three tensors ``(curves,)``.
    """
    known, joint = (_Evidence(n, prior.noise) for n in (cutoff, cutoff + 1))
    n_curves, n_later = len(curves), curves.shape[1] - cutoff
    grid = torch.arange(1.0, prior.n_steps + 1)
    top = torch.full((n_curves,), -torch.inf, dtype=torch.float64)
    total, squared = torch.zeros(2, n_curves, dtype=torch.float64)
    later = torch.zeros(n_curves, n_later, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(n_draws // CHUNK):
            f = prior.curve(grid, prior._accepted(CHUNK)).double()
            for i, y in enumerate(curves.double()):
                s = (f[:, :cutoff] - y[:cutoff]).square().sum(-1)
                weight = known(s)
                highest = torch.maximum(top[i], weight.max())
                shrink = (top[i] - highest).exp()
                kept = (weight > highest - NEGLIGIBLE).nonzero()[:, 0]
                share = (weight[kept] - highest).exp()
                both = joint(s[kept, None] + (f[kept, cutoff:] - y[cutoff:]).square()) - highest
                total[i] = shrink * total[i] + share.sum()
                squared[i] = shrink.square() * squared[i] + share.square().sum()
                later[i] = shrink * later[i] + both.exp().sum(0)
                top[i] = highest
    ll = (later.log() - total.log()[:, None]).mean(-1)
    evidence = top + total.log() - math.log(n_draws // CHUNK * CHUNK)
    return ll, evidence, total.square() / squared
