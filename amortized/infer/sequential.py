r"""Sequential updates of any program: the next mixture of a stream, and updates that keep the rows.

The mixture of the earlier rows `adapt`s to the density of the next posterior, with that of a
network beside it where there is one; where neither is near, a mixture is fitted to the particles of
tempered SMC. Draws of it are weighted by the density, and moved where the weights are poor (see
`amortized.infer.cascade`), so that they are draws of the exact posterior.

With the rows kept, the density is that of all rows under the prior that the stream began with, and
errors of one update are gone with the next. This is iterated batch importance sampling, with a
mixture in place of the particles.

References:
    A sequential particle filter method for static models (Chopin, 2002)
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer.cascade import cascade, log_density
from amortized.infer.inputs.problem import Data, Problem, make_problem
from amortized.infer.programs import exactly, posterior_from_draws
from amortized.latent_priors.conversion import mixture_over_u
from amortized.latent_priors.fitting import fit_draws, stacked
from amortized.latent_priors.reduction import merge, split_components
from amortized.one_at_a_time import gradients
from amortized.posterior import Posterior
from amortized.program.density import ProgramDensity
from amortized.program.observations.missing import may_miss
from amortized.program.observations.possible import check_possible
from amortized.program.vectorised import precision
from amortized.sampling.checks.verdict import warn_of_doubt
from amortized.sampling.smc import smc
from amortized.sampling.start import FromMixture
from amortized.sampling.steps.adaptation import adapt
from amortized.seeding import seeded

N_COMPONENTS = 12  # of a mixture that adapts
_SMALL = 0.01  # divergence, in nats, that needs no correction
_N_TAIL = 10_000  # draws that the thousandth of a mixture's mass is found from
_N_EM = 50  # EM steps of a fit that adapts to the density afterwards
_N_JUDGED = 1000  # draws of each mixture that it is judged by


@dataclass(frozen=True)
class Origin:
    """What a posterior was computed from, all rows being kept.

    Attributes:
        problem: the program, its prior at the beginning, and all rows so far.
        model: as given to `infer`.
        latent_prior: as given to `infer`.
        options: options of the method; None after an update, which has none.
    """

    problem: Problem
    model: Any
    latent_prior: Any
    options: dict[str, Any] | None = None

    def update(
        self, posterior: Posterior, x: Data, y: Data | None, n_draws: int, seed: int
    ) -> Posterior:
        """The posterior of the earlier rows and the new ones; see `Posterior.update`."""
        with precision(torch.float32), gradients(), seeded(seed):
            began = time.perf_counter()
            problem = self._extended(x, y)
            try:
                updated = exactly(problem, n_draws)
            except ValueError:  # no closed form; what is wrong with the data is wrong again below
                updated = _updated(problem, posterior, n_draws)
        updated.diagnostics["seconds"] = time.perf_counter() - began
        updated.origin = Origin(problem, self.model, self.latent_prior)
        warn_of_doubt(updated.diagnostics.get("doubt"))
        return updated

    def _extended(self, x: Data, y: Data | None) -> Problem:
        """The problem of all rows."""
        old = self.problem
        new = make_problem(old.model, x, y, None)
        same = new.x.shape[-1:] == old.x.shape[-1:] and new.y.shape[2:] == old.y.shape[2:]
        if new.batch_shape != old.batch_shape or not same:
            raise ValueError(
                "Expected further rows of the same datasets, x of shape "
                f"{(*old.batch_shape, 'n', *old.x.shape[2:])} and y of shape "
                f"{(*old.batch_shape, 'n', *old.y.shape[2:])}; got rows of shape "
                f"{tuple(new.x.shape[2:])} and {tuple(new.y.shape[2:])} in a batch of shape "
                f"{tuple(new.batch_shape)}."
            )
        rows = torch.cat((old.x, new.x.to(old.x)), 1), torch.cat((old.y, new.y.to(old.y)), 1)
        if may_miss(new.model):
            old = replace(old, model=new.model, source=new.source)
        return replace(old, x=rows[0], y=rows[1])


def _updated(problem: Problem, posterior: Posterior, n_draws: int) -> Posterior:
    """The answer to all rows, from that to the earlier ones."""
    density = problem.density()
    earlier = mixture_over_u(posterior, density)
    if earlier.dim != density.dim:
        raise ValueError(
            "Expected a program whose latents stay the same when rows are added; with all rows it "
            f"has {density.dim} unconstrained numbers instead of {earlier.dim}. Latents of single "
            "rows cannot be updated: infer again from all rows."
        )
    mixture, divergence = next_mixture(density, earlier)
    return exact_draws(problem, density, mixture, divergence, n_draws)


def exact_draws(
    problem: Problem,
    density: ProgramDensity,
    mixture: GaussianMixture,
    divergence: Float[Tensor, " batch"],
    n_draws: int,
) -> Posterior:
    """Draws of a mixture, weighted by the exact density or moved, as a posterior with both."""
    draws, stages = cascade(density, FromMixture(mixture), n_draws)
    updated = posterior_from_draws(problem, density, draws, "update", mixture)
    many = bool(problem.batch_shape)
    updated.diagnostics["stage"] = stages if many else stages[0]
    updated.diagnostics["divergence"] = divergence.reshape(problem.batch_shape)
    return updated


def next_mixture(
    density: ProgramDensity, earlier: GaussianMixture, other: GaussianMixture | None = None
) -> tuple[GaussianMixture, Float[Tensor, " batch"]]:
    """A mixture for the density of each dataset, and its divergence from it in nats.

    Args:
        density: density of the next posterior.
        earlier: the mixture before the new rows.
        other: a network's answer, where there is one.
    """
    check_possible(density)
    n = density.n_datasets
    prior = earlier.to(torch.float64).expand((n,))
    prior = split_components(merge(prior, N_COMPONENTS), N_COMPONENTS)
    starts = [prior] if other is None else [prior, other]
    candidates = [adapt(mixture, log_density(density)) for mixture in starts]
    found = divergences(density, candidates)
    # The adapted earlier mixture keeps what has little mass now and may be the truth later.
    bar = found[-1].clamp(min=_SMALL)
    is_first = found[0] <= bar
    chosen = [candidates[0 if first else -1][i] for i, first in enumerate(is_first.tolist())]
    divergence = torch.where(is_first, found[0], found[-1])
    wrong = (divergence > _SMALL).nonzero()[:, 0]
    if len(wrong):
        some, rough = density.take(wrong), stacked([chosen[i] for i in wrong])
        fitted = _fitted(some, rough)
        before, after = divergences(some, [rough, fitted])
        for number, i in enumerate(wrong):
            if after[number] < before[number]:
                chosen[i], divergence[i] = fitted[number], after[number]
    return stacked(chosen), divergence


def divergences(
    density: ProgramDensity, candidates: Sequence[GaussianMixture]
) -> Float[Tensor, "candidates batch"]:
    r"""The divergence :math:`KL(p | q)` of each mixture q from the posterior p, in nats.

    Estimated from draws of all of them, so that a mixture is judged also where only another one
    has mass.
    """
    starts = [FromMixture(mixture) for mixture in candidates]
    with torch.no_grad():
        u = torch.cat([start.sample(_N_JUDGED) for start in starts], 1)
        log_p = log_density(density)(u).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        log_q = torch.stack([start.log_prob(u) for start in starts])
    log_ratio = log_p - log_q.logsumexp(0) + math.log(len(starts))
    log_evidence = log_ratio.logsumexp(-1) - math.log(u.shape[1])
    weights = log_ratio.softmax(-1)
    surprise = torch.where(weights > 0, weights * (log_p - log_q), 0.0).sum(-1)
    return (surprise - log_evidence).nan_to_num(torch.inf)


def share_in_tail(mixture: GaussianMixture, earlier: GaussianMixture) -> Float[Tensor, " batch"]:
    """The share of a mixture that lies where the earlier one has a thousandth of its mass.

    There a mixture fitted to an earlier posterior is an extrapolation of its components' tails.
    """
    old = FromMixture(earlier.to(torch.float64).expand(mixture.batch_shape))
    with torch.no_grad():
        usual = old.log_prob(old.sample(_N_TAIL)).quantile(0.001, -1, keepdim=True)
        return (old.log_prob(FromMixture(mixture).sample(_N_JUDGED)) < usual).double().mean(-1)


def _fitted(density: ProgramDensity, start: GaussianMixture) -> GaussianMixture:
    """Mixtures fitted to particles of each dataset, adapted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what comes of it is judged
        draws = smc(density, 2000, start=FromMixture(start))
    mixtures = stacked([fit_draws(u, N_COMPONENTS, n_steps=_N_EM) for u in draws.u])
    return adapt(mixtures, log_density(density))
