"""Training of a flow on simulations, and measurement of its calibration."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.latent_priors.exchangeability import rows_are_exchangeable
from amortized.priors.program_prior import ProgramPrior
from amortized.program.density import ProgramDensity
from amortized.program.simulation import ProgramSimulator
from amortized.program.vectorised import Program, precision
from amortized.seeding import seeded
from amortized.simulation_based.calibration import measure_likelihood, measure_posterior
from amortized.simulation_based.config import FlowConfig, FlowTraining
from amortized.simulation_based.fitting import Fit, fit
from amortized.simulation_based.flows.likelihood_flow import LikelihoodFlow
from amortized.simulation_based.flows.posterior_flow import PosteriorFlow
from amortized.simulation_based.simulations import Simulations, simulate

_RESOLVED = 1e-4  # least spread relative to the level; single precision has 6e-8

NAMES = {"npe": FlowConfig(), "nle": FlowConfig(target="likelihood")}
"""Configurations by the name that `amortized.train` knows."""

FLOWS: Mapping[str, tuple[Any, Any]] = {
    "npe": (PosteriorFlow, FlowConfig),
    "nle": (LikelihoodFlow, FlowConfig),
}
"""Networks and configurations by the name that stored ones have."""

Flow = PosteriorFlow | LikelihoodFlow


class Learned(NamedTuple):
    """A trained flow and how it came about.

    Attributes:
        network: in eval mode, with its calibration.
        simulations: successful simulations.
        fit: losses, epochs and seconds.
    """

    network: Any
    simulations: Simulations
    fit: Fit


def train_flow(
    prior: ProgramPrior, config: FlowConfig, training: FlowTraining, progress: bool
) -> Flow:
    """Simulates from the prior, trains a flow and measures its calibration.

    Warns:
        UserWarning: if the calibration is poor.
    """
    n_rows = training.n_rows or getattr(prior, "ordered", 0)
    if not n_rows:
        raise ValueError(
            "Expected the number of rows of a dataset; got none. Give FlowTraining(n_rows=...), or "
            "a prior with the attribute 'ordered'."
        )
    with precision(torch.float32), seeded(training.seed), torch.no_grad():
        x = prior._inputs(training.n_simulations, n_rows)
    model = prior.model
    config = replace(config, rows=rows_of(config.rows, prior, n_rows))
    simulator = ProgramSimulator(model, x[0])
    simulations = from_prior(simulator, x, training, progress)
    learned = learn(simulations, simulator, config, training, progress)
    for doubt in learned.network.calibration.doubts:
        warnings.warn(
            f"Do not rely on this network yet: {doubt}. More simulations, a larger network or a "
            "longer training may help.",
            UserWarning,
            stacklevel=5,
        )
    return learned.network


def rows_of(rows: str, prior: ProgramPrior, n_rows: int) -> str:
    """How rows are read: as requested, or as determined from the program's density.

    Args:
        rows: as in `FlowConfig`.
        prior: the program and its inputs.
        n_rows: rows of a dataset.
    """
    if rows != "auto":
        return rows
    if n_rows < 2 or bool(getattr(prior, "ordered", False)):
        return "ordered"
    with precision(torch.float32), seeded(0), torch.no_grad():
        x = prior._inputs(16, n_rows)
        simulator = ProgramSimulator(prior.model, x[0])
        if not simulator.has_density:  # the test would cost thousands of simulations
            return "ordered"
        u = simulator.sample_prior(x)
        density = ProgramDensity(prior.model, x.double(), simulator(u, x)[1].double())
        if not _rows_add_up(density, u.double()):
            return "ordered"
    return "exchangeable" if rows_are_exchangeable(prior, n_rows) else "ordered"


def _rows_add_up(density: ProgramDensity, u: Tensor) -> bool:
    """Whether the log likelihood is a sum over rows: swaps of a row between datasets cancel."""
    half = len(u) // 2
    one, other = (torch.arange(half), torch.arange(half, 2 * half))
    x, y = density.x[one], density.y[one]
    swapped_x, swapped_y = x.clone(), y.clone()
    swapped_x[:, 0], swapped_y[:, 0] = density.x[other][:, 0], density.y[other][:, 0]
    back_x, back_y = density.x[other].clone(), density.y[other].clone()
    back_x[:, 0], back_y[:, 0] = x[:, 0], y[:, 0]

    def log_likelihood(x: Tensor, y: Tensor) -> Tensor:
        return density.of_data(x, y).log_likelihood(u[one].unsqueeze(1))[:, 0]

    ours = log_likelihood(x, y) + log_likelihood(density.x[other], density.y[other])
    theirs = log_likelihood(swapped_x, swapped_y) + log_likelihood(back_x, back_y)
    same = ((ours - theirs).abs() <= 1e-6 * (1 + ours.abs())) | (ours == theirs)
    return bool(same.all())


def from_prior(
    simulator: ProgramSimulator,
    x: Float[Tensor, "n rows features"],
    training: FlowTraining,
    progress: bool = False,
) -> Simulations:
    """Simulations at latents drawn from the program's prior."""
    with seeded(training.seed):
        u = simulator.sample_prior(x)
    return simulate(
        simulator, u, x, seed=training.seed + 1, n_jobs=training.n_jobs, progress=progress
    )


def learn(
    simulations: Simulations,
    simulator: ProgramSimulator,
    config: FlowConfig,
    training: FlowTraining,
    progress: bool = False,
) -> Learned:
    """Trains a new flow on simulations and measures it on those held out.

    Args:
        simulations: simulations of any latents for a likelihood; of the prior's for a posterior.
        simulator: simulator of the program.
        config: sizes; the data's are filled in.
        training: rates and limits.
        progress: whether a bar is shown.
    """
    u, x, y = simulations.u, simulations.x, simulations.y
    if len(u) < 20:
        raise ValueError(
            f"Expected at least 20 simulations that worked; got {len(u)} of {simulations.n_calls}."
        )
    check_resolution("latents", u)
    check_resolution("simulated data", y.flatten(1))
    config = replace(
        config,
        dim=simulator.dim,
        names=labels(simulator),
        n_features=x.shape[-1],
        event=tuple(y.shape[2:]),
        n_rows=x.shape[1],
    )
    of_posterior = config.target == "posterior"
    with seeded(training.seed):
        network: Any = (PosteriorFlow if of_posterior else LikelihoodFlow)(config)
        last = torch.rand(len(u)).argsort().argsort() < round(training.held_out * len(u))
    with torch.no_grad(), seeded(training.seed + 1):
        residual, inputs = network.prepare(u, x, y)
    n_each = len(residual) // len(u)  # a likelihood may be that of single rows
    held_out = last.repeat_interleave(n_each)
    members, size = list(network.ensemble.members), training.batch_size * n_each
    settings = replace(training, batch_size=size)
    fitted = fit(members, residual, inputs, held_out, settings, progress)
    network.eval().requires_grad_(False)
    if of_posterior:
        kept = Simulations(u[last], x[last], y[last], int(last.sum()), 0, 0.0)
        network.calibration = measure_posterior(
            network, kept, density_of(simulator.model, x[:1], y[:1]), training.seed
        )
    else:
        network.calibration = measure_likelihood(
            network, residual[held_out], inputs[held_out], x.shape[1]
        )
    return Learned(network, simulations, fitted)


def check_resolution(name: str, values: Float[Tensor, "n numbers"]) -> None:
    """Refuses numbers far from zero, whose differences are lost in single precision."""
    if not values.numel():  # a program without inputs
        return
    numbers = values.double()
    spread, level = numbers.std(0, correction=0), numbers.median(0).values.abs()
    lost = ((spread > 0) & (spread < _RESOLVED * level)).nonzero()[:, 0]
    if len(lost):
        at = lost[0]
        raise ValueError(
            f"Expected {name} whose spread shows beside their level; got a level of "
            f"{float(level[at]):.4g} and a standard deviation of {float(spread[at]):.4g}, which "
            "single precision hardly resolves. Subtract a constant, and add it in the program."
        )


def labels(simulator: ProgramSimulator) -> tuple[str, ...]:
    """A name for each coordinate of u."""
    found = []
    for name, (_, shape) in simulator.layout.items():
        n = shape.numel()
        found += [name] if n == 1 else [f"{name}[{i}]" for i in range(n)]
    return tuple(found)


def density_of(model: Program, x: Tensor, y: Tensor) -> ProgramDensity | None:
    """The program's own density; None where it has none that can be evaluated."""
    try:
        density = ProgramDensity(model, x.double(), y.double(), allow_simulator=True)
    except ValueError:
        return None
    return None if density.is_simulator else density
