r"""The exact gradient of the marginal likelihood, with discrete latents summed out.

.. math:: \nabla_\theta \log p_\theta(y) = \nabla_\theta \log \sum_z p_\theta(z, y)

The sum is taken by elimination (see `amortized.program.discrete.enumeration`), and its derivative
by automatic differentiation, which equals the expected complete-data gradient of EM.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from amortized.empirical_bayes.parameters import Parameters
from amortized.program.density import ProgramDensity
from amortized.validation import whole_number

_ENOUGH = 1e-4  # nats a unit of the unconstrained parameters, above which a fit is in doubt
_UPWARD = 1e-4  # curvature of the log evidence above which a point is no maximum
_SPREAD = 1.0  # standard deviation of the other starts around the first, in unconstrained units


def log_evidence(density: ProgramDensity) -> Tensor:
    """Log evidence of all datasets of a program without continuous latents."""
    return density.log_likelihood(density.y.new_zeros(density.n_datasets, 1, 0)).sum()


def fit_exact(
    density: ProgramDensity, parameters: Parameters, n_steps: int = 500, n_starts: int = 6
) -> tuple[Tensor, dict[str, Any]]:
    """Maximises the log evidence by L-BFGS from several starts, and keeps the highest end.

    Args:
        density: of the parameters' program, without continuous latents.
        parameters: where to begin.
        n_steps: largest number of iterations from each start.
        n_starts: the first is the one given; the others lie around it.

    Returns:
        the unconstrained parameters, and diagnostics.
    """
    n_steps, n_starts = whole_number("n_steps", n_steps, 1), whole_number("n_starts", n_starts, 1)
    if density.dim:
        raise ValueError(
            f"Expected discrete latents only for method 'exact'; got the continuous "
            f"{list(density.layout)}. Use method='iwae'."
        )

    def value(theta: Tensor) -> Tensor:
        parameters.set(theta)
        return log_evidence(density)

    ends = []
    for i in range(n_starts):
        noise = torch.randn_like(parameters.start) if i else torch.zeros_like(parameters.start)
        theta = _climbed(value, parameters.start + _SPREAD * noise, n_steps)
        ends.append((float(value(theta)), theta))
    reached = [(height, theta) for height, theta in ends if math.isfinite(height)]
    if not reached:
        raise ValueError(
            "Expected a finite evidence at the start or near it; got none. Give start values under "
            "which the data are possible."
        )
    height, theta = max(reached, key=lambda end: end[0])
    curvature = torch.linalg.eigvalsh(torch.autograd.functional.hessian(value, theta))
    theta = theta.requires_grad_()
    final = value(theta)
    (gradient,) = torch.autograd.grad(final, theta)
    slope, top = float(gradient.abs().max()), float(curvature[-1])
    doubt = []
    if not (slope < _ENOUGH and bool(final.isfinite())):
        doubt.append(f"the gradient at the end is {slope:.2g}, not 0: give other start values")
    if top > _UPWARD:
        doubt.append("the end is a saddle point, no maximum: give other start values")
    found = {
        "log_evidence": final.detach(),
        "gradient": slope,
        "curvature": top,
        "ends": [height for height, _ in ends],
        "doubt": doubt,
    }
    return theta.detach(), found


def _climbed(value: Callable[[Tensor], Tensor], start: Tensor, n_steps: int) -> Tensor:
    """A stationary point above the start, by L-BFGS."""
    theta = start.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [theta],
        max_iter=n_steps,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = -value(theta)
        total.backward(inputs=[theta])
        return total.detach()

    optimiser.step(loss)
    return theta.detach()
