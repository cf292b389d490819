"""What the user gives to `infer`, checked and made a batch."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from amortized.gaussian_mixture import GaussianMixture
from amortized.infer.latent_prior import is_by_name, mixture_over_u
from amortized.infer.rows import is_one_dataset, program_of
from amortized.latent_priors.density import LatentPriorDensity
from amortized.priors.density import ProgramDensity
from amortized.priors.latent_prior import with_latent_prior
from amortized.priors.prior import Prior
from amortized.priors.vectorised import Program

Data = Tensor | ArrayLike


@dataclass(frozen=True)
class Problem:
    """What a method is given: a program, its prior if it has one, and the data as a batch.

    Attributes:
        model: the Pyro program, or a prior whose ``model`` is one.
        x: ``(batch, n, n_features)``.
        y: ``(batch, n)``, or ``(batch, n, *event)`` where a row's answer is an array.
        batch_shape: ``(batch,)``, or empty where the user gave one dataset.
        source: what the user gave as model, before another latent prior was put into it.
        latent_prior: a mixture over unconstrained space that replaces the program's prior.
    """

    model: Program | Prior
    x: Tensor
    y: Tensor
    batch_shape: torch.Size
    source: Program | Prior | None = None
    latent_prior: GaussianMixture | None = None

    @property
    def program(self) -> Program:
        """The bare Pyro program."""
        return program_of(self.model)

    def density(self, **allowed: bool) -> ProgramDensity:
        """The program's log density given the data, with the options of `ProgramDensity`."""
        own = ProgramDensity(self.program, self.x, self.y, **allowed)
        return own if self.latent_prior is None else LatentPriorDensity(own, self.latent_prior)


def make_problem(
    model: Program | Prior,
    x: Data,
    y: Data | None,
    latent_prior: Any,
) -> Problem:
    """Checks the data against each other and makes a batch of them."""
    answers = as_tensor(x if y is None else y, "y")
    if y is None:
        n_outer = 1 if answers.ndim < 2 or is_one_dataset(model, answers) else 2
        inputs = answers.new_zeros(*answers.shape[:n_outer], 0)
    else:
        inputs = as_tensor(x, "x")
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
    own = Problem(model, inputs, answers, batch_shape, model)
    if latent_prior is None:
        return own
    if is_by_name(latent_prior):
        return replace(own, model=with_latent_prior(own.program, latent_prior))
    density = own.density(allow_simulator=True)
    return replace(own, latent_prior=mixture_over_u(latent_prior, density))


def as_tensor(data: Data, name: str, *, allow_nan: bool = False) -> Tensor:
    """Data as float64: the accuracy of gradients and evidence is worth more than the time.

    A copy, for a posterior reads its data later, when the caller may have changed them.
    """
    try:
        tensor = data if isinstance(data, Tensor) else torch.as_tensor(np.array(data))
        tensor = tensor.to(torch.float64, copy=isinstance(data, Tensor))
    except (TypeError, ValueError, RuntimeError) as reason:
        raise ValueError(f"Expected {name} to be an array of numbers; got {reason}.") from reason
    finite = torch.isfinite(tensor) | (tensor.isnan() if allow_nan else False)
    if not finite.all():
        raise ValueError(
            f"Expected {name} to be finite; got {int((~finite).sum())} values that "
            "are NaN or infinite. Leave such rows out."
        )
    return tensor
