"""The variance of a normal with mean zero: one positive latent with a conjugate inverse gamma.

With ``v ~ IG(a, b)`` and n observations the posterior is ``IG(a + n / 2, b + sum y^2 / 2)``.
"""

import math

import pyro
import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from amortized.priors.program_prior import ProgramPrior
from amortized.validation import number_between


class NormalVariancePrior(ProgramPrior):
    """``variance ~ IG(concentration, rate)`` and ``y_i ~ N(0, variance)``.

    Args:
        concentration: a.
        rate: b.

    Example:
        >>> NormalVariancePrior().sample(3, 1, 0, seed=0).latents["variance"].shape
        torch.Size([3])
    """

    def __init__(self, concentration: float = 2.0, rate: float = 2.0) -> None:
        super().__init__()
        self.concentration = number_between("concentration", concentration, 0, math.inf)
        self.rate = number_between("rate", rate, 0, math.inf)

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one dataset."""
        one = x.new_ones(())
        law = dist.InverseGamma(self.concentration * one, self.rate * one)
        variance = pyro.sample("variance", law)
        normal = dist.Normal(0.0 * one, variance.sqrt())
        return pyro.sample("y", normal.expand([len(x)]).to_event(1), obs=y)
