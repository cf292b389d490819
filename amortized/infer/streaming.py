r"""Streams: yesterday's posterior is today's prior.

Rows that speak of the same latents `update` a posterior, which is checked against the exact density
each time; `drift` says how far it is from the posterior of all rows at once.

For a state that moves, :math:`x_{t+1} \sim N(A x_t + b, Q)` takes a mixture to a mixture exactly;
between two such predictions a network updates the mixture by what was seen, in one pass. The
network reads at most K components and joins any more by moments, so the mixture does not grow.
"""

import time
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer.amortised import (
    Answer,
    Network,
    find_network,
    in_one_pass,
    mixture_answer,
    network_answer,
    one_pass,
    prior_mixture,
)
from amortized.infer.inputs.problem import Data, Problem, make_problem
from amortized.infer.sequential import N_COMPONENTS, exact_draws, next_mixture, share_in_tail
from amortized.latent_priors.fitting import stacked
from amortized.one_at_a_time import gradients
from amortized.posterior import Posterior
from amortized.priors.prior import Prior
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.program.vectorised import Program, precision
from amortized.sampling.checks.verdict import warn_of_doubt
from amortized.seeding import seeded


def update(
    model: Program | Prior,
    posterior: Any,
    x: Data,
    y: Data,
    *,
    n_draws: int = 1000,
    network: Network | None = None,
    seed: int = 0,
) -> Posterior:
    """The posterior after further rows, from the posterior before them.

    For any program with a density. To be right after many updates, each must be nearly exact. So
    the posterior before the rows, as a mixture, and the answer of a network where there is one,
    `adapt` to the exact density. The former is taken where it diverges little from the exact
    posterior, otherwise the better one; where neither is good, a mixture fitted to the particles
    of tempered SMC. For a simulator, which has no density, it is the network's answer unchecked.

    The rows must be independent given the latents, and earlier rows are not needed again. Where
    they can be kept, `amortized.posterior.Posterior.update` is exact at every step.

    Args:
        model: as for `amortized.infer.infer`.
        posterior: given the earlier rows, or any `latent_prior`; read as the prior of the new ones.
        x: inputs of the new rows, ``(*batch, n, n_features)``.
        y: their observations, ``(*batch, n)``.
        n_draws: draws of the answer.
        network: as for method "dt"; a program that no network is for needs none.
        seed: equal seeds give equal draws.

    Returns:
        a posterior whose ``mixture`` is the next update's prior. Without a network, its draws are
        weighted by the exact density, and ``log_evidence`` is that of the new rows given the
        earlier ones. In its diagnostics, ``divergence`` is that of the mixture from the exact
        posterior of this update, in nats; ``total_divergence`` the sum over all updates so far; and
        ``share_in_tail`` the share of the posterior that lies outside of 99.9% of the mixture
        before the rows.

    Raises:
        ValueError: if the program has no density and no network.

    Warns:
        UserWarning: if the new rows contradict the earlier ones, or the draws are in doubt.
    """
    with precision(torch.float32), gradients(), seeded(seed):
        began = time.perf_counter()
        problem = make_problem(model, x, y, posterior)
        answer = _network_answer(problem, network)
        if answer is None:
            updated = _by_density(problem, n_draws)
        else:
            updated = _by_network(problem, answer, n_draws)
        share = _share_in_tail(problem, updated)
    updated.diagnostics["seconds"] = time.perf_counter() - began
    if "divergence" in updated.diagnostics:
        earlier = getattr(posterior, "diagnostics", {}).get("total_divergence", 0.0)
        updated.diagnostics["total_divergence"] = earlier + updated.diagnostics["divergence"]
    warn_of_doubt(updated.diagnostics.get("doubt"))
    if share is not None:
        updated.diagnostics["share_in_tail"] = share.reshape(problem.batch_shape)
        _warn_of_contradiction(share)
    return updated


def _share_in_tail(problem: Problem, updated: Posterior) -> Float[Tensor, " batch"] | None:
    """How much of the posterior lies in the tails of the earlier mixture, if there was one."""
    if problem.latent_prior is None or updated.mixture is None:
        return None
    mixture = updated.mixture if problem.batch_shape else updated.mixture.expand((1,))
    return share_in_tail(mixture, problem.latent_prior)


def _warn_of_contradiction(share: Float[Tensor, " batch"]) -> None:
    """Where new rows lead into the tails of the earlier mixture, whose shape was never fitted."""
    n_far = int((share > 0.5).sum())
    if n_far:
        warnings.warn(
            f"The new rows of {n_far} of {len(share)} datasets contradict the prior or the earlier "
            "rows: their posterior lies in a tail of the mixture before them, where its shape is "
            "extrapolated. Keep all rows and use Posterior.update, or infer again.",
            UserWarning,
            stacklevel=3,
        )


def _network_answer(problem: Problem, network: Network | None) -> Answer | None:
    """The network's answer; None where no network is for the program, its prior or its data."""
    if network is not None:
        return network_answer(problem, network)
    served = find_network(problem)
    try:
        return None if served is None else one_pass(problem, *served)
    except ValueError:  # what is wrong with the data is wrong again without the network
        return None


def _by_density(problem: Problem, n_draws: int) -> Posterior:
    """An update without a network: draws of the exact density, and the mixture nearest to it."""
    density = problem.density()
    mixture, divergence = next_mixture(density, prior_mixture(density, N_COMPONENTS))
    return exact_draws(problem, density, mixture, divergence, n_draws)


def _by_network(problem: Problem, answer: Answer, n_draws: int) -> Posterior:
    """An update whose mixture is the network's answer where the adapted prior is worse."""
    if answer.density.is_simulator:
        return in_one_pass(problem, answer, n_draws)
    earlier = prior_mixture(answer.density, N_COMPONENTS)
    mixture, divergence = next_mixture(answer.density, earlier, answer.mixture)
    updated = in_one_pass(problem, replace(answer, mixture=mixture), n_draws)
    updated.diagnostics["divergence"] = divergence.reshape(problem.batch_shape)
    return updated


def drift(
    model: Program | Prior,
    x: Data,
    y: Data,
    posterior: Posterior,
    *,
    network: Network | None = None,
    latent_prior: Any = None,
) -> Float[Tensor, "*batch"]:
    """How far updates led from the posterior of all rows at once: `symmetric_kl`, in nats.

    The latter is one update of what the stream began with.

    Args:
        model: as for `amortized.infer.infer`.
        x: inputs of all rows, ``(*batch, n, n_features)``.
        y: their observations, ``(*batch, n)``.
        posterior: after the update with the last of them.
        network: as for method "dt".
        latent_prior: initial latent prior of the stream; None for the program's own.
    """
    at_once = update(model, latent_prior, x, y, n_draws=1, network=network)
    if posterior.mixture is None or at_once.mixture is None:
        raise ValueError(
            "Expected a posterior that `update` of this module gave; this one has no mixture. "
            "Draws of `infer`, and of Posterior.update, do not drift."
        )
    return symmetric_kl(posterior.mixture, at_once.mixture)


def symmetric_kl(
    a: GaussianMixture, b: GaussianMixture, n_draws: int = 1000
) -> Float[Tensor, "*batch"]:
    """Half of :math:`KL(a | b) + KL(b | a)`, estimated from draws of each.

    Example:
        >>> import torch
        >>> a = GaussianMixture.from_moments(torch.zeros(1), torch.eye(1))
        >>> b = GaussianMixture.from_moments(torch.ones(1), torch.eye(1))
        >>> 0.45 < symmetric_kl(a, b).item() < 0.55  # of unit normals one apart: 1/2
        True
    """
    return (a.kl(b, n_draws) + b.kl(a, n_draws)) / 2


class Filtered(NamedTuple):
    """States of a batch of series, one mixture a step.

    Attributes:
        predicted: given the observations before, of batch shape ``(n_series, n_steps)``.
        filtered: given those of the step too.
        inside_training_range: whether the network has seen such a prior and observation.
    """

    predicted: GaussianMixture
    filtered: GaussianMixture
    inside_training_range: Bool[Tensor, "n_series n_steps"]


def filter_states(
    model: Prior,
    y: Float[Tensor, "n_series n_steps observed"],
    motion: LinearGaussianModel,
    *,
    network: Network | None = None,
) -> Filtered:
    """Filters series by one network pass a step, all series at once.

    Args:
        model: program of one observation given the state, its only latent, in real units.
        y: the observations.
        motion: how the state begins and moves; what it says of observations is not read.
        network: as for method "dt".

    Raises:
        ValueError: if there is no network, or the data are not those of its program.
    """
    if y.ndim != 3 or not bool(y.isfinite().all()):
        raise ValueError(
            f"Expected finite y of shape (n_series, n_steps, observed); got {tuple(y.shape)}."
        )
    n_series = len(y)
    nothing = y.new_zeros(n_series, y.shape[-1], 0)
    served = find_network(Problem(model, nothing, y[:, 0], y.shape[:1], model), network)
    if served is None:
        raise ValueError(
            f"Expected a pretrained network for {type(model).__name__}; there is none. Give one as "
            "network=..."
        )
    prior = GaussianMixture.from_moments(motion.initial_mean, motion.initial_cov)
    prior = prior.to(torch.float64).expand((n_series,))
    offset = motion.transition_offset
    steps = []
    for t in range(y.shape[1]):
        posterior, inside = mixture_answer(*served, model, prior, nothing, y[:, t])
        steps.append((prior, posterior, inside))
        prior = posterior.propagate(motion.transition, offset, motion.transition_cov)
    # The first prior has one component, later ones as many as the network answers with.
    return Filtered(
        stacked([step[0] for step in steps], 1),
        stacked([step[1] for step in steps], 1),
        torch.stack([step[2] for step in steps], 1),
    )
