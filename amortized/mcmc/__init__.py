"""Markov kernels as objects: moves, their combinations, and tests of their correctness."""

from amortized.mcmc.annealing import AnnealedSampler, ImportanceSampler, WeightedSampler
from amortized.mcmc.combinations import cycle, mix, repeat, temper
from amortized.mcmc.joint import Joint, ProgramJoint
from amortized.mcmc.kernel import Kernel, run_chains
from amortized.mcmc.metropolis import Independence, Langevin, RandomWalk
from amortized.mcmc.package_moves import Hamiltonian, NoUTurn, TemperedSMC
from amortized.mcmc.slice import Slice
from amortized.mcmc.target import Target, Tempered, program_target
from amortized.mcmc.validation import Validation, validate

__all__ = [
    "AnnealedSampler",
    "Hamiltonian",
    "ImportanceSampler",
    "Independence",
    "Joint",
    "Kernel",
    "Langevin",
    "NoUTurn",
    "ProgramJoint",
    "RandomWalk",
    "Slice",
    "Target",
    "Tempered",
    "TemperedSMC",
    "Validation",
    "WeightedSampler",
    "cycle",
    "mix",
    "program_target",
    "repeat",
    "run_chains",
    "temper",
    "validate",
]
