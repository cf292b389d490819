r"""Draws of a population and of every task's latents given the data of all tasks.

Each sweep moves the latents of all tasks, then the population. Near its mode the likelihood of task
t is about normal, :math:`\tilde L_t(u) = \exp(h_t^\top u - u^\top P_t u / 2)`, so given the
population its latents are about normal too, with precision :math:`\Sigma^{-1} + P_t`. They move by

1. an independent draw of that normal, accepted by the ratio of :math:`L_t / \tilde L_t`, which is
   exact where the likelihood is normal; and
2. an elliptical slice step, with that normal as the prior and :math:`L_t / \tilde L_t` as the
   likelihood, which also moves where the approximation is poor.

Given the latents the population is conjugate. Where few tasks or small standard deviations make
this alternation slow, two moves take population and latents together along one coordinate: a shift
of all means and latents, and a stretch of the latents about their means. All of these leave the
exact posterior invariant, whatever the approximation.

References:
    Murray, Adams and MacKay, Elliptical slice sampling (2010), arXiv 1001.0175.
    Nishihara, Murray and Adams, Parallel MCMC with generalized elliptical slice sampling (2014),
    arXiv 1210.7477. Liu and Sabatti, Generalised Gibbs sampler and multigrid Monte Carlo (2000).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.hierarchy.population import Population, PopulationPrior, normal_draw
from amortized.latent_priors.fitting import stacked
from amortized.latent_priors.replaced_density import LatentPriorDensity
from amortized.program.density import ProgramDensity
from amortized.sampling.laplace import fit_modes

N_CHAINS = 8  # which begin apart
_SLICE_EVERY = 4  # sweeps
_N_SHRINK = 6  # an elliptical slice that is not met by then stays where it was
_TASKS_AT_ONCE = 256
_ACCEPT = 0.44  # of a move along one coordinate


class PopulationDraws(NamedTuple):
    """Draws of the population and the latents, chain by chain.

    Attributes:
        population: one draw for each of ``chains * n``, chain after chain.
        u: latents of every task.
        accepted: share of the independent draws that were accepted, by task.
    """

    population: Population
    u: Float[Tensor, "tasks draws dim"]
    accepted: Float[Tensor, " tasks"]


class Likelihoods:
    """The likelihoods of tasks with different numbers of rows.

    Args:
        densities: one for each number of rows.
        trace: whether programs are traced, which saves most of the time of a small one.
    """

    def __init__(self, densities: Sequence[ProgramDensity], *, trace: bool) -> None:
        self.densities, self.trace = densities, trace
        self.sizes = [density.n_datasets for density in densities]
        self._functions: dict[torch.Size, list[Callable[[Tensor], Tensor]]] = {}

    def __call__(self, u: Float[Tensor, "tasks chains dim"]) -> Float[Tensor, "tasks chains"]:
        """Log likelihoods; -inf where the program fails to give a number."""
        parts = u.split(self.sizes)
        if u.shape not in self._functions:
            self._functions[u.shape] = [
                _traced(density, part) if self.trace else density.log_likelihood
                for density, part in zip(self.densities, parts, strict=True)
            ]
        functions = zip(self._functions[u.shape], parts, strict=True)
        found = torch.cat([function(part) for function, part in functions])
        return found.nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    def is_right(self, u: Float[Tensor, "tasks chains dim"]) -> bool:
        """Whether the traced functions are the likelihoods, also here."""
        plain = Likelihoods(self.densities, trace=False)
        return torch.allclose(self(u), plain(u), rtol=1e-6, atol=1e-6)

    def modes(self, prior: GaussianMixture) -> GaussianMixture:
        """The normal at the highest mode of each task under a normal prior."""
        found = []
        for density in self.densities:
            own = LatentPriorDensity(density, prior)
            for index in torch.arange(own.n_datasets).split(_TASKS_AT_ONCE):
                fit = fit_modes(
                    own.take(index), n_modes=2, n_steps=30, tolerance=1e-6, inflation=1.0
                )
                best = fit.log_weights.argmax(-1)
                rows = torch.arange(len(best))
                found += [
                    GaussianMixture(mean.new_zeros(1), mean[None], factor[None], False)
                    for mean, factor in zip(
                        fit.means[rows, best], fit.scale_tril[rows, best], strict=True
                    )
                ]
        return stacked(found)


class Local(NamedTuple):
    """The normal approximation of every task's likelihood.

    Attributes:
        precision: P.
        shift: h.
    """

    precision: Float[Tensor, "tasks 1 dim dim"]
    shift: Float[Tensor, "tasks 1 dim"]

    @classmethod
    def at_modes(cls, modes: GaussianMixture, prior: GaussianMixture) -> "Local":
        """That whose product with a normal prior has these modes, and their curvature."""
        mean, factor = modes.means[:, 0], modes.scale_tril[:, 0]
        of_prior = torch.cholesky_inverse(prior.scale_tril[0])
        values, vectors = torch.linalg.eigh(torch.cholesky_inverse(factor) - of_prior)
        precision = vectors @ torch.diag_embed(values.clamp_min(0.0)) @ vectors.mT
        # At the mode, the slope of the log likelihood is minus that of the log prior.
        shift = precision @ mean.unsqueeze(-1) + of_prior @ (mean - prior.means[0]).unsqueeze(-1)
        return cls(precision.unsqueeze(1), shift.squeeze(-1).unsqueeze(1))

    def log_likelihood(self, u: Float[Tensor, "tasks chains dim"]) -> Tensor:
        """Its logarithm up to a constant."""
        bend = (self.precision @ u.unsqueeze(-1)).squeeze(-1)
        return ((self.shift - bend / 2) * u).sum(-1)


@dataclass
class Chains:
    """The state of all chains.

    Attributes:
        likelihoods: likelihoods of the tasks.
        local: their normal approximations.
        prior: prior of the population.
        population: its present state.
        u: present latents.
        component: component of the population that each task belongs to.
        log_likelihood: log likelihood of the present latents.
        steps: log sizes of the moves along each coordinate: shifts, stretches.
    """

    likelihoods: Likelihoods
    local: Local
    prior: PopulationPrior
    population: Population
    u: Float[Tensor, "tasks chains dim"]
    component: Int[Tensor, "tasks chains"]
    log_likelihood: Float[Tensor, "tasks chains"]
    steps: Float[Tensor, "2 chains dim"]

    def sweep(self, number: int, gain: float) -> Float[Tensor, "tasks chains"]:
        """Moves everything once; the steps adapt by the gain. Which tasks accepted a draw."""
        accepted = self._move_tasks(also_slice=number % _SLICE_EVERY == 0)
        self._choose_components()
        self.population = self.prior.updated(self.population, self.u, self.component)
        j = number % self.u.shape[-1]
        self._move_together(j, gain, stretch=False)
        self._move_together(j, gain, stretch=True)
        self.population = self.population._replace(
            scales=self.prior.draw_scales(self.population.covariances)
        )
        return accepted

    def _conditional(self) -> tuple[Tensor, Tensor]:
        """Precision, and precision times mean, of the approximate posterior of each task."""
        chains = torch.arange(self.u.shape[1])
        precision = torch.linalg.inv(self.population.covariances)
        shift = torch.einsum("ckij,ckj->cki", precision, self.population.means)
        at = chains, self.component
        return precision[at] + self.local.precision, shift[at] + self.local.shift

    def _move_tasks(self, also_slice: bool) -> Float[Tensor, "tasks chains"]:
        """An independent draw of every task's latents, then perhaps an elliptical slice step."""
        precision, shift = self._conditional()
        residual = self.log_likelihood - self.local.log_likelihood(self.u)
        proposed = normal_draw(precision, shift)
        log_likelihood, other = self._residual(proposed)
        accepted = torch.rand_like(other).log() < other - residual
        self._take(accepted, proposed, log_likelihood)
        residual = torch.where(accepted, other, residual)
        if also_slice:
            mean = torch.linalg.solve(precision, shift)
            self._slice(mean, normal_draw(precision, torch.zeros_like(shift)), residual)
        return accepted.to(self.u.dtype)

    def _slice(self, mean: Tensor, noise: Tensor, residual: Tensor) -> None:
        level = residual + torch.rand_like(residual).log()
        angle = 2 * math.pi * torch.rand_like(residual)
        low, high = angle - 2 * math.pi, angle
        away, waiting = self.u - mean, torch.ones_like(residual, dtype=torch.bool)
        for _ in range(_N_SHRINK):
            turn = angle.unsqueeze(-1)
            proposed = mean + away * turn.cos() + noise * turn.sin()
            log_likelihood, other = self._residual(proposed)
            met = waiting & (other > level)
            self._take(met, proposed, log_likelihood)
            waiting = waiting & ~met
            if not bool(waiting.any()):
                return
            low, high = torch.where(angle < 0, angle, low), torch.where(angle < 0, high, angle)
            angle = low + (high - low) * torch.rand_like(angle)

    def _residual(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The log likelihood, and how far it is above its normal approximation."""
        log_likelihood = self.likelihoods(u)
        return log_likelihood, log_likelihood - self.local.log_likelihood(u)

    def _take(self, chosen: Tensor, u: Tensor, log_likelihood: Tensor) -> None:
        self.u = torch.where(chosen.unsqueeze(-1), u, self.u)
        self.log_likelihood = torch.where(chosen, log_likelihood, self.log_likelihood)

    def _choose_components(self) -> None:
        if self.population.means.shape[1] > 1:
            mixture = self.population.mixture()
            logits = mixture.log_weights + mixture.component_log_prob(self.u)
            self.component = torch.distributions.Categorical(logits=logits).sample()

    def _move_together(self, j: int, gain: float, *, stretch: bool) -> None:
        """Shifts or stretches the latents of all tasks along a coordinate, with the population."""
        size = self.steps[int(stretch), :, j].exp()
        step = size * torch.randn_like(size) * torch.randn_like(size).exp()  # short and long ones
        chains, u, population = torch.arange(len(step)), self.u.clone(), self.population
        if stretch:
            centre = population.means[chains, self.component, j]
            u[..., j] = centre + step.exp() * (u[..., j] - centre)
            covariances = population.covariances.clone()
            covariances[..., j, :] *= step.exp()[:, None, None]
            covariances[..., j] *= step.exp()[:, None, None]
            moved = population._replace(covariances=covariances)
            log_ratio = self.prior.log_ratio_of_scaling(population, j, step)
        else:
            u[..., j] += step
            means = population.means.clone()
            means[..., j] += step.unsqueeze(-1)
            moved = population._replace(means=means)
            of_prior = self.prior.log_density_of_means
            log_ratio = of_prior(means) - of_prior(population.means)
        log_likelihood = self.likelihoods(u)
        log_ratio = log_ratio + (log_likelihood - self.log_likelihood).sum(0)
        accepted = torch.rand_like(log_ratio).log() < log_ratio
        self._take(accepted, u, log_likelihood)
        self.population = Population(
            *(
                torch.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(moved, population, strict=True)
            )
        )
        self.steps[int(stretch), :, j] += gain * (accepted.to(size.dtype) - _ACCEPT)


def _traced(density: ProgramDensity, u: Tensor) -> Callable[[Tensor], Tensor]:
    """The log likelihood as a graph of tensor operations, if it has one that is right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = make_fx(density.log_likelihood)(u)
            other = u.roll(1, 1) * 0.9 + 0.1
            same = torch.allclose(
                graph(other), density.log_likelihood(other), rtol=1e-6, equal_nan=True
            )
        except Exception:  # a program that cannot be traced runs untraced
            return density.log_likelihood
    return graph if same else density.log_likelihood


def sample_population(
    densities: Sequence[ProgramDensity],
    prior: PopulationPrior,
    *,
    n_components: int = 1,
    n_draws: int = 1000,
    thin: int = 8,
) -> PopulationDraws:
    """Runs chains and keeps what they drew after the warm-up.

    Args:
        densities: the tasks, in groups of equal numbers of rows.
        prior: prior of the population.
        n_components: K.
        n_draws: in all chains together; a multiple of ``N_CHAINS``.
        thin: sweeps for each draw that is kept. Half as many come before them, in which the steps
            adapt and the normal approximations are fitted again to the population found by then.
    """
    kept: list[tuple[Population, Tensor]] = []
    n = n_draws // N_CHAINS * thin
    n_warmup = max(60, n // 2)
    with torch.no_grad():
        for trace in (True, False):
            chains = _begin(Likelihoods(densities, trace=trace), prior, n_components)
            for i in range(n_warmup):
                chains.sweep(i, gain=(i + 1) ** -0.6)
                if i in (n_warmup // 4, n_warmup // 2):
                    _fit_again(chains)
            kept = []
            accepted = torch.zeros_like(chains.log_likelihood)
            for i in range(n):
                accepted += chains.sweep(i, gain=0.0)
                if i % thin == thin - 1:
                    kept.append((chains.population, chains.u))
            if not trace or chains.likelihoods.is_right(chains.u):
                break
    fields = zip(*(population for population, _ in kept), strict=True)
    population = Population(*(torch.stack(field, 1).flatten(0, 1) for field in fields))
    u = torch.stack([u for _, u in kept], 2).flatten(1, 2)
    return PopulationDraws(population, u, accepted.mean(1) / n)


def _begin(likelihoods: Likelihoods, prior: PopulationPrior, n_components: int) -> Chains:
    """Chains whose populations have different widths, with tasks for their means."""
    normal = prior.normal()
    modes = likelihoods.modes(normal)
    mean, dim = modes.means[:, 0], len(prior.mean)
    chosen = torch.randint(len(mean), (N_CHAINS, n_components))
    covariances = 0.5 ** torch.arange(N_CHAINS).to(mean)[:, None, None, None] * torch.diag(
        prior.sd.square()
    ).expand(N_CHAINS, n_components, dim, dim)
    like = mean.new_zeros(N_CHAINS, n_components)
    population = Population(
        like - math.log(n_components), mean[chosen], covariances, torch.ones_like(mean[chosen])
    )
    u = mean.unsqueeze(1).expand(-1, N_CHAINS, -1).clone()
    component = torch.randint(n_components, u.shape[:2])
    steps = torch.zeros(2, N_CHAINS, dim, dtype=u.dtype) - 1.0
    steps[0] += prior.sd.log()
    return Chains(
        likelihoods,
        Local.at_modes(modes, normal),
        prior,
        population,
        u,
        component,
        likelihoods(u),
        steps,
    )


def _fit_again(chains: Chains) -> None:
    """Fits the normal approximations under the population of all chains."""
    mean, covariance = chains.population.moments()
    away = (mean - mean.mean(0)).unsqueeze(-1)
    whole = covariance.mean(0) + (away @ away.mT).mean(0)
    normal = GaussianMixture.from_moments(mean.mean(0), whole)
    chains.local = Local.at_modes(chains.likelihoods.modes(normal), normal)
