"""The moves of the package's own samplers as kernels: Hamiltonian moves of `hmc` and `smc`, NUTS.

References:
    Neal, MCMC using Hamiltonian dynamics (2011), arXiv 1206.1901.
    Hoffman and Gelman, The No-U-Turn sampler (2014), arXiv 1111.4246.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from amortized.mcmc.annealing import WeightedSampler
from amortized.mcmc.kernel import Kernel, private_seed
from amortized.program.density import ProgramDensity
from amortized.program.vectorised import quiet_program
from amortized.sampling.nuts import SeededNUTS
from amortized.sampling.steps.hamiltonian import Tuning, hamiltonian_move
from amortized.sampling.steps.tempered_run import Limits, run
from amortized.sampling.steps.tempering import Path, Point
from amortized.seeding import seeded
from amortized.validation import number_between, whole_number

__all__ = ["Hamiltonian", "NoUTurn", "TemperedSMC"]

_LIMITS = Limits(0.5, 0.3, 15)


class _AtTarget:
    """A target in the place of a tempered path, with all of its density in the gain."""

    def __init__(self, target: Any, shape: torch.Size) -> None:
        self._target, self._shape = target, shape

    def at(self, u: Tensor, beta: Tensor) -> Point:
        value, gradient = self._target.value_and_gradient(u.reshape(self._shape))
        gain = value.reshape(u.shape[:2])
        return Point(u, torch.zeros_like(gain), gain, gradient.reshape(u.shape))


class Hamiltonian(Kernel):
    r"""The Hamiltonian move of `amortized.sampling.hmc` and `smc`, with a fixed step size.

    The trajectory has a length of about :math:`\pi / 2` in units of ``factor``; the step size is
    jittered by 30% for each point.

    Args:
        target: a differentiable density.
        step_size: step size of the leapfrog integrator, in units of ``factor``.
        factor: Cholesky factor of the inverse mass matrix, ``(dim, dim)``; None for the identity.

    Example:
        >>> import torch
        >>> from amortized.mcmc import Target, run_chains
        >>> normal = Target(lambda u: -0.5 * u.square().sum(-1), 3)
        >>> start = torch.zeros(500, 3, dtype=torch.float64)
        >>> draws = run_chains(Hamiltonian(normal, 0.8), start, 4, n_warmup=4)
        >>> round(draws.std().item(), 1)
        1.0
    """

    def __init__(self, target: Any, step_size: float = 0.5, factor: Tensor | None = None) -> None:
        step_size = number_between("step_size", step_size, 0, math.inf)
        dim = target.dim
        if factor is not None and factor.shape != (dim, dim):
            raise ValueError(f"Expected factor of shape {(dim, dim)}; got {tuple(factor.shape)}.")
        self.target, self.step_size, self.factor = target, step_size, factor

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        u = state.double().reshape(1, -1, self.target.dim)
        one, path = u.new_ones(1), _AtTarget(self.target, state.shape)
        factor = torch.eye(u.shape[-1]) if self.factor is None else self.factor
        tuning = Tuning(
            self.step_size * one, factor.to(u)[None, None], one, u.new_ones(1, 2 * u.shape[-1])
        )
        with seeded(private_seed(generator)):
            point, _ = hamiltonian_move(path, path.at(u, one), one, tuning)
        return point.u.reshape(state.shape).to(state)


class NoUTurn(Kernel):
    """One transition of Pyro's NUTS with a fixed step size, as in `amortized.sampling.nuts`.

    The points move one after another, which takes milliseconds for each.

    Args:
        target: a differentiable density.
        step_size: step size of the leapfrog integrator.
        max_tree_depth: a trajectory has at most ``2**max_tree_depth`` steps.
    """

    def __init__(self, target: Any, step_size: float = 0.5, max_tree_depth: int = 6) -> None:
        self.target, self.step_size = target, number_between("step_size", step_size, 0, math.inf)
        self.max_tree_depth = whole_number("max_tree_depth", max_tree_depth, 1)

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        n_datasets = state.shape[0] if state.ndim == 3 else 1
        of_datasets = state.reshape(n_datasets, -1, state.shape[-1])
        with seeded(private_seed(generator)), quiet_program(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            moved = [
                self._move(self.target.of_dataset(i), point)
                for i, points in enumerate(of_datasets)
                for point in points
            ]
        return torch.stack(moved).reshape(state.shape)

    def _move(self, target: Any, point: Tensor) -> Tensor:
        def potential(latents: dict[str, Tensor]) -> Tensor:
            return -target.log_density(latents["u"])

        move = SeededNUTS(
            potential_fn=potential,
            step_size=self.step_size,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            max_tree_depth=self.max_tree_depth,
        )
        with torch.enable_grad():
            move.initial_params = {"u": point.clone()}
            move.setup(0)
            return move.sample({"u": point.clone()})["u"].detach()


class TemperedSMC(WeightedSampler):
    """One run of tempered SMC from the prior, `amortized.sampling.steps.tempered_run`.

    Temperatures, step sizes and mass matrices are learnt from the particles, so that the evidence
    is unbiased only in the limit of many particles; `validate` shows how far it is off.

    Args:
        density: the log density of one dataset.
        target: the same density as a target, with exact draws.
        n_particles: number of particles of each run, a multiple of 4.
    """

    def __init__(self, density: ProgramDensity, target: Any, n_particles: int = 128) -> None:
        self._path, self.target, self.n_particles = Path(density), target, n_particles

    def sample(self, n_runs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with seeded(private_seed(generator)):
            state = run(self._path.take(torch.zeros(n_runs).long()), self.n_particles, 2, _LIMITS)
        return state.point.u, state.evidence.unsqueeze(-1).expand(state.point.u.shape[:2])
