r"""Whether floating-point numbers hold the mass of a prior near the ends of its support.

Near 0 they are dense, but none lies between :math:`1 - \epsilon` and 1. Of a beta law with
concentrations of 0.05 that interval holds 8%.
"""

import warnings
from typing import Any

import torch

from amortized.program.support import is_interval
from amortized.seeding import seeded

_N_DRAWS, _MOST = 400, 0.01  # the share of the draws that changes a log evidence little


def warn_of_rounding(priors: dict[str, Any], supports: dict[str, Any]) -> None:
    """Warns if draws from a prior round to an end of its support.

    Example:
        >>> import torch.distributions as dist
        >>> even = dist.Beta(0.5, 0.5)
        >>> warn_of_rounding({"p": even}, {"p": even.support})
    """
    for name, fn in priors.items():
        if not is_interval(supports[name]):
            continue
        with seeded(0), torch.no_grad():
            value = fn.sample(torch.Size([_N_DRAWS]))
        eps = 2 * torch.finfo(value.dtype).eps
        ends = [torch.as_tensor(getattr(supports[name], f"{e}_bound")) for e in ("lower", "upper")]
        lost = sum(((value - end).abs() <= eps * end.abs()) & (end != 0) for end in ends)
        share = torch.as_tensor(lost).double().mean(0).max().item()
        if share > _MOST:
            warnings.warn(
                f"Of the prior of '{name}', {share:.0%} rounds to an end of its support, and the "
                "evidence lacks it: floating-point numbers are sparse there. Use larger "
                "concentrations, or method='exact' where it applies.",
                UserWarning,
                stacklevel=3,
            )
