r"""One-pass posteriors: a Distribution Transformer conditioned on the latent prior and the data.

The output is a Gaussian mixture over u, the latents in unconstrained space. This module only checks
whether the prior and the data lie in the network's training range; `amortized.infer.cascade`
weights it by the exact density.
"""

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer.inputs.problem import Problem
from amortized.infer.programs import posterior_from_draws
from amortized.latent_priors.fitting import fit_draws, fit_mixture, product
from amortized.latent_priors.problems import PROBLEMS, Embedding, embedding_of
from amortized.latent_priors.replaced_density import LatentPriorDensity
from amortized.networks import DistributionTransformer
from amortized.networks.calibration import Calibration
from amortized.posterior import Posterior
from amortized.pretrained import available, load
from amortized.program.density import ProgramDensity
from amortized.program.observations.possible import check_possible
from amortized.sampling.draws import Draws
from amortized.sampling.start import FromMixture
from amortized.seeding import seeded

Network = DistributionTransformer | str | Path


@dataclass(frozen=True)
class Answer:
    """A network's posterior for each dataset of a batch.

    Attributes:
        mixture: the posterior over the model's u, of batch shape ``(batch,)``.
        inside: whether prior and data lie in the training range of the network, ``(batch,)``.
        density: the exact density under the same latent prior; NaN for a simulator.
        calibration: calibration of the network as measured after training; None if not measured.
    """

    mixture: GaussianMixture
    inside: Bool[Tensor, " batch"]
    density: ProgramDensity
    calibration: Calibration | None = None


def by_network(problem: Problem, n_draws: int, network: Network | None = None) -> Posterior:
    """The unweighted one-pass posterior of a Distribution Transformer.

    Args:
        problem: the inference problem.
        n_draws: number of draws from the mixture.
        network: as for `network_answer`.
    """
    return in_one_pass(problem, network_answer(problem, network), n_draws)


def network_answer(problem: Problem, network: Network | None = None) -> Answer:
    """The mixture of a Distribution Transformer.

    Args:
        problem: the inference problem.
        network: a `DistributionTransformer` trained on the program, the name of a pretrained one or
            its folder; None uses the pretrained one for the model's likelihood.

    Raises:
        ValueError: if there is no such network, or it was trained on another program.
    """
    served = find_network(problem, network)
    if served is None:
        raise ValueError(
            f"Expected a model that a pretrained network is for ({sorted(PROBLEMS)}; here are "
            f"{available()}); got {type(problem.source).__name__}. Train one with train(prior, "
            "DistributionTransformerConfig()) and give it as network=..."
        )
    return one_pass(problem, *served)


def in_one_pass(problem: Problem, answer: Answer, n_draws: int) -> Posterior:
    """Converts a network's output to a `Posterior`, without weighting by the density.

    Warns:
        UserWarning: if the network was measured to be poor even inside its training range.
    """
    u = FromMixture(answer.mixture).sample(n_draws)
    diagnostics: dict[str, Any] = {"inside_training_range": answer.inside}
    if answer.calibration is not None:
        diagnostics["calibration"] = str(answer.calibration)
        diagnostics["calibrated"] = not answer.calibration.doubts
        for doubt in answer.calibration.doubts:
            warnings.warn(
                f"Do not trust this network's answer: {doubt}. Train it longer or with more "
                "weights, or use method='smc' or 'nuts' where the model has a density.",
                UserWarning,
                stacklevel=4,
            )
    draws = Draws(u, None, None, 1, diagnostics)
    return posterior_from_draws(problem, answer.density, draws, "dt", answer.mixture)


def find_network(
    problem: Problem, network: Network | None = None
) -> tuple[DistributionTransformer, Embedding] | None:
    """The network for a problem, and the embedding of the problem in its tasks; None if none."""
    place = embedding_of(problem.source)
    if network is None:
        if place is None or place.name not in available():
            return None
        return _loaded(place.name), place
    if isinstance(network, str | Path):
        network = _loaded(str(network))
    if not isinstance(network, DistributionTransformer):
        raise TypeError(
            f"Expected network to be a DistributionTransformer; got {type(network).__name__}."
        )
    if place is None or network.config.prior != place.name:
        # A network without a name was trained on a program that only the user knows.
        name = network.config.prior if network.config.prior in PROBLEMS else ""
        place = Embedding(name or "", tuple(range(network.config.dim)), lambda x: x)
        if name:
            _require_program_of(name, problem)
    return network, place


def _require_program_of(name: str, problem: Problem) -> None:
    """Raises an error if a program's likelihood differs from that of a named network's tasks.

    They are compared up to a constant at draws from the program's own prior. The priors may differ,
    because networks are conditioned on the prior; the maps from u to the latents may not.
    """
    refusal = (
        f"Expected the program that the network {name!r} was trained on, "
        f"{type(PROBLEMS[name].program()).__name__}; got one that "
    )
    ours = problem.density(allow_simulator=True).take(torch.tensor([0]))
    try:
        theirs = ProgramDensity(
            PROBLEMS[name].program().model, ours.x, ours.y, allow_simulator=True
        )
    except ValueError as reason:
        raise ValueError(refusal + f"has other data. {reason}") from reason
    if [shape.numel() for _, shape in ours.layout.values()] != [
        shape.numel() for _, shape in theirs.layout.values()
    ]:
        raise ValueError(refusal + f"has other latents, {list(ours.layout)}.")
    with seeded(0), torch.no_grad():
        u = torch.cat([each.sample_prior(8) for each in (ours, theirs)], 1)
        latents = [[*each.constrain(u).values()] for each in (ours, theirs)]
        both = [each.log_likelihood(u) for each in (ours, theirs)]
        off = torch.where(both[0] == both[1], 0.0, both[0] - both[1])
    same_units = all(
        torch.allclose(one.reshape(len(u[0]), -1), other.reshape(len(u[0]), -1), rtol=1e-6)
        for one, other in zip(*latents, strict=True)
    )
    if not same_units or not bool((off - off[:, :1]).abs().max() < 1e-3):
        raise ValueError(
            refusal + "has another likelihood. Train one with train(program, 'dt'), or use "
            "method='smc'."
        )


@lru_cache(maxsize=16)
def _loaded(name: str) -> DistributionTransformer:
    network = load(name)
    if not isinstance(network, DistributionTransformer):
        raise ValueError(
            f"Expected the name of a Distribution Transformer; got {name!r}, which is a "
            f"{type(network).__name__}."
        )
    return network


def one_pass(problem: Problem, network: DistributionTransformer, place: Embedding) -> Answer:
    """The network's posterior for every dataset of a problem, in float64.

    Raises:
        ValueError: if the data or the latents do not match the network's program.
    """
    density, config = problem.density(allow_simulator=True), network.config
    if len(place.coordinates) != density.dim:
        raise ValueError(
            f"Expected a network for {density.dim} latents, {list(density.layout)}; got one for "
            f"{len(place.coordinates)}, trained on {config.prior or 'a program without a name'}."
        )
    check_supports(problem, density)
    check_possible(density)
    prior = prior_mixture(density, config.n_components)
    mixture, inside = mixture_answer(network, place, problem.source, prior, problem.x, problem.y)
    return Answer(mixture, inside, density, network.calibration)


def mixture_answer(
    network: DistributionTransformer,
    place: Embedding,
    model: Any,
    prior: GaussianMixture,
    x: Float[Tensor, "batch n features"],
    y: Float[Tensor, "batch n"],
) -> tuple[GaussianMixture, Bool[Tensor, " batch"]]:
    """The network's mixture over the model's u in float64, and whether it is in training range."""
    config, x = network.config, place.inputs(x)
    if y.ndim != 2:
        raise ValueError(
            "Expected one number per row as a network's data; got rows of shape "
            f"{tuple(y.shape[2:])}. Use a sampler."
        )
    if (x.shape[-1] + 1,) != config.widths or config.lengths[0] not in (0, y.shape[1]):
        raise ValueError(
            f"Expected data as the network was trained on: {config.widths[0] - 1} inputs and "
            f"{config.lengths[0] or 'any number of'} rows; got {x.shape[-1]} and {y.shape[1]}."
        )
    scales = torch.tensor(place.scales or (1.0,), dtype=torch.float64)
    prior = _multiplied(prior, scales)
    told = _with_unused(prior, place.coordinates, config.dim).to(torch.float32)
    rows = torch.cat((x, y.unsqueeze(-1)), -1)
    summary = None
    if config.n_sketch:
        program: Any = PROBLEMS[place.name].program() if place.name else model
        if not hasattr(program, "likelihood_summary"):
            raise ValueError(
                "Expected a model with the method likelihood_summary that the network was trained "
                f"with; got {type(program).__name__}. Give the prior whose method it is."
            )
        summary = program.likelihood_summary(x, y, torch.ones_like(y, dtype=torch.bool))
    with torch.no_grad():
        answer = network(told, {"data": rows.float()}, None, summary)
    mixture = answer.to(torch.float64).expand((len(y),))
    if place.coordinates != tuple(range(config.dim)):
        mixture = mixture.marginal(place.coordinates)
    return _multiplied(mixture, 1 / scales), _inside(network, told, rows)


def _multiplied(mixture: GaussianMixture, scales: Tensor) -> GaussianMixture:
    """The mixture with every coordinate multiplied by its scale."""
    scales = scales.to(mixture.means)
    return GaussianMixture(
        mixture.log_weights,
        mixture.means * scales,
        mixture.scale_tril * scales.unsqueeze(-1),
        False,
    )


def prior_mixture(density: ProgramDensity, n_components: int) -> GaussianMixture:
    """The prior over u as a mixture: the given one, or a fit to the program's own.

    Independent latents are fitted one by one, with this many components each. If their product is
    not the program's density, the latents are dependent, and the fit is to draws.
    """
    if isinstance(density, LatentPriorDensity):
        return density.latent_prior
    one = density.take(torch.tensor([0]))
    with seeded(0):
        u = one.sample_prior(4096)
    try:
        each = [fit_mixture(density.priors[name], n_components) for name in density.layout]
        fitted = product(each).to(u.dtype)
    except ValueError:  # a family whose elements are not independent
        return fit_draws(u[0], n_components)
    some = u[:, :256]
    off = one.log_prior(some)[0] - fitted.log_prob(some[0])
    return fitted if off.mean().abs() < 0.05 else fit_draws(u[0], n_components)


def check_supports(problem: Problem, density: ProgramDensity) -> None:
    """Raises an error for a prior whose bijection to the real line is not the program's own."""
    if problem.model is problem.source or problem.source is None:
        return
    own = replace(problem, model=problem.source).density(allow_simulator=True)
    own = own.take(torch.tensor([0]))
    u = torch.linspace(-2.0, 2.0, 3, dtype=problem.y.dtype).reshape(1, 3, 1)
    u = u.expand(1, 3, own.dim)
    here, there = density.take(torch.tensor([0])).constrain(u), own.constrain(u)
    for name in own.layout:
        if not torch.allclose(here[name], there[name]):
            raise ValueError(
                f"Expected a latent prior of '{name}' with the support that the program gives it, "
                f"{own.supports[name]}; got {density.supports[name]}. Use method='smc', or a "
                "GaussianMixture over unconstrained space."
            )


def _with_unused(prior: GaussianMixture, coordinates: tuple[int, ...], dim: int) -> GaussianMixture:
    """The prior in the network's latents; latents that the model lacks are N(0, 1)."""
    unused = [i for i in range(dim) if i not in coordinates]
    if not unused:
        return prior
    n = len(unused)
    zeros = prior.means.new_zeros(*prior.batch_shape, n)
    eye = torch.eye(n, dtype=zeros.dtype).expand(*prior.batch_shape, n, n)
    both = product([prior, GaussianMixture.from_moments(zeros, eye)], prior.n_components)
    order = [[*coordinates, *unused].index(i) for i in range(dim)]
    return both.marginal(order)


def _inside(
    network: DistributionTransformer, prior: GaussianMixture, rows: Float[Tensor, "batch n numbers"]
) -> Bool[Tensor, " batch"]:
    """Whether prior and data lie in the training range of the network."""
    config, inside = network.config, torch.ones(len(rows), dtype=torch.bool)
    if config.n_context and not config.lengths[0]:
        inside &= config.n_context[0] <= rows.shape[1] <= config.n_context[1]
    if config.reach:
        farthest, least, most, largest = config.reach
        mean, sd = (prior.mean - network.location) / network.scale, prior.stddev / network.scale
        near = (mean.abs() <= 1.5 * farthest) & (sd >= least / 1.5) & (sd <= 1.5 * most)
        flat = rows.flatten(1) if config.lengths[0] else rows
        numbers = (flat - network.encoder.row_location) / network.encoder.row_scale
        inside &= near.all(-1) & (numbers.abs().flatten(1) <= 1.5 * largest).all(-1)
    return inside
