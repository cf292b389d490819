"""The arguments of `infer`, validated and arranged as a batch."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer.inputs.rows import is_one_dataset, program_of
from amortized.latent_priors.conversion import is_by_name, mixture_over_u
from amortized.latent_priors.replaced_density import LatentPriorDensity
from amortized.latent_priors.replaced_sites import with_latent_prior
from amortized.priors.prior import Prior
from amortized.program.density import ProgramDensity
from amortized.program.improper import WithProperDraws, improper_sites
from amortized.program.observations.missing import WithMissing
from amortized.program.observations.named_data import NamedData
from amortized.program.vectorised import Program, precision, quiet_program
from amortized.seeding import seeded

Data = Tensor | ArrayLike


@dataclass(frozen=True)
class Problem:
    """The input of a method: a program, its prior if any, and the data as a batch.

    Attributes:
        model: the Pyro program, or a prior whose ``model`` is one.
        x: ``(batch, n, n_features)``.
        y: ``(batch, n)``, or ``(batch, n, *event)`` if each row is an array.
        batch_shape: ``(batch,)``, or empty for a single dataset.
        source: the model as given by the user, before its latent prior was replaced.
        latent_prior: a mixture over unconstrained space that replaces the program's prior.
        improper: whether the program has improper priors, so that no evidence is defined.
    """

    model: Program | Prior
    x: Tensor
    y: Tensor
    batch_shape: torch.Size
    source: Program | Prior | None = None
    latent_prior: GaussianMixture | None = None
    improper: bool = False

    @property
    def program(self) -> Program:
        """The bare Pyro program."""
        return program_of(self.model)

    def density(self, **allowed: bool) -> ProgramDensity:
        """The program's log density given the data, with the options of `ProgramDensity`."""
        own = ProgramDensity(self.program, self.x, self.y, **allowed)
        return own if self.latent_prior is None else LatentPriorDensity(own, self.latent_prior)


def make_problem(
    model: Program | Prior, x: Data | Mapping[str, Any] | None, y: Data | None, latent_prior: Any
) -> Problem:
    """Checks the data against each other and makes a batch of them."""
    if isinstance(x, Mapping):
        return _named(model, x, latent_prior)
    if x is None:
        raise ValueError("Expected x, or data={...} by the names of the program's arguments.")
    answers = as_tensor(x if y is None else y, "y", allow_nan=True).detach()
    if y is None:
        n_outer = 1 if answers.ndim < 2 or is_one_dataset(model, answers) else 2
        inputs = answers.new_zeros(*answers.shape[:n_outer], 0)
    else:
        inputs = as_tensor(x, "x").detach()
        n_outer = inputs.ndim - 1
    if n_outer not in (1, 2) or inputs.shape[:-1] != answers.shape[:n_outer] or 0 in answers.shape:
        raise ValueError(
            "Expected x of shape (n, n_features) and y of shape (n,), or (n, k) where a row's "
            "answer is a vector, or both with a batch in front, and at least one row; got "
            f"{tuple(inputs.shape)} and {tuple(answers.shape)}."
        )
    batch_shape = answers.shape[: n_outer - 1]
    if not batch_shape:
        inputs, answers = inputs.unsqueeze(0), answers.unsqueeze(0)
    if answers.isnan().reshape(len(answers), -1).all(-1).any():
        raise ValueError(
            "Expected y to be finite, or NaN where some observations are missing; got a dataset "
            "with none at all."
        )
    return _with_latent_prior(_adapted(model, inputs, answers, batch_shape), latent_prior)


def _named(model: Program | Prior, data: Mapping[str, Any], latent_prior: Any) -> Problem:
    """The problem of one dataset by the names of the program's arguments."""
    program = NamedData(program_of(model), data)
    x, y = program.x.unsqueeze(0), program.y.unsqueeze(0)
    return _with_latent_prior(_adapted(program, x, y, torch.Size()), latent_prior)


def _adapted(model: Program | Prior, x: Tensor, y: Tensor, batch_shape: torch.Size) -> Problem:
    """The problem of the program that leaves missing answers out and draws from improper priors."""
    own, source = program_of(model), model
    with precision(y.dtype), quiet_program(), seeded(0):
        improper = improper_sites(own, x[0], y[0])
    if improper:
        warnings.warn(
            f"The prior of {improper} is improper: the posterior is one if the data determine "
            "them, but the evidence is not defined, and is left out. Use a wide proper prior to "
            "compare programs.",
            UserWarning,
            stacklevel=5,
        )
        model = source = own = WithProperDraws(own)
    if y.isnan().any():
        model = source = WithMissing(own)
    return Problem(model, x, y, batch_shape, source, improper=bool(improper))


def _with_latent_prior(own: Problem, latent_prior: Any) -> Problem:
    """The same problem under another prior of its latents."""
    if latent_prior is None:
        return own
    if is_by_name(latent_prior):
        return replace(own, model=with_latent_prior(own.program, latent_prior))
    density = own.density(allow_simulator=True)
    return replace(own, latent_prior=mixture_over_u(latent_prior, density))
