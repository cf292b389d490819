"""Student's t distribution with functions that torch's lacks."""

from typing import Any

import pyro.distributions as dist
import torch
from scipy import special
from torch import Tensor

_LEAST = 1e-200  # smallest level; below it scipy returns the quantile of the other tail


def _as_like(values: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


class StudentT(dist.StudentT):
    r"""Student's t distribution with ``cdf``, ``icdf`` and ``crps``.

    With F and f the standard distribution function and density and :math:`\nu > 1`,

    .. math:: \mathrm{CRPS} = \sigma \left[ z (2 F(z) - 1)
        + 2 f(z) \frac{\nu + z^2}{\nu - 1}
        - \frac{2 \sqrt \nu}{\nu - 1} \frac{B(1/2, \nu - 1/2)}{B(1/2, \nu/2)^2} \right].

    References:
        Jordan, Krueger and Lerch, Evaluating probabilistic forecasts with scoringRules (2019).

    Example:
        >>> import torch
        >>> t = StudentT(torch.tensor(3.0), 1.0, 2.0)
        >>> round(t.cdf(t.icdf(torch.tensor(0.9))).item(), 4)
        0.9
    """

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function; without gradients."""
        z = ((value - self.loc) / self.scale).detach().cpu()
        return _as_like(special.stdtr(self.df.detach().cpu().numpy(), z.numpy()), self.loc)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantiles; without gradients."""
        level = value.detach().cpu().double()
        level = torch.where((level > 0) & (level < _LEAST), _LEAST, level)
        standard = special.stdtrit(self.df.detach().cpu().numpy(), level.numpy())
        return self.loc + self.scale * _as_like(standard, self.loc)

    def crps(self, value: Tensor) -> Tensor:
        """Continuous ranked probability score of a target; lower is better."""
        z = (value - self.loc) / self.scale
        density = (self.log_prob(value) + self.scale.log()).exp()
        beta = (
            special.beta(0.5, (self.df - 0.5).numpy()) / special.beta(0.5, self.df.numpy() / 2) ** 2
        )
        last = 2 * self.df.sqrt() / (self.df - 1) * _as_like(beta, self.loc)
        first = z * (2 * self.cdf(value) - 1)
        return self.scale * (first + 2 * density * (self.df + z**2) / (self.df - 1) - last)
