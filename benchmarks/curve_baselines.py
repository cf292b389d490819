"""What learning curves are extrapolated with elsewhere: emcee, a power law, the last value.

emcee draws from the same prior as the network with the settings published for LC-PFN's baseline:
100 walkers, 2,500 steps, 500 of them burn-in, no weighting by recency. The walkers start in a small
ball about a fit.

References:
    | Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by Extrapolation
    | of Learning Curves (Domhan, Springenberg and Hutter, 2015)
    | emcee: The MCMC Hammer (Foreman-Mackey et al., 2013), arXiv:1202.3665
"""

import math
import warnings
from collections.abc import Mapping

import emcee
import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions import LogNormal, Normal, Uniform
from scipy.optimize import curve_fit, minimize
from torch import Tensor

from amortized.priors import LearningCurvePrior

N_WALKERS, N_STEPS, N_BURN_IN = 100, 2500, 500
Numbers = NDArray[np.float64]


class EmceeCurve:
    """The posterior of one curve's latents, as emcee wants it: numbers in, a log density out.

    Log-normal latents are given as their logarithms, the others as they are.

    Args:
        prior: of the curve.
        steps: of the known values, ``(n,)``.
        values: ``(n,)``.
    """

    def __init__(self, prior: LearningCurvePrior, steps: Numbers, values: Numbers) -> None:
        self.prior = prior
        self.sites = prior._sites()
        self.steps, self.values = torch.as_tensor(steps), torch.as_tensor(values)
        self.grid = torch.arange(1, prior.n_steps + 1, dtype=torch.float64)
        kinds = [kind for kind, *_ in self.sites.values()]
        self.is_log = torch.tensor([kind is LogNormal for kind in kinds])
        self.is_flat = torch.tensor([kind is Uniform for kind in kinds])
        if any(kind not in (LogNormal, Normal, Uniform) for kind in kinds):
            raise ValueError(f"Expected uniform, normal and log-normal latents; got {kinds}.")
        low_high = torch.tensor([at for _, *at in self.sites.values()], dtype=torch.float64)
        self.first, self.second = low_high.T

    def latents(self, theta: Numbers) -> dict[str, Tensor]:
        """By name, each ``(rows,)``."""
        theta_ = torch.as_tensor(theta)
        natural = torch.where(self.is_log, theta_.exp(), theta_)
        return dict(zip(self.sites, natural.unbind(-1), strict=True))

    def log_density(self, theta: Numbers) -> Numbers:
        """Of each row, up to a constant."""
        at = torch.as_tensor(theta)
        inside = ((at >= self.first) & (at <= self.second)) | ~self.is_flat
        z = torch.where(self.is_flat, 0.0, (at - self.first) / self.second)
        latents = self.latents(theta)
        possible = inside.all(-1) & self.prior.accepts(self.prior.curve(self.grid, latents))
        noise = latents["noise"].unsqueeze(-1)
        residual = (self.values - self.prior.curve(self.steps, latents)) / noise
        log_likelihood = -0.5 * residual.square().sum(-1) - len(self.steps) * noise[:, 0].log()
        density = log_likelihood - 0.5 * z.square().sum(-1)
        return torch.where(possible & ~density.isnan(), density, -torch.inf).numpy()

    def start(self, seed: int) -> Numbers:
        """Walkers in a small ball about a fit, all of them possible."""
        drawn = self.prior.sample(2000, 1, 1, seed=seed).latents
        assert drawn is not None
        columns = torch.stack([drawn[name].double() for name in self.sites], -1)
        candidates = torch.where(self.is_log, columns.clamp_min(1e-30).log(), columns).numpy()
        best = candidates[self.log_density(candidates).argmax()]
        fit = minimize(
            lambda theta: min(-self.log_density(theta[None])[0], 1e12),
            best,
            method="Nelder-Mead",
            options={"maxfev": 2000},
        )
        random = np.random.default_rng(seed)
        walkers = fit.x + 1e-3 * random.standard_normal((20 * N_WALKERS, len(best)))
        walkers = walkers[np.isfinite(self.log_density(walkers))]
        while len(walkers) < N_WALKERS:  # the fit lies on the edge of what is possible
            more = fit.x + 1e-5 * random.standard_normal((20 * N_WALKERS, len(best)))
            walkers = np.concatenate((walkers, more[np.isfinite(self.log_density(more))]))
            if not len(walkers):
                walkers = candidates[np.isfinite(self.log_density(candidates))]
        return walkers[:N_WALKERS]

    def draws(self, seed: int, *, vectorised: bool, thin: int = 50) -> dict[str, Tensor]:
        """Latents from the chains after burn-in.

        Args:
            seed: of the start and the chains.
            vectorised: whether all walkers are evaluated at once, which the published baseline
                did not do.
            thin: of so many steps one is kept.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = self.start(seed)
            density = self.log_density if vectorised else lambda row: self.log_density(row[None])[0]
            sampler = emcee.EnsembleSampler(
                N_WALKERS, start.shape[1], density, vectorize=vectorised
            )
            np.random.seed(seed)
            sampler.run_mcmc(start, N_STEPS, skip_initial_state_check=True)
        return self.latents(sampler.get_chain(discard=N_BURN_IN, thin=thin, flat=True))


def log_likelihood(
    prior: LearningCurvePrior, latents: Mapping[str, Tensor], steps: Numbers, values: Numbers
) -> Numbers:
    """Log density of each later value, averaged over posterior draws, ``(m,)``."""
    draws = {name: value.double() for name, value in latents.items()}
    mean = prior.curve(torch.as_tensor(steps), draws)
    normal = torch.distributions.Normal(mean, draws["noise"].unsqueeze(-1), validate_args=False)
    each = normal.log_prob(torch.as_tensor(values))
    return (each.logsumexp(0) - math.log(len(each))).numpy()


def end_quantiles(
    prior: LearningCurvePrior, latents: Mapping[str, Tensor], step: float, q: Numbers, seed: int
) -> Numbers:
    """Quantiles of the value at a step, from posterior draws."""
    draws = {name: value.double() for name, value in latents.items()}
    mean = prior.curve(torch.tensor([step], dtype=torch.float64), draws)[:, 0].numpy()
    noise = draws["noise"].numpy() * np.random.default_rng(seed).standard_normal(len(mean))
    return np.quantile(mean + noise, q)


def power_law(steps: Numbers, values: Numbers, asked: Numbers) -> Numbers:
    r"""A least-squares fit of :math:`c - a t^{-\alpha}`; the last value where none is found."""
    if len(values) < 3:
        return np.full(len(asked), values[-1])

    def law(t: Numbers, c: float, a: float, alpha: float) -> Numbers:
        return c - a * t**-alpha

    guess = (min(values[-1] + 0.05, 1.0), max(values[-1] - values[0], 0.01), 0.5)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, _ = curve_fit(
                law, steps, values, p0=guess, bounds=([0, -2, 0.01], [1.2, 2, 5]), max_nfev=2000
            )
    except (RuntimeError, ValueError):
        return np.full(len(asked), values[-1])
    return law(asked, *found)
