"""What belongs to the draws of a program's posterior, group by group as ArviZ has them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from amortized.infer.inputs.problem import Problem
from amortized.program.density import ProgramDensity
from amortized.program.observations.named_data import NamedData
from amortized.program.observations.observed import at_latents, observed_values
from amortized.seeding import seeded


@dataclass(frozen=True)
class ProgramGroups:
    """Log likelihoods, replicated data, the data themselves, and the log density of the draws.

    A class, so that it pickles.

    Args:
        problem: the program and its data.
        density: density of the program.
    """

    problem: Problem
    density: ProgramDensity

    def __call__(self, draws: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Groups for draws ``{name: (n, *batch, *event)}`` of all latents."""
        many = bool(self.problem.batch_shape)
        latents = {
            name: (value if many else value.unsqueeze(1)).movedim(1, 0)
            for name, value in draws.items()
            if name not in self.density.deterministic
        }
        with seeded(0):
            observed = observed_values(self.density)
            groups = {"observed_data": {k: v if many else v[0] for k, v in observed.items()}}
            if not self.density.is_simulator and latents:
                log_likelihood, replicated = at_latents(self.density, latents)
                lp = self.density.log_density(self.density.unconstrain(latents))
                for group, values in (
                    ("log_likelihood", log_likelihood),
                    ("posterior_predictive", replicated),
                    ("sample_stats", {"lp": lp}),
                ):
                    groups[group] = {
                        name: value.movedim(1, 0) if many else value[0]
                        for name, value in values.items()
                    }
        return groups | {"constant_data": self._constants(observed)}

    def _constants(self, observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs: x, or the named arrays that are no observations."""
        program = named_program(self.problem.program)
        if program is not None:
            return {name: v for name, v in program.arrays.items() if name not in observed}
        x = self.problem.x if self.problem.batch_shape else self.problem.x[0]
        return {"x": x} if x.shape[-1] else {}


def named_program(program: object) -> NamedData | None:
    """The program with named data that a program is made of; None where it has x and y."""
    while program is not None and not isinstance(program, NamedData):
        program = getattr(program, "program", None)
    return program
