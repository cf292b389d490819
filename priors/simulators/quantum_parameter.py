r"""One parameter of a two-level quantum system, from ten single-shot measurements.

The Hamiltonian is :math:`H = \delta \sigma_x + (1 - \delta) \sigma_z`. A measurement prepares the
state :math:`\psi_0 = m / |m|`, where m is :math:`N(m_k, 0.1^2 I)` in the real plane, lets it evolve
for a time :math:`t \sim N(t_k, 0.05^2)` and records whether the system is in its second level:
:math:`z_k \sim \mathrm{Bernoulli}(|(e^{-i t H} \psi_0)_2|^2)`.

Preparation and time are independent in every measurement, so they are integrated out and one latent
remains. Both integrals have closed forms. On the Bloch sphere the state rotates about
:math:`n = (\delta, 0, 1 - \delta) / \omega`, :math:`\omega^2 = \delta^2 + (1 - \delta)^2`, by the
angle :math:`2 \omega t`, and from an initial vector r in the plane of n and z

.. math:: P(z = 1) = \tfrac12 (1 - r'_z), \quad
    r'_z = (n \cdot r) n_z + (r_z - (n \cdot r) n_z) \cos 2 \omega t,

which is linear in r and in the cosine. Their means are
:math:`E r = (1 - (1 - e^{-a}) / a) r_k` with :math:`a = |m_k|^2 / (2 \cdot 0.1^2)`, and
:math:`E \cos 2 \omega t = e^{-2 \omega^2 0.05^2} \cos 2 \omega t_k`.

References:
    | Distribution Transformers: Fast Approximate Bayesian Inference With On-The-Fly Prior
    | Adaptation (Whittle et al., 2025), arXiv:2502.02463, the quantum experiment
    | Space quantization in a gyrating magnetic field (Rabi, 1937), for fixed times
"""

import math

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.program_prior import ProgramPrior
from amortized.validation import number_between

_STATE_SD, _TIME_SD = 0.1, 0.05
# Bloch vectors of e_1, e_2 and e_1 + e_2 in the (x, z) plane, the lengths of m_k, and the times.
_STARTS = ((0.0, 1.0),) * 5 + ((0.0, -1.0),) * 2 + ((1.0, 0.0),) * 3
_LENGTHS = (1.0,) * 7 + (2.0**0.5,) * 3
_TIMES = (1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0, 1.0, 2.0, 3.0)


def excitation(delta: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 10"]:
    """Probability of the second level in each of the ten measurements.

    Example:
        >>> excitation(torch.tensor(0.0))[:5]  # an eigenstate stays; its preparation errs
        tensor([0.01, 0.01, 0.01, 0.01, 0.01])
    """
    start, length, time = (
        torch.tensor(values, dtype=delta.dtype, device=delta.device)
        for values in (_STARTS, _LENGTHS, _TIMES)
    )
    sharpness = length.square() / (2 * _STATE_SD**2)
    start = start * (1 + torch.expm1(-sharpness) / sharpness).unsqueeze(-1)
    delta = delta.unsqueeze(-1)
    frequency = torch.hypot(delta, 1 - delta)
    axis = delta / frequency, (1 - delta) / frequency
    still = (axis[0] * start[:, 0] + axis[1] * start[:, 1]) * axis[1]
    fading = (-2 * (frequency * _TIME_SD).square()).exp()
    turning = (start[:, 1] - still) * fading * (2 * frequency * time).cos()
    return (1 - still - turning) / 2


class QuantumParameterPrior(ProgramPrior):
    """``delta ~ Beta(concentration1, concentration0)``; a dataset is the ten outcomes, 0 or 1.

    Args:
        concentration1: weight towards delta = 1, where the Hamiltonian is sigma_x.
        concentration0: weight towards delta = 0, where it is sigma_z.
    """

    ordered = 10

    def __init__(self, concentration1: float = 2.0, concentration0: float = 2.0) -> None:
        super().__init__()
        self.concentration1 = number_between("concentration1", concentration1, 0, math.inf)
        self.concentration0 = number_between("concentration0", concentration0, 0, math.inf)

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one set of measurements."""
        if len(x) != self.ordered:
            raise ValueError(f"Expected {self.ordered} measurements; got {len(x)}.")
        one = x.new_ones(())
        law = dist.Beta(self.concentration1 * one, self.concentration0 * one)
        delta = pyro.sample("delta", law)
        return pyro.sample("y", dist.Bernoulli(excitation(delta)).to_event(1), obs=y)
