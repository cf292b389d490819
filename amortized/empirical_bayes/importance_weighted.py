r"""The importance-weighted bound on the marginal likelihood, for continuous latents.

.. math:: \log p_\theta(y) \ge E\left[\log \frac1K \sum_{k=1}^K
          \frac{p_\theta(u_k, y)}{q_\phi(u_k)}\right], \qquad u_k \sim q_\phi

The guide q is a normal for each dataset in unconstrained space, begun at the mode; discrete latents
are summed out. Parameters and guide climb the bound together. The guide's gradient is the
doubly reparameterised one, which does not vanish in noise as K grows.

References:
    Burda, Grosse and Salakhutdinov, Importance weighted autoencoders (2016), arXiv 1509.00519.
    Tucker et al., Doubly reparameterized gradient estimators (2019), arXiv 1810.04152.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from amortized.empirical_bayes.parameters import Parameters
from amortized.program.density import ProgramDensity
from amortized.sampling.checks.pareto import smooth_weights
from amortized.sampling.laplace import fit_modes
from amortized.validation import number_between, whole_number

_N_CHECKED = 4000  # draws of the guide that judge it
_N_SLOPE = 400  # draws of the guide that tell whether the evidence would still rise
_MOST_K_HAT = 0.7
_MOST_GAIN = 0.05  # nats a parameter that a Newton step may still gain: about 0.3 standard errors


class _Guide:
    """A normal for each dataset."""

    def __init__(self, density: ProgramDensity) -> None:
        modes = fit_modes(density)
        best = modes.log_weights.argmax(-1)
        rows = torch.arange(len(best))
        factor = modes.scale_tril[rows, best].detach()
        self.mean = modes.means[rows, best].detach().clone().requires_grad_()
        self.below = factor.tril(-1).clone().requires_grad_()
        self.log_scale = factor.diagonal(dim1=-2, dim2=-1).log().clone().requires_grad_()

    @property
    def variables(self) -> list[Tensor]:
        return [self.mean, self.below, self.log_scale]

    def law(self, fixed: bool = False) -> MultivariateNormal:
        """The distribution; with ``fixed``, one whose density has no gradient of its own."""
        factor = self.below.tril(-1) + torch.diag_embed(self.log_scale.exp())
        mean = self.mean
        if fixed:
            mean, factor = mean.detach(), factor.detach()
        return MultivariateNormal(mean, scale_tril=factor, validate_args=False)


def fit_importance_weighted(
    density: ProgramDensity,
    parameters: Parameters,
    n_steps: int = 600,
    n_importance: int = 32,
    learning_rate: float = 0.05,
) -> tuple[Tensor, dict[str, Any]]:
    """Maximises the importance-weighted bound by Adam, and averages the last third of the steps.

    Args:
        density: of the parameters' program, with continuous latents.
        parameters: where to begin.
        n_steps: steps of Adam, whose rate falls to 0 along a cosine.
        n_importance: K.
        learning_rate: at the start.

    Returns:
        the unconstrained parameters, and diagnostics.
    """
    n_steps = whole_number("n_steps", n_steps, 1)
    n_importance = whole_number("n_importance", n_importance, 1)
    learning_rate = number_between("learning_rate", learning_rate, 0, math.inf)
    if not density.dim:
        raise ValueError("Expected continuous latents for method 'iwae'; got none. Use 'exact'.")
    guide = _Guide(density)
    theta = parameters.start.clone().requires_grad_()
    variables = [theta, *guide.variables]
    optimiser = torch.optim.Adam(variables, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    average, trace = torch.zeros_like(theta), []
    with torch.enable_grad():
        for step in range(n_steps):
            parameters.set(theta)
            loss = _loss(density, guide, n_importance)
            optimiser.zero_grad()
            loss.backward(inputs=variables)
            optimiser.step()
            schedule.step()
            trace.append(-float(loss.detach()))
            if step >= 2 * n_steps // 3:
                average += theta.detach() / (n_steps - 2 * n_steps // 3)
    gain = _gain(density, parameters, guide, average)
    parameters.set(average)
    found = _judged(density, guide)
    if not gain < _MOST_GAIN * len(average):
        found["doubt"].append(
            f"the log evidence still rises at the end, by about {gain:.2g} nats in a Newton step: "
            "give more n_steps, or start values near the answer, in the units of the data"
        )
    return average, found | {"gain": gain, "trace": trace}


def _gain(density: ProgramDensity, parameters: Parameters, guide: _Guide, theta: Tensor) -> float:
    r"""What a Newton step of the log evidence would gain, :math:`-g^\top H^{-1} g / 2`, in nats.

    It does not depend on the units of the parameters; infinite where the evidence curves upward.
    """
    law = guide.law(fixed=True)
    with torch.no_grad():
        u = law.sample(torch.Size([_N_SLOPE])).movedim(0, 1)
        log_q = law.log_prob(u.movedim(1, 0)).mT

    def value(theta: Tensor) -> Tensor:
        parameters.set(theta)
        return (density.log_density(u) - log_q).logsumexp(-1).sum()

    with torch.enable_grad():
        hessian = torch.autograd.functional.hessian(value, theta)
        slope = torch.autograd.functional.jacobian(value, theta)
    curvature, axes = torch.linalg.eigh(hessian)
    along = axes.mT @ slope
    downward = torch.where(curvature < 0, -curvature, 0.0)
    gains = torch.where(along.abs() > 1e-6, along.square() / (2 * downward), 0.0)
    return float(gains.sum().nan_to_num(torch.inf, torch.inf))


def _loss(density: ProgramDensity, guide: _Guide, n: int) -> Tensor:
    """Minus the bound, summed over datasets; its gradient is the doubly reparameterised one."""
    u = guide.law().rsample(torch.Size([n])).movedim(0, 1)
    log_weights = density.log_density(u) - guide.law(fixed=True).log_prob(u.movedim(1, 0)).mT
    shares = log_weights.softmax(-1).detach()
    if u.requires_grad:
        u.register_hook(lambda gradient: gradient * shares.unsqueeze(-1))
    bound = log_weights.detach().logsumexp(-1) - math.log(n)
    weighted = (shares * log_weights).sum(-1)
    # The value of the bound, with the gradient of the weighted mean.
    return -(bound + weighted - weighted.detach()).sum()


@torch.no_grad()
def _judged(density: ProgramDensity, guide: _Guide) -> dict[str, Any]:
    """The log evidence at the end by importance weights of the guide, and their k-hat."""
    law = guide.law()
    u = law.sample(torch.Size([_N_CHECKED])).movedim(0, 1)
    smoothed = smooth_weights(density.log_density(u) - law.log_prob(u.movedim(1, 0)).mT)
    worst = float(smoothed.k_hat.max())
    doubt = []
    if not worst < _MOST_K_HAT:
        doubt = [
            f"k_hat of the guide is {worst:.2f}, its limit {_MOST_K_HAT}: the bound is not close "
            "to the evidence. Reparameterise the program, or give more n_importance"
        ]
    error = (1 / smoothed.ess - 1 / _N_CHECKED).clamp(min=0.0).sum().sqrt()
    return {
        "log_evidence": smoothed.log_mean.sum(),
        "log_evidence_error": error,
        "k_hat": smoothed.k_hat,
        "doubt": doubt,
    }
