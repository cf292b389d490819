r"""Streams: yesterday's posterior is today's prior, in one pass for each new observation.

For a state that moves, :math:`x_{t+1} \sim N(A x_t + b, Q)` takes a mixture to a mixture exactly;
between two such predictions a network updates the mixture by what was seen. The network reads at
most K components and joins any more by moments, so the mixture does not grow.
"""

import time
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.gaussian_mixture import GaussianMixture
from amortized.infer.amortised import (
    Network,
    by_network,
    find_network,
    mixture_answer,
)
from amortized.infer.latent_prior import stacked
from amortized.infer.problem import Problem, make_problem
from amortized.posterior import Posterior
from amortized.priors.prior import Prior
from amortized.priors.state_space import LinearGaussianModel
from amortized.priors.vectorised import Program

Rows = tuple[Tensor, Tensor]


def update(
    model: Program | Prior,
    posterior: Any,
    new: Rows,
    earlier: Rows,
    *,
    n_draws: int = 1000,
    network: Network | None = None,
    latent_prior: Any = None,
    seed: int = 0,
) -> tuple[Posterior, Float[Tensor, "*batch"]]:
    """The posterior after further rows, from the posterior before them; and how far it drifted.

    Args:
        model: as for `amortized.infer.infer`.
        posterior: given the earlier rows; read as the prior of the new ones.
        new: inputs ``(*batch, n, n_features)`` and observations ``(*batch, n)``.
        earlier: all rows before them, for the drift only.
        n_draws: draws of the answer.
        network: as for method "dt".
        latent_prior: that the stream began with; None for the program's own.
        seed: equal seeds give equal draws.

    Returns:
        the streamed posterior, and its symmetric Kullback-Leibler divergence from the one-pass
        posterior given all rows at once.
    """
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        streamed = by_network(make_problem(model, *new, posterior), n_draws, network)
    streamed.diagnostics["seconds"] = time.perf_counter() - began
    x, y = torch.cat((earlier[0], new[0]), -2), torch.cat((earlier[1], new[1]), -1)
    at_once = by_network(make_problem(model, x, y, latent_prior), 1, network)
    assert streamed.mixture is not None and at_once.mixture is not None
    return streamed, symmetric_kl(streamed.mixture, at_once.mixture)


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
