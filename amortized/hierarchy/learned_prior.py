"""A prior of latents learned from many related tasks, for the next one."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.hierarchy.gibbs import N_CHAINS, PopulationDraws, sample_population
from amortized.hierarchy.population import Population, PopulationPrior
from amortized.infer.inputs.problem import Problem, make_problem
from amortized.latent_priors.reduction import merge
from amortized.one_at_a_time import gradients
from amortized.posterior import Posterior
from amortized.priors.prior import Prior
from amortized.program.density import ProgramDensity
from amortized.program.observations.possible import check_possible
from amortized.program.vectorised import Program, precision
from amortized.sampling.checks.precision import precision as precision_of_draws
from amortized.sampling.checks.verdict import LIMITS
from amortized.seeding import seeded
from amortized.validation import whole_number

_N_MERGED = 64  # draws of the population that the mixture is made of
_N_PRIOR = 4096  # draws of the program's own prior that the hyperprior is made of


@dataclass(frozen=True)
class LearnedPrior:
    """The latents' prior for a new task of a population, given the tasks seen; a `latent_prior`.

    Attributes:
        mixture: mixture of the latents of a new task, in unconstrained space.
        population: draws of the population's ``mean`` ``(n, dim)`` and ``covariance``
            ``(n, dim, dim)`` there, with the diagnostics of the chains.
        tasks: latents of the tasks seen, each given the data of all, in their own units.
        new_task: draws of a new task's latents, in their own units.
    """

    mixture: GaussianMixture
    population: Posterior
    tasks: Posterior
    new_task: Posterior

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: one prior, whatever it is used for."""
        return torch.Size()

    def weighted_draws(self) -> tuple[dict[str, Tensor], Tensor]:
        """Draws of a new task's latents, and their log weights, which are equal."""
        return self.new_task.weighted_draws()


def learn_latent_prior(
    model: Program | Prior,
    tasks: Sequence[tuple[Any, Any]],
    *,
    n_components: int = 1,
    n_draws: int = 1000,
    thin: int = 8,
    seed: int = 0,
) -> LearnedPrior:
    r"""Learns the distribution of a program's latents over tasks, for use as a ``latent_prior``.

    The latents u of a task, in unconstrained space, are taken to be a draw of a normal (or of a
    mixture of normals) that all tasks have in common. Its mean and covariance are unknown; their
    hyperprior is as wide as the program's own prior, so that the program says what latents are
    possible at all and the tasks what latents are usual. All are drawn together by Markov chain
    Monte Carlo on the exact likelihood; see `amortized.hierarchy.gibbs`.

    Args:
        model: a program of one task, as for `amortized.infer.infer`.
        tasks: ``(x, y)`` of each task, x ``(n, n_features)`` and y ``(n, *event)``, where n may
            differ from task to task; x is None for a program without inputs.
        n_components: normals in the distribution of the latents; more than one for tasks of
            several kinds.
        n_draws: draws of the population, over 8 chains.
        thin: sweeps for each draw of a chain. More help where the chains disagree.
        seed: equal seeds give equal draws.

    Raises:
        ValueError: if there are fewer than two tasks, or the program has discrete latents, latents
            whose number depends on the rows, or no density.

    Warns:
        UserWarning: if the chains disagree.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from amortized import infer
        >>> def height(x, y=None):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)
        >>> towns = [(None, [4.1, 5.9, 4.8]), (None, [5.0, 5.4]), (None, [6.2, 4.7])] * 4
        >>> learned = learn_latent_prior(height, towns, n_draws=320, thin=2)
        >>> bool(infer(height, [9.0], latent_prior=learned).mean["mean"] < 8.0)  # shrunk
        True
    """
    if len(tasks) < 2:
        raise ValueError(f"Expected at least two tasks; got {len(tasks)}.")
    n_draws = whole_number("n_draws", n_draws, 40 * N_CHAINS)
    thin = whole_number("thin", thin)
    n_components = whole_number("n_components", n_components)
    if n_draws % N_CHAINS:
        raise ValueError(f"Expected n_draws to be a multiple of {N_CHAINS}; got {n_draws}.")
    began = time.perf_counter()
    with precision(torch.float32), gradients(), seeded(seed):
        order, densities = _densities(model, tasks)
        prior = PopulationPrior.of_draws(
            densities[0].take(torch.tensor([0])).sample_prior(_N_PRIOR)[0]
        )
        draws = sample_population(
            densities, prior, n_components=n_components, n_draws=n_draws, thin=thin
        )
        learned = _learned(densities, order, draws)
    learned.population.diagnostics["seconds"] = time.perf_counter() - began
    _warn(learned.population.diagnostics)
    return learned


def _densities(
    model: Program | Prior, tasks: Sequence[tuple[Any, Any]]
) -> tuple[Tensor, list[ProgramDensity]]:
    """One density for each number of rows, and the task that each of their datasets is."""
    problems = [_problem(model, *task) for task in tasks]
    groups: dict[Any, list[int]] = {}
    for i, problem in enumerate(problems):
        groups.setdefault((problem.x.shape, problem.y.shape, problem.y.dtype), []).append(i)
    order = torch.tensor([i for group in groups.values() for i in group])
    densities = []
    for group in groups.values():
        x, y = (torch.cat([getattr(problems[i], name) for i in group]) for name in "xy")
        incomplete = [i for i in group if bool(problems[i].y.isnan().any())]
        densities.append(ProgramDensity(problems[(incomplete or group)[0]].program, x, y))
        check_possible(densities[-1])
    layouts = {tuple((k, v[1]) for k, v in density.layout.items()) for density in densities}
    if len(layouts) > 1 or any(density.discrete for density in densities):
        raise ValueError(
            "Expected a program whose latents are continuous and the same whatever the number of "
            f"rows; got {[list(density.layout) for density in densities[:2]]}, and discrete ones "
            f"{[sorted(d.discrete.names) for d in densities[:1] if d.discrete]}. Sum latents of "
            "rows out, or give the program those of a task only."
        )
    return order, densities


def _problem(model: Program | Prior, x: Any, y: Any) -> Problem:
    """One task, in double precision."""
    problem = make_problem(model, y, None, None) if x is None else make_problem(model, x, y, None)
    if problem.batch_shape:
        raise ValueError(
            "Expected each task to be one dataset (x, y); got a batch of shape "
            f"{tuple(problem.batch_shape)}. Give a list of its datasets."
        )
    return problem


def _learned(
    densities: Sequence[ProgramDensity], order: Tensor, draws: PopulationDraws
) -> LearnedPrior:
    """The draws in the units of the user."""
    population = draws.population
    mean, covariance = population.moments()
    n = len(mean)
    found = _diagnostics(mean, covariance) | {"accepted": draws.accepted[order.argsort()]}
    new = population.mixture().sample()
    one = densities[0].take(torch.tensor([0]))
    of_new = {name: value[0] for name, value in one.constrain(new.unsqueeze(0)).items()}
    parts = [
        density.constrain(u)
        for density, u in zip(
            densities, draws.u.split([density.n_datasets for density in densities]), strict=True
        )
    ]
    place = order.argsort()
    of_tasks = {
        name: torch.cat([part[name] for part in parts])[place].movedim(1, 0) for name in parts[0]
    }
    return LearnedPrior(
        _mixture(population, n),
        _posterior({"mean": mean, "covariance": covariance}, found),
        _posterior(of_tasks, {}, (len(order),)),
        _posterior(of_new, {}),
    )


def _posterior(
    draws: dict[str, Tensor], found: dict[str, Any], batch_shape: tuple[int, ...] = ()
) -> Posterior:
    return Posterior(
        draws, n_chains=N_CHAINS, diagnostics={"method": "gibbs"} | found, batch_shape=batch_shape
    )


def _mixture(population: Population, n: int) -> GaussianMixture:
    """The posterior predictive of a new task's latents, reduced to a few components."""
    some = Population(*(field[:: max(1, n // _N_MERGED)] for field in population)).mixture()
    weights, means, factors = some.log_weights, some.means, some.scale_tril
    whole = GaussianMixture(
        weights.flatten(), means.flatten(0, 1), factors.flatten(0, 1), validate_args=False
    )
    return merge(whole, 4 + means.shape[1])


def _diagnostics(mean: Tensor, covariance: Tensor) -> dict[str, Any]:
    """The worst R-hat and effective sample size of means and log variances."""
    log_variance = covariance.diagonal(dim1=-1, dim2=-2).log()
    values = torch.cat([mean, log_variance], -1).unsqueeze(0)
    of = precision_of_draws(values, n_chains=N_CHAINS)
    return {"r_hat": of.r_hat.max().item(), "ess": of.ess_bulk.min().item()}


def _warn(diagnostics: dict[str, Any]) -> None:
    """Warns if chains disagree."""
    limit = LIMITS["r_hat"].value
    if not diagnostics["r_hat"] <= limit:
        warnings.warn(
            f"The chains disagree about the population: R-hat is {diagnostics['r_hat']:.3g}, its "
            f"limit {limit:g}. Its mean and covariance are in doubt; the learned prior is often "
            "good enough nevertheless. Raise thin.",
            UserWarning,
            stacklevel=3,
        )
