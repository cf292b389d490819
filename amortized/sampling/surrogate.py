r"""Tempered SMC on a surrogate of an expensive likelihood, finished by weights under the true one.

In rounds, particles are drawn from :math:`p(u) \hat L(u)^\beta`, where :math:`\hat L` is fitted to
all points with known likelihood (see `amortized.sampling.steps.likelihood_surrogate`). The true
likelihood of some of them decides how to go on: the next temperature is the highest at which the
weights

.. math:: \log w_i = \beta' \log L(u_i) - \beta \log \hat L(u_i)

have an effective number of half the points, which are then added to the fit. Where the surrogate is
wrong, :math:`\beta` stays or falls until it has learnt. At :math:`\beta = 1` the draws of
`amortized.sampling.smc` under the surrogate are weighted by :math:`L / \hat L`, so that the answer
is that of the true likelihood, and Pareto's k-hat says whether the weights are good.

Weights cannot tell of a mode without draws. Under a prior with heavy tails, maxima are therefore
sought far away, as in `amortized.sampling.laplace`; an answer that has no draws at a high one is
fitted again, with points around it, and is in doubt if that does not help.

References:
    Bernardo et al., Gaussian process regression to fit log posteriors (1998).
    El Gammal, Schoeneberg, Torrado and Fidler, Fast and robust Bayesian inference using Gaussian
    processes with GPry (2022), arXiv 2211.02045.
    Vehtari et al., Pareto smoothed importance sampling (2024), arXiv 1507.02646.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.program.density import ProgramDensity
from amortized.sampling.checks.pareto import smooth_weights
from amortized.sampling.checks.verdict import measured
from amortized.sampling.draws import Draws
from amortized.sampling.laplace import far_maxima
from amortized.sampling.smc import N_ISLANDS, distant, smc
from amortized.sampling.steps.likelihood_surrogate import LikelihoodSurrogate, SurrogateDensity
from amortized.sampling.steps.tempered_run import Limits, next_temperature, run
from amortized.sampling.steps.tempering import Path, tame

_N_PARTICLES, _SHORT = 256, Limits(0.5, 0.3, 9)  # of the runs between rounds
_ENOUGH = 0.5  # share of effective weights that ends a stage
_GOOD = 0.7  # the same at temperature 1, from which the answer is drawn
_ATTEMPTS = 3  # answers, each with a fit to the draws of those before
_MOST_K_HAT, _LEAST_ESS = 0.7, 0.05
_MINOR = 7.0  # nats below the highest draw from which on a mode without draws does not matter


class Known(NamedTuple):
    """Points of one dataset with their true log likelihood."""

    u: Float[Tensor, "points dim"]
    log_likelihood: Float[Tensor, " points"]

    def and_those(self, other: "Known") -> "Known":
        """All points of both."""
        return Known(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def surrogate(
    density: ProgramDensity,
    n_draws: int = 1000,
    *,
    n_start: int | None = None,
    n_each: int | None = None,
    most_calls: int = 4000,
) -> Draws:
    """Draws from the posterior of every dataset, with few evaluations of the likelihood.

    Args:
        density: the log density to draw from; its discrete latents may not be summed out.
        n_draws: weighted draws of each dataset; each costs a call of the likelihood.
        n_start: calls at draws of the prior; None for 20 and ten per dimension.
        n_each: calls of every further round; None for 40 and ten per dimension.
        most_calls: calls of one dataset after which no further round begins; the answer's own
            ``n_draws`` calls come on top, up to three times while its weights are poor or a mode is
            without draws, around which ``n_each`` more are then made.

    Returns:
        weighted draws, the log evidence with its error, and diagnostics: ``likelihood_calls`` (of
        all datasets together), ``n_rounds``, ``k_hat``, ``efficiency`` (effective share of the
        weighted draws), and those of `checks.verdict.LIMITS` that put a dataset in
        doubt: ``poor_weights``, and whatever SMC doubts of its draws under the surrogate.

    Raises:
        ValueError: if there are discrete latents, or no prior draw has a positive likelihood.
    """
    if density.discrete:
        raise ValueError(
            f"Expected a program without discrete latents; got {sorted(density.discrete.names)}. "
            "Use method='smc'."
        )
    n_start = 20 + 10 * density.dim if n_start is None else n_start
    n_each = 40 + 10 * density.dim if n_each is None else n_each
    if min(n_start, n_each) < 10:
        raise ValueError(f"Expected n_start and n_each >= 10; got {n_start} and {n_each}.")
    answers = []
    for i in range(density.n_datasets):
        one = density.take(torch.tensor([i]))
        answers.append(_answer(one, n_draws, n_start, n_each, most_calls))
    calls = {"likelihood_calls": density.n_calls}
    joined = Draws(*(_joined(values) for values in zip(*answers, strict=True)))
    joined = measured(density, joined)
    return joined._replace(diagnostics=joined.diagnostics | calls)


def _answer(
    density: ProgramDensity, n_draws: int, n_start: int, n_each: int, most_calls: int
) -> Draws:
    """Weighted draws of one dataset, after as many fits as they need."""
    maxima = far_maxima(density)[0]
    far = Known(maxima, _true(density, maxima))
    known, n_rounds = _explored(density, far, n_start, n_each, most_calls)
    for _ in range(_ATTEMPTS):
        answer, new = _weighted(density, LikelihoodSurrogate(*known), n_draws, n_rounds)
        known = known.and_those(new)  # where the weights are poor, the fit has to learn
        missed = missed_maxima(density, far, new)
        if len(missed):
            answer.diagnostics["evidence_off"] = missed.new_tensor([math.log(2.0)])
            u = missed.repeat(n_each, 1)
            u = u + new.u.std(0) * torch.randn_like(u)
            known = known.and_those(Known(u, _true(density, u)))
        elif not answer.diagnostics["poor_weights"].any():
            break
    return answer


def missed_maxima(density: ProgramDensity, far: Known, new: Known) -> Float[Tensor, "k dim"]:
    """Maxima that are high but have no draws nearby."""
    if not len(far.u):
        return far.u
    height = [density.log_prior(each.u[None])[0] + each.log_likelihood for each in (far, new)]
    high = height[0] > height[1].max() - _MINOR
    return far.u[high & distant(new.u[None], far.u[None])[0]]


def _joined(values: tuple[Any, ...]) -> Any:
    """A field of the draws of several datasets, each of one, as that of all."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, dict):
        return {name: _joined(tuple(each[name] for each in values)) for name in first}
    return first


def _true(density: ProgramDensity, u: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    """The program's log likelihood, -inf where it is not finite."""
    if not len(u):
        return u.new_zeros(0)
    with torch.no_grad():
        value = density.log_likelihood(u.unsqueeze(0))[0]
    return torch.where(value < torch.inf, value, -torch.inf)  # also NaN


def _explored(
    density: ProgramDensity, far: Known, n_start: int, n_each: int, most_calls: int
) -> tuple[Known, int]:
    """Points for a fit that is right where the posterior is, and the number of rounds."""
    u = tame(density.sample_prior(n_start))[0]
    known = far.and_those(Known(u, _true(density, u)))
    if not (known.log_likelihood > -torch.inf).sum() > 1:
        raise ValueError(
            f"Expected a likelihood above 0 at draws of the prior; got none or one among {n_start} "
            "draws. Give a larger n_start, or use method='smc'."
        )
    zero = known.log_likelihood.new_zeros(1)
    beta = float(next_temperature(known.log_likelihood.unsqueeze(0), zero, _ENOUGH))
    n_rounds = 0
    while True:
        fitted, n_rounds = LikelihoodSurrogate(*known), n_rounds + 1
        tempered = SurrogateDensity(density, fitted, beta)
        state = run(Path(tempered), _N_PARTICLES, N_ISLANDS, _SHORT)
        u = state.point.u[0, torch.randperm(_N_PARTICLES)[:n_each]]
        value, predicted = _true(density, u), fitted(u)
        known = known.and_those(Known(u, value))
        level = fitted.level(value)
        done = beta == 1 and _share(level - predicted) >= _GOOD
        if done or len(known.u) >= most_calls:
            return known, n_rounds
        beta = _next(level, predicted, beta)


def _share(log_weights: Tensor) -> float:
    weights = log_weights.softmax(-1)
    return float(1 / weights.square().sum() / len(weights))


def _next(value: Tensor, predicted: Tensor, beta: float) -> float:
    """The highest temperature at which the points still represent the posterior.

    It is at most ten times the present one, and lower than that where the surrogate is wrong.
    """
    steps = torch.linspace(-1, 1, 81, dtype=torch.float64)
    candidates = (beta * 10.0**steps).clamp(max=1.0)
    shares = torch.tensor([_share(b * value - beta * predicted) for b in candidates])
    good = (shares >= _ENOUGH).nonzero()[:, 0]
    return float(candidates[good[-1]] if len(good) else candidates[shares.argmax()])


def _weighted(
    density: ProgramDensity, fitted: LikelihoodSurrogate, n_draws: int, n_rounds: int
) -> tuple[Draws, Known]:
    """Draws under the surrogate, weighted by the true likelihood, and this at the draws."""
    draws = smc(SurrogateDensity(density, fitted), n_draws)
    assert draws.log_evidence is not None and draws.log_evidence_error is not None
    u = draws.u[0]
    value = _true(density, u)
    smoothed = smooth_weights((value - fitted(u)).unsqueeze(0))
    n = len(u)
    poor = ~((smoothed.k_hat < _MOST_K_HAT) & (smoothed.ess >= _LEAST_ESS * n))
    of_weights = (1 / smoothed.ess - 1 / n).clamp(min=0.0)
    numbers = {
        "k_hat": smoothed.k_hat,
        "efficiency": smoothed.ess / n,
        "n_rounds": torch.tensor([float(n_rounds)]),
        "poor_weights": poor.double(),
    }
    weighted = draws._replace(
        log_weights=smoothed.log_weights,
        log_evidence=draws.log_evidence + smoothed.log_mean,
        log_evidence_error=(draws.log_evidence_error.square() + of_weights).sqrt(),
        diagnostics=draws.diagnostics | numbers,
    )
    return weighted, Known(u, value)
