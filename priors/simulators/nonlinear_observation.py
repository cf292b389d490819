r"""One number observed through a square and a sinc function: a multimodal posterior.

.. math:: z_1 \sim N(x^2, 10), \qquad z_2 \sim N(\mathrm{sinc}(3 x), 0.01)

where the second arguments are variances and :math:`\mathrm{sinc}(a) = \sin(\pi a) / (\pi a)`. The
likelihood is even in x. For large :math:`|x|` the square determines it; for :math:`|x| < 1` the
sinc function has several solutions. The prior determines which of the modes have mass.

References:
    | Distribution Transformers: Fast Approximate Bayesian Inference With On-The-Fly Prior
    | Adaptation (Whittle et al., 2025), arXiv:2502.02463, the nonlinear experiment
"""

import math

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.program_prior import ProgramPrior
from amortized.validation import number_between

_VARIANCES = (10.0, 0.01)


class NonlinearObservationPrior(ProgramPrior):
    """``position ~ N(0, spread^2)``; a dataset is the two readings z_1 and z_2.

    Args:
        spread: standard deviation of the position.
    """

    ordered = 2

    def __init__(self, spread: float = 2.0) -> None:
        super().__init__()
        self.spread = number_between("spread", spread, 0, math.inf)

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one pair of readings."""
        if len(x) != self.ordered:
            raise ValueError(f"Expected {self.ordered} readings; got {len(x)}.")
        position = pyro.sample("position", dist.Normal(x.new_zeros(()), self.spread))
        expected = torch.stack((position.square(), torch.sinc(3 * position)))
        sds = torch.tensor(_VARIANCES, dtype=x.dtype, device=x.device).sqrt()
        return pyro.sample("y", dist.Normal(expected, sds).to_event(1), obs=y)
