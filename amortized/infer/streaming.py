r"""Streams: updating a posterior as data arrive in batches.

`update` uses the current posterior as the prior for further rows about the same latents and checks
the result against the exact density each time; `drift` measures the divergence from the posterior
given all rows at once.

For a state that moves, :math:`x_{t+1} \sim N(A x_t + b, Q)` maps a mixture to a mixture exactly;
between two such predictions a network updates the mixture by the observation in one pass. The
network reads at most K components and merges any others by moments, so the mixture does not grow.
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.gaussian_mixture import GaussianMixture
from amortized.infer.amortised import (
    Answer,
    Network,
    find_network,
    in_one_pass,
    mixture_answer,
    network_answer,
    prior_mixture,
)
from amortized.infer.cascade import log_density
from amortized.infer.problem import Data, Problem, make_problem
from amortized.latent_priors.fitting import fit_draws, stacked
from amortized.latent_priors.reduction import merge, split_components
from amortized.one_at_a_time import gradients
from amortized.posterior import Posterior
from amortized.priors.prior import Prior
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.program.density import ProgramDensity
from amortized.program.vectorised import Program, precision
from amortized.sampling.adaptation import adapt
from amortized.sampling.smc import smc
from amortized.sampling.start import FromMixture
from amortized.seeding import seeded

_N_COMPONENTS = 12  # components of an adapted prior
_SMALL = 0.01  # divergence, in nats, that is accepted without a refit
_N_JUDGED = 1000  # draws of each mixture for estimating its divergence


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
    """Updates a posterior by further rows.

    After many updates the result is accurate only if each update is nearly exact, also under priors
    much narrower than any in training. Therefore two mixtures `adapt` to the exact density: the
    network's answer, and the previous posterior, which few rows change little. The latter is used
    if its divergence from the exact posterior is small, otherwise the better one of the two; if
    neither is good, a mixture is fitted to particles of tempered SMC. For a simulator, which has no
    density, the result is the network's answer.

    Args:
        model: as for `amortized.infer.infer`.
        posterior: posterior given the earlier rows, or any `latent_prior`; the prior of the new
            rows.
        x: inputs of the new rows, ``(*batch, n, n_features)``.
        y: their observations, ``(*batch, n)``.
        n_draws: number of draws.
        network: as for method "dt".
        seed: equal seeds give equal draws.

    Returns:
        a posterior whose ``mixture`` is the prior of the next update; ``diagnostics["divergence"]``
        is the divergence of the mixture from the exact posterior of this update, in nats.
    """
    divergence = None
    with precision(torch.float32), gradients(), seeded(seed):
        began = time.perf_counter()
        problem = make_problem(model, x, y, posterior)
        answer = network_answer(problem, network)
        if not answer.density.is_simulator:
            mixture, divergence = _adapted(answer)
            answer = replace(answer, mixture=mixture)
        updated = in_one_pass(problem, answer, n_draws)
    updated.diagnostics["seconds"] = time.perf_counter() - began
    if divergence is not None:
        updated.diagnostics["divergence"] = divergence.reshape(problem.batch_shape)
    return updated


def _adapted(answer: Answer) -> tuple[GaussianMixture, Float[Tensor, " batch"]]:
    """The prior or the network's answer, both adapted, and its divergence from the posterior."""
    density = answer.density
    prior = prior_mixture(density, _N_COMPONENTS).to(torch.float64).expand((density.n_datasets,))
    prior = split_components(merge(prior, _N_COMPONENTS), _N_COMPONENTS)
    candidates = [adapt(mixture, log_density(density)) for mixture in (answer.mixture, prior)]
    of_network, of_prior = _divergences(density, candidates)
    # The adapted prior keeps regions of little mass, which later data may support.
    is_prior = of_prior <= of_network.clamp(min=_SMALL)
    chosen = [candidates[number][i] for i, number in enumerate(is_prior.long().tolist())]
    divergence = torch.where(is_prior, of_prior, of_network)
    wrong = (divergence > _SMALL).nonzero()[:, 0]
    if len(wrong):
        some, rough = density.take(wrong), stacked([chosen[i] for i in wrong])
        fitted = _fitted(some, rough)
        before, after = _divergences(some, [rough, fitted])
        for number, i in enumerate(wrong):
            if after[number] < before[number]:
                chosen[i], divergence[i] = fitted[number], after[number]
    return stacked(chosen), divergence


def _divergences(
    density: ProgramDensity, candidates: Sequence[GaussianMixture]
) -> Float[Tensor, "candidates batch"]:
    r"""The divergence :math:`KL(p | q)` of each mixture q from the posterior p, in nats.

    Estimated from draws of all mixtures, so that each is also evaluated where only another one has
    mass.
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


def _fitted(density: ProgramDensity, start: GaussianMixture) -> GaussianMixture:
    """Mixtures fitted to particles of each dataset and then adapted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result is checked afterwards
        draws = smc(density, 2000, start=FromMixture(start))
    mixtures = stacked([fit_draws(u, _N_COMPONENTS) for u in draws.u])
    return adapt(mixtures, log_density(density))


def drift(
    model: Program | Prior,
    x: Data,
    y: Data,
    posterior: Posterior,
    *,
    network: Network | None = None,
    latent_prior: Any = None,
) -> Float[Tensor, "*batch"]:
    """Divergence of an updated posterior from that given all rows at once, in nats.

    The latter is a single update of the initial prior; the divergence is `symmetric_kl`.

    Args:
        model: as for `amortized.infer.infer`.
        x: inputs of all rows, ``(*batch, n, n_features)``.
        y: their observations, ``(*batch, n)``.
        posterior: posterior after the last update.
        network: as for method "dt".
        latent_prior: prior at the start of the stream; None for the program's own.
    """
    at_once = update(model, latent_prior, x, y, n_draws=1, network=network)
    assert posterior.mixture is not None and at_once.mixture is not None
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
    """Filtered states of a batch of series, one mixture per step.

    Attributes:
        predicted: given the earlier observations, of batch shape ``(n_series, n_steps)``.
        filtered: given also the observation of the step.
        inside_training_range: whether prior and observation lie in the network's training range.
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
    """Filters series with one network pass per step, for all series at once.

    Args:
        model: program of one observation given the state, its only latent, in real units.
        y: the observations.
        motion: initial distribution and transition of the state; its observation model is not used.
        network: as for method "dt".

    Raises:
        ValueError: if there is no network, or the data do not match its program.
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
    # The first prior has one component, later ones as many as the network returns.
    return Filtered(
        stacked([step[0] for step in steps], 1),
        stacked([step[1] for step in steps], 1),
        torch.stack([step[2] for step in steps], 1),
    )
