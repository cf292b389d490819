"""The methods of `infer` that learn from simulations: "npe" and "snl"."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amortized.infer.cascade import cascade
from amortized.infer.inputs.problem import Problem
from amortized.infer.programs import posterior_from_draws
from amortized.networks.calibration import Calibration
from amortized.posterior.posterior import Posterior
from amortized.pretrained import load
from amortized.priors.program_prior import ProgramPrior
from amortized.program.density import ProgramDensity
from amortized.program.observations.possible import check_possible
from amortized.sampling.checks.verdict import judged
from amortized.sampling.draws import Draws
from amortized.sampling.smc import smc
from amortized.seeding import current_seed
from amortized.simulation_based.config import FlowConfig, FlowTraining
from amortized.simulation_based.flows.likelihood_flow import LikelihoodFlow, learned_program
from amortized.simulation_based.flows.posterior_flow import FromFlow, PosteriorFlow
from amortized.simulation_based.learning import NAMES, Learned, check_resolution, rows_of
from amortized.simulation_based.rounds import in_rounds


def by_posterior_flow(
    problem: Problem,
    n_draws: int,
    *,
    network: PosteriorFlow | FlowConfig | str | Path | None = None,
    n_simulations: int = 10_000,
    n_rounds: int = 1,
    training: FlowTraining | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> Posterior:
    """Neural posterior estimation, finished under the program's own density where it has one.

    Without a trained network, one is trained first, on simulations from the prior.

    Args:
        problem: the inference problem.
        n_draws: draws for each dataset.
        network: trained by ``train(prior, "npe")``, or its folder; or sizes of a new one.
        n_simulations: calls of the simulator, if a network is trained.
        n_rounds: rounds of simulations, each where the posterior so far has its mass.
        training: rates and limits of a training; its number of simulations is not used.
        n_jobs: processes that run a simulator that cannot be vectorised.
        progress: whether bars are shown.

    Warns:
        UserWarning: if the network was measured to be poor.
    """
    given = network is not None and not isinstance(network, FlowConfig)
    if given and (problem.latent_prior is not None or problem.model is not problem.source):
        raise ValueError(
            "Expected the prior that the network was trained under; got a latent_prior. Leave "
            "network out, so that one is trained, or use method='snl', whose likelihood serves any "
            "prior."
        )
    how = training, n_simulations, n_rounds, n_jobs, progress
    trained, diagnostics = _trained(problem, network, "npe", PosteriorFlow, *how)
    density = problem.density(allow_simulator=True)
    answer = FromFlow(trained, trained.inputs(problem.x, problem.y))
    inside = trained.inside(answer.inputs)
    diagnostics["inside_training_range"] = inside
    if density.is_simulator:
        with torch.no_grad():
            draws = Draws(answer.sample(n_draws), None, None, 1, diagnostics)
        _warn(trained.calibration, inside, "")
        return posterior_from_draws(problem, density, draws, "npe", flow=answer)
    check_possible(density)
    draws, stages = cascade(density, answer, n_draws)
    if any(stage != "importance" for stage in stages):
        _warn(trained.calibration, inside, f" Its answer was replaced by draws of {stages[0]!r}.")
    draws = draws._replace(diagnostics=draws.diagnostics | diagnostics)
    posterior = posterior_from_draws(problem, density, draws, "npe")
    posterior.diagnostics["stage"] = stages if problem.batch_shape else stages[0]
    return posterior


def by_learned_likelihood(
    problem: Problem,
    n_draws: int,
    *,
    network: LikelihoodFlow | FlowConfig | str | Path | None = None,
    n_simulations: int = 2000,
    n_rounds: int | None = None,
    training: FlowTraining | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> Posterior:
    """Sequential neural likelihood: draws by SMC under a likelihood that is learned in rounds.

    The answer has a log evidence, as far as the learned likelihood is right.

    Args:
        problem: the inference problem.
        n_draws: draws for each dataset.
        network: trained by ``train(prior, "nle")``, or its folder; or sizes of a new one.
        n_simulations: calls of the simulator, if a network is trained.
        n_rounds: rounds of simulations, each from the posterior so far; None for five, or one for
            a batch of datasets.
        training: rates and limits of a training; its number of simulations is not used.
        n_jobs: processes that run a simulator that cannot be vectorised.
        progress: whether bars are shown.

    Warns:
        UserWarning: if the learned likelihood was measured to be poor.
    """
    how = training, n_simulations, n_rounds or (1 if len(problem.x) > 1 else 5), n_jobs, progress
    trained, diagnostics = _trained(problem, network, "nle", LikelihoodFlow, *how)
    learned_problem = replace(problem, model=learned_program(problem.program, trained))
    density: ProgramDensity = learned_problem.density()
    draws = judged(smc(density, n_draws))
    _warn(trained.calibration, None, "")
    draws = draws._replace(diagnostics=draws.diagnostics | diagnostics)
    return posterior_from_draws(learned_problem, density, draws, "snl")


def _trained(
    problem: Problem, network: Any, name: str, kind: Any, *how: Any
) -> tuple[Any, dict[str, Any]]:
    """The network, learned for these data if none was given, and its diagnostics."""
    if problem.y.isnan().any():
        raise ValueError(
            "Expected data without missing answers for a flow; got NaN. Leave them out of the "
            "simulator too."
        )
    diagnostics: dict[str, Any] = {}
    if network is None or isinstance(network, FlowConfig):
        learned = _learned(problem, network or NAMES[name], *how)
        network = learned.network
        diagnostics = {
            "n_simulations": learned.simulations.n_calls,
            "n_failed": learned.simulations.n_failed,
            "simulator_seconds": learned.simulations.seconds,
            "training_seconds": learned.fit.seconds,
        }
    if isinstance(network, str | Path):
        network = load(network)
    if not isinstance(network, kind):
        raise TypeError(
            f"Expected network to be a {kind.__name__}, as train(prior, {name!r}) returns it; got "
            f"{type(network).__name__}."
        )
    network.requires_grad_(False)
    _check_data(network.config, problem)
    calibration = network.calibration
    if calibration is not None:
        diagnostics |= {"calibration": str(calibration), "calibrated": not calibration.doubts}
    return network, diagnostics


def _learned(
    problem: Problem,
    config: FlowConfig,
    training: FlowTraining | None,
    n_simulations: int,
    n_rounds: int,
    n_jobs: int,
    progress: bool,
) -> Learned:
    """A flow learned for these data."""
    if problem.latent_prior is not None:
        raise ValueError(
            "Expected a latent prior by distributions of each latent, from which a simulator can "
            "draw; got a mixture over unconstrained space."
        )
    check_resolution("inputs", problem.x.flatten(0, 1))
    x = problem.x.float()
    source = problem.source if isinstance(problem.source, ProgramPrior) else None
    prior = source or ProgramPrior(problem.program, lambda n, _: x[torch.arange(n) % len(x)])
    config = replace(config, rows=rows_of(config.rows, prior, x.shape[1]))
    training = replace(
        training or FlowTraining(seed=current_seed()), n_simulations=n_simulations, n_jobs=n_jobs
    )
    return in_rounds(problem.program, problem.x, problem.y, config, training, n_rounds, progress)


def _check_data(config: FlowConfig, problem: Problem) -> None:
    """Raises an error for data of another shape than the network was trained on."""
    found = (tuple(problem.y.shape[1:]), problem.x.shape[-1])
    alike = config.rows == "exchangeable" and config.target == "likelihood"
    rows = problem.y.shape[1] if alike else config.n_rows
    if found != ((rows, *config.event), config.n_features):
        raise ValueError(
            f"Expected data as the network was trained on, y of shape {(rows, *config.event)} and "
            f"{config.n_features} inputs a row; got {found[0]} and {found[1]}."
        )


def _warn(calibration: Calibration | None, inside: Tensor | None, done: str) -> None:
    """Says where the network is poor, or the data are not of its simulations' kind."""
    doubts = list(calibration.doubts) if calibration is not None else []
    if inside is not None and not inside.all():
        doubts.append("the data lie outside the range of its simulations")
    for doubt in doubts:
        advice = done or " Give more simulations, a larger network or more rounds."
        warnings.warn(
            f"Do not trust this network's answer: {doubt}.{advice}", UserWarning, stacklevel=4
        )
