r"""The ladder of trust: an amortised answer, weighed under the exact density and mended if need be.

For each dataset on its own:

1. "exact": a closed form, where there is one for all of them.
2. "importance": draws of the network's mixture q, a share of prior draws among them, with the
   weights :math:`w = p(u) p(y \mid u) / q(u)`; kept where Pareto's k-hat is below 0.7 and the
   weights are worth two fifths of the draws or more.
3. "adapted": the same with the mixture adapted to the posterior, where the weights are worth
   anything.
4. "smc": tempered SMC from the adapted mixture; from its own start where the weights are worth
   next to nothing.
5. "nuts": where the particles still remember where they were and two runs do not agree.

A simulator, which has no density, stays with the network's answer, as "dt".

Weights see only where draws fall: a mode that neither the network nor the prior's share has found
stays unknown, as it does to every sampler.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.infer.amortised import Network, find_network, in_one_pass, one_pass
from amortized.infer.problem import Problem
from amortized.infer.programs import by_sampler, exactly, posterior_from_draws
from amortized.posterior import Posterior
from amortized.priors.density import ProgramDensity
from amortized.sampling.adaptation import adapt
from amortized.sampling.draws import Draws
from amortized.sampling.nuts import nuts
from amortized.sampling.pareto import smooth_weights
from amortized.sampling.resampling import systematic_resample
from amortized.sampling.smc import smc
from amortized.sampling.start import FromMixture

_LEAST_EFFICIENCY = 0.4  # at 0.25 with k-hat 0.4, means were off by a sixth of a deviation
_FEWEST = 1000  # draws that k-hat is estimated from
_CHUNK = 4_000_000  # numbers of likelihood terms evaluated at once
_PATIENT = {"n_particles": 4096, "max_sweeps": 60}  # options of SMC where two runs disagree


def automatically(
    problem: Problem, n_draws: int, *, network: Network | None = None, **options: Any
) -> Posterior:
    """The exact answer where there is one, otherwise the ladder, otherwise the default sampler.

    Args:
        problem: whose latents are wanted.
        n_draws: draws for each dataset.
        network: as for method "dt"; naming one asks for the ladder even where a closed form is.
        **options: of `amortized.sampling.smc`.
    """
    if network is None:
        try:
            posterior = exactly(problem, n_draws)
            posterior.diagnostics["rung"] = _rungs(problem, ["exact"] * len(problem.y))
            return posterior
        except ValueError:  # no closed form; a program that is wrong is wrong again below
            pass
    served = find_network(problem, network)
    answer = None
    if served is not None:
        try:
            answer = one_pass(problem, *served)
        except ValueError:
            if network is not None:
                raise
    if answer is None:  # no network, or data or a prior that it was not made for
        posterior = by_sampler(smc, "smc")(problem, n_draws, **options)
        posterior.diagnostics["rung"] = _rungs(problem, ["smc"] * len(problem.y))
        return posterior
    if answer.density.is_simulator:  # nothing to weigh it by
        posterior = in_one_pass(problem, answer, n_draws)
        posterior.diagnostics["rung"] = _rungs(problem, ["dt"] * len(problem.y))
        return posterior
    options.pop("start", None)  # the network's answer is where this one starts
    draws, rungs = climb(answer.density, FromMixture(answer.mixture), n_draws, **options)
    draws.diagnostics["inside_training_range"] = answer.inside
    posterior = posterior_from_draws(problem, answer.density, draws, "auto")
    posterior.diagnostics["rung"] = _rungs(problem, rungs)
    return posterior


def climb(
    density: ProgramDensity, answer: FromMixture, n_draws: int, **options: Any
) -> tuple[Draws, list[str]]:
    """Draws for every dataset from the first rung that holds it, and the rungs.

    Args:
        density: the exact one.
        answer: the network's mixtures.
        n_draws: draws for each dataset.
        **options: of `amortized.sampling.smc`.

    Returns:
        draws, weighted where some of the datasets stand on "importance" or "adapted". Diagnostics
        ``k_hat`` and ``efficiency`` judge the network's answer: the weights' tail, and what they
        are worth as a share of the draws.
    """
    draws, efficiency = weigh(density, answer, n_draws)
    rungs = ["importance"] * density.n_datasets
    poor = (~_trusted(draws, efficiency)).nonzero()[:, 0]
    # An answer that is worth next to nothing is an answer to something else: not a good start.
    far, near = poor[efficiency[poor] < 0.005], poor[efficiency[poor] >= 0.005]
    start = answer.take(near)
    if len(near):
        start = FromMixture(adapt(start.mixture, log_density(density.take(near))))
        again, worth = weigh(density.take(near), start, n_draws)
        good = _trusted(again, worth)
        draws = _put(draws, near[good], _take(again, good))
        for i in near[good].tolist():
            rungs[i] = "adapted"
        near, start = near[~good], start.take(~good)
    for index, begin in ((near, start), (far, "auto")):
        if len(index):
            mended, by_nuts = _temper(density.take(index), n_draws, begin, options)
            draws = _put(draws, index, mended)
            for i, is_nuts in zip(index.tolist(), by_nuts.tolist(), strict=True):
                rungs[i] = "nuts" if is_nuts else "smc"
    return draws, rungs


def _trusted(draws: Draws, efficiency: Tensor) -> Bool[Tensor, " batch"]:
    """Where weights are good enough to answer by."""
    return (draws.diagnostics["k_hat"] < 0.7) & (efficiency >= _LEAST_EFFICIENCY)


def log_density(density: ProgramDensity) -> Callable[[Tensor], Tensor]:
    """The log density as a function of u, which evaluates some datasets at a time."""
    return lambda u: sum(_evaluated(density, u), torch.zeros(()))


def weigh(
    density: ProgramDensity, answer: FromMixture, n_draws: int, prior_share: float = 0.1
) -> tuple[Draws, Float[Tensor, " batch"]]:
    """Weighted draws of the mixtures, with their evidence, and what the weights are worth.

    Args:
        density: the exact one.
        answer: the mixtures.
        n_draws: draws for each dataset.
        prior_share: share of prior draws among them, which bounds the weights.
    """
    n = max(n_draws, _FEWEST)
    n_prior = round(prior_share * n)
    with torch.no_grad():
        u = answer.sample(n - n_prior)
        if n_prior:
            u = torch.cat((u, density.sample_prior(n_prior)), 1)
        log_prior, log_likelihood = _evaluated(density, u)
        shares = torch.tensor([(n - n_prior) / n, n_prior / n], dtype=u.dtype).log()
        log_q = torch.logaddexp(answer.log_prob(u) + shares[0], log_prior + shares[1])
    smoothed = smooth_weights((log_prior + log_likelihood - log_q).nan_to_num(-torch.inf))
    efficiency = smoothed.ess / n
    error = (1 / smoothed.ess - 1 / n).clamp(min=0.0).sqrt()
    log_weights = smoothed.log_weights
    if n > n_draws:
        chosen = systematic_resample(log_weights.exp(), _uniforms(u))
        chosen = chosen[:, torch.randperm(n)[:n_draws]]
        u = u.gather(1, chosen.unsqueeze(-1).expand(-1, -1, u.shape[-1]))
        log_weights = torch.zeros(u.shape[:2], dtype=u.dtype) - torch.tensor(float(n_draws)).log()
    diagnostics = {"k_hat": smoothed.k_hat, "efficiency": efficiency}
    return Draws(u, log_weights, smoothed.log_mean, 1, diagnostics, error), efficiency


def _uniforms(u: Tensor) -> Tensor:
    return 1 - torch.rand(len(u), 1, dtype=torch.float64)


def _evaluated(density: ProgramDensity, u: Tensor) -> tuple[Tensor, Tensor]:
    """Log prior and log likelihood, some datasets at a time."""
    size = max(1, _CHUNK // (u.shape[1] * density.y[0].numel()))
    parts = [
        density.take(rows).log_prior_and_likelihood(u[rows])
        for rows in torch.arange(len(u)).split(size)
    ]
    log_prior, log_likelihood = map(torch.cat, zip(*parts, strict=True))
    return log_prior, log_likelihood


def _temper(
    density: ProgramDensity, n_draws: int, start: FromMixture | str, options: dict[str, Any]
) -> tuple[Draws, Bool[Tensor, " batch"]]:
    """Draws by tempered SMC, or by NUTS where particles stand still and runs do not agree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that it would warn of go on to NUTS
        draws = smc(density, n_draws, start=start, **options)
        index = _stuck(draws).nonzero()[:, 0]
        for more in ({}, _PATIENT):  # both take far less than NUTS
            if not len(index):
                break
            begin = start if isinstance(start, str) else start.take(index)
            again = smc(density.take(index), n_draws, start=begin, **options | more)
            wrong = _stuck(again) & ~_agree(_take(draws, index), again)
            draws, index = _put(draws, index, again), index[wrong]
    if len(index):
        chains = nuts(density.take(index), max(n_draws, 4))
        evidence = torch.full((len(index),), torch.nan, dtype=draws.u.dtype)
        draws = _put(draws, index, chains._replace(u=chains.u[:, :n_draws], log_evidence=evidence))
    by_nuts = torch.zeros(density.n_datasets, dtype=torch.bool).index_fill(0, index, True)
    return draws, by_nuts


def _stuck(draws: Draws) -> Bool[Tensor, " batch"]:
    """Where particles still remember where they were."""
    return ~(draws.diagnostics["correlation"] <= 0.5)


def _agree(one: Draws, other: Draws) -> Bool[Tensor, " batch"]:
    """Where independent runs found the same.

    Particles of separate modes never forget theirs, whose shares come from weights and not from
    moves; NUTS would never leave the first one that it finds. The bounds are a few times
    the scatter of such runs of 1,000 particles.
    """
    assert one.log_evidence is not None and other.log_evidence is not None
    apart = (one.u.mean(1) - other.u.mean(1)).abs() / other.u.std(1)
    same_evidence = (one.log_evidence - other.log_evidence).abs() < 0.2
    return (apart.amax(-1) < 0.25) & same_evidence


def _put(draws: Draws, index: Tensor, part: Draws) -> Draws:
    """Draws with those of the chosen datasets replaced, their diagnostics aside."""
    assert draws.log_evidence is not None and part.log_evidence is not None
    error, new_error = draws.log_evidence_error, part.log_evidence_error
    if error is not None:
        new_error = (
            torch.full_like(part.log_evidence, torch.nan) if new_error is None else new_error
        )
        error = error.index_copy(0, index, new_error.to(error.dtype))
    log_weights = draws.log_weights
    if log_weights is not None:
        equal = torch.full_like(log_weights[index], -math.log(log_weights.shape[1]))
        new = equal if part.log_weights is None else part.log_weights
        log_weights = log_weights.index_copy(0, index, new)
    return draws._replace(
        u=draws.u.index_copy(0, index, part.u.to(draws.u.dtype)),
        log_weights=log_weights,
        log_evidence=draws.log_evidence.index_copy(0, index, part.log_evidence),
        log_evidence_error=error,
    )


def _take(draws: Draws, index: Tensor) -> Draws:
    """The draws of the chosen datasets, without diagnostics."""
    u, log_weights, log_evidence, n_chains, _, error = draws
    parts = [part if part is None else part[index] for part in (log_weights, log_evidence, error)]
    return Draws(u[index], parts[0], parts[1], n_chains, {}, parts[2])


def _rungs(problem: Problem, rungs: list[str]) -> list[str] | str:
    """One for each dataset of a batch."""
    return rungs if problem.batch_shape else rungs[0]
