r"""Sequential simulation: the posterior of each round is the proposal of the next.

*Likelihoods.* A round draws latents from the posterior under the likelihood learned so far, by SMC,
and the likelihood is learned again from all simulations: it does not depend on where the latents
come from.

*Posteriors.* A round draws latents from the prior truncated to the region that holds all but
:math:`10^{-4}` of the mass of the posterior learned so far. Within that region the prior's shape is
unchanged, so the flow is trained on all simulations without a correction, and is the posterior for
the data at hand.

References:
    | Sequential neural likelihood (Papamakarios, Sterratt and Murray, 2019), arXiv 1805.07226
    | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler,
    | Goncalves and Macke, 2022), arXiv 2210.04815
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.program.density import ProgramDensity
from amortized.program.simulation import ProgramSimulator
from amortized.program.vectorised import Program
from amortized.sampling.smc import smc
from amortized.seeding import seeded
from amortized.simulation_based.config import FlowConfig, FlowTraining
from amortized.simulation_based.flows.likelihood_flow import LearnedProgram
from amortized.simulation_based.flows.posterior_flow import PosteriorFlow
from amortized.simulation_based.learning import Learned, learn
from amortized.simulation_based.simulations import Simulations, simulate

_OUTSIDE = 1e-4  # mass of the posterior that a truncated prior may lack
_N_MASS = 10_000  # draws that this region is found from
_AT_ONCE, _MOST = 20_000, 2_000_000  # prior draws tried for one round


def in_rounds(
    program: Program,
    x: Float[Tensor, "batch rows features"],
    y: Tensor,
    config: FlowConfig,
    training: FlowTraining,
    n_rounds: int,
    progress: bool = False,
) -> Learned:
    """Learns a flow from simulations, in one go or in rounds about one dataset.

    Args:
        program: the simulator.
        x: inputs of the datasets, from which those of the simulations are drawn.
        y: their data.
        config: sizes, and whether a posterior or a likelihood is learned.
        training: its ``n_simulations`` are divided among the rounds.
        n_rounds: rounds; more than one only for a single dataset.
        progress: whether bars are shown.
    """
    if n_rounds < 1 or (n_rounds > 1 and len(x) > 1):
        raise ValueError(
            f"Expected n_rounds >= 1, and 1 for a batch of datasets; got {n_rounds} and {len(x)} "
            "datasets. Rounds are about one dataset."
        )
    simulator = ProgramSimulator(program, x[0].float())
    share = training.n_simulations // n_rounds
    total: Simulations | None = None
    learned: Learned | None = None
    for number in range(n_rounds):
        seed = training.seed + 7919 * number
        n = share if number else training.n_simulations - share * (n_rounds - 1)
        with seeded(seed):
            inputs = x.float()[torch.randint(len(x), (n,))]
            if learned is None:
                u = simulator.sample_prior(inputs)
            elif config.target == "likelihood":
                u = _of_posterior(program, simulator, learned, x, y, n)
            else:
                u = _of_truncated_prior(simulator, learned.network, x.float(), y, n)
        new = simulate(
            simulator, u, inputs, seed=seed + 1, n_jobs=training.n_jobs, progress=progress
        )
        total = new if total is None else total.joined(new)
        learned = learn(total, simulator, config, replace(training, seed=seed), progress)
    assert learned is not None
    return learned


def learned_density(
    program: Program, simulator: ProgramSimulator, learned: Learned, x: Tensor, y: Tensor
) -> ProgramDensity:
    """The density of the latents under a learned likelihood."""
    return ProgramDensity(LearnedProgram(program, learned.network, simulator.layout), x, y)


def _of_posterior(
    program: Program, simulator: ProgramSimulator, learned: Learned, x: Tensor, y: Tensor, n: int
) -> Float[Tensor, "n dim"]:
    """Latents from the posterior under the likelihood learned so far."""
    return smc(learned_density(program, simulator, learned, x, y), n).u[0].float()


def _of_truncated_prior(
    simulator: ProgramSimulator, network: PosteriorFlow, x: Tensor, y: Tensor, n: int
) -> Float[Tensor, "n dim"]:
    """Latents from the prior, where the posterior learned so far has nearly all its mass."""
    inputs = network.inputs(x, y)
    with torch.no_grad():
        u = network.sample(_N_MASS, inputs)[:, 0]
        at_draws = network.log_prob(u.unsqueeze(1), inputs)[:, 0]
        least = at_draws.quantile(_OUTSIDE)
        found: list[Tensor] = []
        for _ in range(_MOST // _AT_ONCE):
            some = simulator.sample_prior(x.expand(_AT_ONCE, *x.shape[1:]))
            inside = network.log_prob(some.unsqueeze(1), inputs)[:, 0] >= least
            found.append(some[inside])
            if sum(map(len, found)) >= n:
                break
    kept = torch.cat(found)[:n]
    if len(kept) == n:
        return kept
    raise ValueError(
        f"Expected a posterior that at least {n} of {_MOST} prior draws lie in; got {len(kept)}. "
        "Use method='snl', whose rounds do not draw from the prior."
    )
