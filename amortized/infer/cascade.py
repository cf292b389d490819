r"""The cascade of `auto`: a network's posterior weighted by the exact density, or replaced.

For each dataset, the first stage whose check succeeds is used:

1. "exact": a closed form, if there is one for all datasets.
2. "importance": draws of the network's mixture q, mixed with a share of prior draws, with weights
   :math:`w = p(u) p(y \mid u) / q(u)`; accepted if Pareto's k-hat is below 0.7 and the effective
   sample size is at least 40% of the draws.
3. "adapted": the same with the mixture adapted to the posterior.
4. "smc": tempered SMC from the adapted mixture, or from its own start if the effective
   sample size of the network's draws is near zero.
5. "nuts": if the particles are in doubt (see `sampling.checks.verdict`) and the chains are not.

For a simulator, which has no density, the result is the network's posterior, as for "dt".

Weights only reveal what the draws cover: a mode found neither by the network nor by the prior draws
remains undetected, as for any sampler.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.infer.amortised import Network, find_network, in_one_pass, one_pass
from amortized.infer.inputs.problem import Problem
from amortized.infer.programs import exactly, posterior_from_draws, start_for
from amortized.posterior import Posterior
from amortized.program.density import ProgramDensity
from amortized.program.observations.possible import check_possible
from amortized.sampling.checks.cross_check import checked_chains
from amortized.sampling.checks.pareto import smooth_weights
from amortized.sampling.checks.verdict import any_doubt, judged, measured
from amortized.sampling.draws import Draws, blocks_of_chains, put_draws, take_draws
from amortized.sampling.nuts import nuts
from amortized.sampling.smc import LEAST_ACCEPT, smc
from amortized.sampling.start import FromDraws, FromMixture, Start
from amortized.sampling.steps.adaptation import adapt
from amortized.sampling.steps.resampling import systematic_resample

_LEAST_EFFICIENCY = 0.4  # lower values allow relevant errors of means despite a good k-hat
_CAREFUL = 0.95  # target acceptance of NUTS if particles were in doubt
_PRIOR_SHARE = 0.1  # share of prior draws in the proposal, which bounds the weights
_FEWEST = 1000  # draws from which k-hat and R-hat are estimated
_STRETCHED = 1000  # leapfrog steps of a trajectory, about as many as NUTS takes at most
_CHUNK = 4_000_000  # numbers of likelihood terms evaluated at once


def automatically(
    problem: Problem, n_draws: int, *, network: Network | None = None, **options: Any
) -> Posterior:
    """The closed form if there is one, otherwise the cascade; without a network, SMC or NUTS.

    Args:
        problem: the inference problem.
        n_draws: draws for each dataset.
        network: as for method "dt"; naming one skips the closed form.
        **options: options of `amortized.sampling.smc`.
    """
    no_closed_form = None
    if network is None:
        try:
            posterior = exactly(problem, n_draws)
            posterior.diagnostics["stage"] = _stages(problem, ["exact"] * len(problem.y))
            return posterior
        except ValueError as reason:  # an invalid program fails again below
            no_closed_form = reason
    served = find_network(problem, network)
    answer = None
    if served is not None:
        try:
            answer = one_pass(problem, *served)
        except ValueError:
            if network is not None:
                raise
    if answer is None:  # no network, or outside its training range
        density = problem.density(allow_no_latents=no_closed_form is not None)
        if no_closed_form is not None and not density.dim:
            raise no_closed_form
        check_possible(density)
        if "start" in options:
            options["start"] = start_for(options["start"], density, problem)
        draws, by_nuts = _temper(density, n_draws, options)
        posterior = posterior_from_draws(problem, density, draws, "auto")
        stages = ["nuts" if is_nuts else "smc" for is_nuts in by_nuts.tolist()]
        posterior.diagnostics["stage"] = _stages(problem, stages)
        return posterior
    if answer.density.is_simulator:  # no density to weight it by
        posterior = in_one_pass(problem, answer, n_draws)
        posterior.diagnostics["stage"] = _stages(problem, ["dt"] * len(problem.y))
        return posterior
    options.pop("start", None)  # the run starts from the network's posterior
    draws, stages = cascade(answer.density, FromMixture(answer.mixture), n_draws, **options)
    draws.diagnostics["inside_training_range"] = answer.inside
    posterior = posterior_from_draws(problem, answer.density, draws, "auto")
    posterior.diagnostics["stage"] = _stages(problem, stages)
    return posterior


def cascade(
    density: ProgramDensity, answer: Start, n_draws: int, **options: Any
) -> tuple[Draws, list[str]]:
    """Draws for every dataset from the first stage whose check it passes, and the stages used.

    Args:
        density: the exact log density.
        answer: the network's mixtures, or its flows, which do not adapt.
        n_draws: draws for each dataset.
        **options: options of `amortized.sampling.smc`.

    Returns:
        draws, weighted if some of the datasets end at "importance" or "adapted". Diagnostics
        ``k_hat`` and ``efficiency`` evaluate the network's posterior: the weights' tail, and their
        effective number as a share of the draws.
    """
    draws, efficiency = weigh(density, answer, n_draws)
    draws = judged(measured(density, draws))
    stages = ["importance"] * density.n_datasets
    poor = (~_trusted(draws, efficiency)).nonzero()[:, 0]
    # A near-zero effective sample size indicates a mismatched proposal: not a good start.
    far, near = poor[efficiency[poor] < 0.005], poor[efficiency[poor] >= 0.005]
    start = answer.take(near)
    if len(near) and isinstance(start, FromMixture):
        start = FromMixture(adapt(start.mixture, log_density(density.take(near))))
        again, share = weigh(density.take(near), start, n_draws)
        again = judged(measured(density.take(near), again))
        good = _trusted(again, share)
        draws = put_draws(draws, near[good], take_draws(again, good.nonzero()[:, 0]))
        for i in near[good].tolist():
            stages[i] = "adapted"
        near, start = near[~good], start.take(~good)
    for index, begin in ((near, start), (far, "auto")):
        if len(index):
            found, by_nuts = _temper(density.take(index), n_draws, options | {"start": begin})
            draws = put_draws(draws, index, found)
            for i, is_nuts in zip(index.tolist(), by_nuts.tolist(), strict=True):
                stages[i] = "nuts" if is_nuts else "smc"
    return draws, stages


def _trusted(draws: Draws, efficiency: Tensor) -> Bool[Tensor, " batch"]:
    """Whether the weights are good enough for the result."""
    good = (draws.diagnostics["k_hat"] < 0.7) & (efficiency >= _LEAST_EFFICIENCY)
    return good & ~any_doubt(draws.diagnostics)


def log_density(density: ProgramDensity) -> Callable[[Tensor], Tensor]:
    """The log density as a function of u, evaluated for a few datasets at a time."""
    return lambda u: sum(_evaluated(density, u), torch.zeros(()))


def weigh(
    density: ProgramDensity, answer: Start, n_draws: int
) -> tuple[Draws, Float[Tensor, " batch"]]:
    """Weighted draws of the mixtures with their evidence, and their efficiency.

    Args:
        density: the exact log density.
        answer: the network's densities.
        n_draws: draws for each dataset.
    """
    n = max(n_draws, _FEWEST)
    n_prior = round(_PRIOR_SHARE * n)
    with torch.no_grad():
        u = torch.cat((answer.sample(n - n_prior), density.sample_prior(n_prior)), 1)
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
    """Log prior and log likelihood, a few datasets at a time."""
    size = max(1, _CHUNK // (u.shape[1] * density.y[0].numel()))
    parts = [
        density.take(rows).log_prior_and_likelihood(u[rows])
        for rows in torch.arange(len(u)).split(size)
    ]
    log_prior, log_likelihood = map(torch.cat, zip(*parts, strict=True))
    return log_prior, log_likelihood


def _temper(
    density: ProgramDensity, n_draws: int, options: dict[str, Any]
) -> tuple[Draws, Bool[Tensor, " batch"]]:
    """Draws by tempered SMC, or by NUTS if the particles are in doubt and the chains are not."""
    draws = judged(smc(density, n_draws, **options))
    by_nuts = torch.zeros(density.n_datasets, dtype=torch.bool)
    hopeful = (draws.diagnostics["accept"] >= LEAST_ACCEPT) & ~_stretched(draws.u)
    index = (any_doubt(draws.diagnostics) & hopeful).nonzero()[:, 0]
    if len(index):
        some, particles = density.take(index), take_draws(draws, index)
        start = FromDraws(particles.u)
        n = max(n_draws, _FEWEST)
        chains = nuts(some, n, target_accept=_CAREFUL, start=start)
        chains = judged(checked_chains(some, chains, particles))
        better = (~any_doubt(chains.diagnostics)).nonzero()[:, 0]
        chosen = torch.linspace(0, chains.u.shape[1] - 1, n_draws).long()
        chains = chains._replace(u=chains.u[:, chosen], cluster=blocks_of_chains(chains)[:, chosen])
        draws = put_draws(draws, index[better], take_draws(chains, better))
        by_nuts[index[better]] = True
    return draws, by_nuts


def _stretched(u: Float[Tensor, "batch n dim"]) -> Bool[Tensor, " batch"]:
    """Where a trajectory of NUTS, with a diagonal mass matrix, would need too many steps.

    It is as long as the widest direction of the scaled posterior, in steps of the narrowest.
    """
    scaled = (u - u.mean(1, keepdim=True)) / u.std(1, keepdim=True).clamp(min=1e-300)
    variances = torch.linalg.eigvalsh(scaled.mT @ scaled).abs()
    return variances.amax(-1) > _STRETCHED**2 * variances.amin(-1)


def _stages(problem: Problem, stages: list[str]) -> list[str] | str:
    """The stage of each dataset of a batch."""
    return stages if problem.batch_shape else stages[0]
