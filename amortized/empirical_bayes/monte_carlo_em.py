r"""Monte Carlo EM with persistent chains: for latents of any kind, and rows in any number.

Each row n has a Markov chain :math:`z_n` that lasts over the whole fit. In each step a proposal
:math:`z_n' \sim p_\theta(z_n)` is accepted with probability

.. math:: \alpha_n = \min(1, p_\theta(y_n | z_n') / p_\theta(y_n | z_n)),

and the parameters take a step along the estimate of :math:`\nabla \log p_\theta(y)`

.. math:: \sum_n \alpha_n \nabla \log p_\theta(z_n', y_n) + (1 - \alpha_n) \nabla \log
          p_\theta(z_n, y_n) - c \, \beta_n \nabla \log p_\theta(z_n').

The last term has mean zero; :math:`\beta_n` is the row's acceptance rate so far, and c the
coefficient of a regression of the other terms on it, from the steps so far. Where most proposals
are accepted, it cancels the noise of the first term.

References:
    Wei and Tanner, A Monte Carlo implementation of the EM algorithm (1990).
    Tieleman, Training restricted Boltzmann machines (2008): persistent chains.
    Hoffman et al., Training chain-of-thought via latent-variable inference (2023), arXiv
    2312.02179: the control variate.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortized.empirical_bayes.parameters import Parameters, WithParameters
from amortized.program.sites import latent_sites
from amortized.program.support import log_prob
from amortized.program.vectorised import (
    FunctionalSamplers,
    draw,
    is_deterministic,
    is_subsample,
    precision,
    quiet_program,
)

_MEMORY = 0.95  # of the acceptance rates
_LEAST_ACCEPT = 0.02
_MOST_DRIFT = 1.4  # spreads; a straight path drifts by the square root of 3
_FAR = 0.02  # in unconstrained units
Latents = Mapping[str, Tensor]


class _Complete(Messenger):
    """A run with given latents, or with drawn ones, that sums log densities row by row."""

    def __init__(self, known: Latents | None, by_row: bool) -> None:
        super().__init__()
        self._known, self._by_row = known, by_row
        self.values: dict[str, Tensor] = {}
        self.log_prior: Any = 0.0
        self.log_likelihood: Any = 0.0

    def _pyro_sample(self, message: Any) -> None:
        if is_subsample(message) or is_deterministic(message) or message["is_observed"]:
            return
        name = message["name"]
        message["value"] = draw(message["fn"]) if self._known is None else self._known[name]
        self.values[name] = message["value"]

    def _pyro_post_sample(self, message: Any) -> None:
        if is_subsample(message) or is_deterministic(message):
            return
        each = log_prob(message["fn"], message["value"])
        each = scale_and_mask(each, message["scale"], message["mask"])
        total = each.flatten(0, -2).sum(0) if self._by_row and each.ndim > 1 else each
        total = total if self._by_row else total.sum()
        if message["is_observed"]:
            self.log_likelihood = self.log_likelihood + total
        else:
            self.log_prior = self.log_prior + total


class Terms(NamedTuple):
    """Latents and log densities of many runs, ``(batch, chains, ...)``."""

    latents: dict[str, Tensor]
    log_prior: Tensor
    log_likelihood: Tensor


class Chains:
    """The persistent chains of all rows of all datasets.

    Args:
        program: with parameters that are set from outside.
        x: ``(batch, n, n_features)``.
        y: ``(batch, n, *event)``.
        n_chains: chains of each row.

    Attributes:
        by_row: whether each row has latents of its own; otherwise a dataset moves as a whole.
        accept: acceptance rate of each row, ``(batch, 1, n)``, or of each dataset.
    """

    def __init__(self, program: WithParameters, x: Tensor, y: Tensor, n_chains: int) -> None:
        self._program, self._x, self._y = program, x, y
        with precision(y.dtype), torch.no_grad(), quiet_program():
            trace = pyro.poutine.trace(program).get_trace(x[0], y[0])
        if not latent_sites(trace):
            raise ValueError("Expected a program with latents for method 'mcem'; got none.")
        self.by_row = all(
            any(f.dim == -1 and f.size == x.shape[1] for f in site["cond_indep_stack"])
            for site in trace.nodes.values()
            if site["type"] == "sample" and not is_subsample(site) and not is_deterministic(site)
        )
        self._shape = x.new_zeros(len(x), n_chains)
        self.now = self._propose()
        self.accept = torch.full_like(self.now.log_likelihood[:, :1], 0.5)
        self._shared, self._power = 0.0, 0.0

    def _propose(self) -> Terms:
        with torch.no_grad():
            return self._run(None, self._shape)

    def _run(self, latents: Latents | None, over: Any) -> Terms:
        def one(part: Any, x: Tensor, y: Tensor) -> Terms:
            run = _Complete(None if latents is None else part, self.by_row)
            with run:
                self._program(x, y)
            return Terms(dict(run.values), run.log_prior, run.log_likelihood)

        chains = torch.func.vmap(one, (0, None, None), randomness="different")
        with quiet_program(), precision(self._y.dtype), FunctionalSamplers():
            return torch.func.vmap(chains, randomness="different")(over, self._x, self._y)

    def at(self, latents: Latents) -> Terms:
        """The log densities of given latents under the current parameters."""
        return self._run(latents, dict(latents))

    def gradient(self, theta: Tensor, control_variate: bool = True) -> Tensor:
        """Moves every chain, and estimates the gradient of the log evidence.

        Args:
            theta: the vector on which the program's parameters depend.
            control_variate: whether to subtract it; the mean is the same.
        """
        terms, control = self._advance()
        (own,) = torch.autograd.grad(terms, theta, retain_graph=True)
        if not control_variate or not control.requires_grad:
            return own
        (noise,) = torch.autograd.grad(control, theta, retain_graph=True, allow_unused=True)
        if noise is None:  # no parameter of the latents' law
            return own
        # The coefficient of this step comes from earlier ones, so that no bias enters.
        coefficient = self._shared / self._power if self._power > 0 else 0.0
        self._shared = _MEMORY * self._shared + float(own @ noise)
        self._power = _MEMORY * self._power + float(noise @ noise)
        return own - coefficient * noise

    def _advance(self) -> tuple[Tensor, Tensor]:
        """Moves every chain, and returns scalars whose gradients are the terms of the estimate."""
        proposal = self._propose()
        old, new = self.at(self.now.latents), self.at(proposal.latents)
        change = (new.log_likelihood - old.log_likelihood).detach()
        # Chains of likelihood zero take any possible proposal.
        change = torch.where(old.log_likelihood.detach() == -torch.inf, torch.inf, change)
        alpha = change.nan_to_num(-torch.inf, torch.inf, -torch.inf).clamp(max=0.0).exp()
        taken = torch.rand_like(alpha) < alpha
        terms = torch.where(alpha > 0, alpha * (new.log_prior + new.log_likelihood), 0.0)
        kept = (alpha < 1) & (old.log_likelihood > -torch.inf)
        terms = terms + torch.where(kept, (1 - alpha) * (old.log_prior + old.log_likelihood), 0.0)
        control = self.accept * torch.where(new.log_prior > -torch.inf, new.log_prior, 0.0)
        self.now = Terms(
            {n: _chosen(taken, v, self.now.latents[n]) for n, v in proposal.latents.items()},
            torch.where(taken, new.log_prior, old.log_prior).detach(),
            torch.where(taken, new.log_likelihood, old.log_likelihood).detach(),
        )
        self.accept = _MEMORY * self.accept + (1 - _MEMORY) * alpha.mean(1, keepdim=True)
        return terms.mean(1).sum(), control.mean(1).sum()


def _chosen(taken: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(taken.reshape(taken.shape + (1,) * (new.ndim - taken.ndim)), new, old)


def fit_monte_carlo_em(
    x: Tensor,
    y: Tensor,
    parameters: Parameters,
    n_steps: int = 1000,
    n_chains: int = 20,
    learning_rate: float = 0.05,
) -> tuple[Tensor, dict[str, Any]]:
    """Climbs the log evidence by Adam along noisy gradients, and averages the last half.

    Args:
        x: inputs of the datasets.
        y: observations.
        parameters: where to begin.
        n_steps: steps of Adam; the rate falls to a tenth of the first along a cosine.
        n_chains: chains of each row.
        learning_rate: at the start.

    Returns:
        the unconstrained parameters, and diagnostics.
    """
    theta = parameters.start.clone().requires_grad_()
    chains = Chains(parameters.program, x, y, n_chains)
    optimiser = torch.optim.Adam([theta], learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps, learning_rate / 10)
    visited = []
    with torch.enable_grad():
        for _ in range(n_steps):
            parameters.set(theta)
            theta.grad = -chains.gradient(theta)
            optimiser.step()
            schedule.step()
            visited.append(theta.detach().clone())
    path = torch.stack(visited[n_steps // 2 :])
    parameters.set(path.mean(0))
    return path.mean(0), _judged(chains, _drift(path))


def _drift(path: Tensor) -> float:
    """How far the mean of the second half of a path is from that of the first, in its spreads.

    Distances that do not matter count as 0: a path can wander by chance, but not far.
    """
    if len(path) < 4:
        return math.inf
    first, second = (half.mean(0) for half in path.tensor_split(2))
    apart = (second - first).abs()
    return float(torch.where(apart > _FAR, apart / path.std(0).clamp(min=1e-12), 0.0).max())


def _judged(chains: Chains, drift: float) -> dict[str, Any]:
    worst = float(chains.accept.min())
    doubt = []
    if not drift < _MOST_DRIFT:
        doubt.append(f"the parameters still drift, by {drift:.1f} of their spread: more n_steps")
    if not worst > _LEAST_ACCEPT:
        doubt.append(
            f"a chain accepts {worst:.1%} of its proposals, limit {_LEAST_ACCEPT:.0%}: the prior "
            "of the latents is too wide for this method. Use method='exact' or 'iwae'"
        )
    return {"accept": chains.accept[:, 0], "drift": drift, "doubt": doubt}
