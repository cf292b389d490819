"""Rejects data that a program cannot have produced, whatever its latents are.

A factor of -inf, or a support with bounds that depend on latents, can rule out every value of them.
For most data some prior draw has a positive density. If none has, the cross-entropy method searches
for latents whose supports are closer to the observations, before the data are rejected.

References:
    Rubinstein, The cross-entropy method for combinatorial and continuous optimization (1999).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.program.density import ProgramDensity

_N_DRAWS = 64  # of the prior, for the first look
_N_LED = 512
_N_STEPS = 30


def check_possible(density: ProgramDensity) -> None:
    """Raises a ValueError if no latents are found that give the data a positive density.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def near(x, y=None):
        ...     m = pyro.sample("m", dist.Normal(0.0, 1.0))
        ...     around = dist.Uniform(m - 1, m + 1).expand([len(x)]).to_event(1)
        ...     return pyro.sample("y", around, obs=y)
        >>> check_possible(ProgramDensity(near, torch.zeros(1, 2, 0), torch.tensor([[7.0, 8.0]])))
        >>> check_possible(ProgramDensity(near, torch.zeros(1, 2, 0), torch.tensor([[0.0, 5.0]])))
        Traceback (most recent call last):
        ...
        ValueError: Expected data that the program can produce; got data that are impossible ...
    """
    if density.is_simulator or density.dim == 0:
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        open_ones = (~_some(density, density.sample_prior(_N_DRAWS))).nonzero()[:, 0]
        if not len(open_ones):
            return
        ruled_out = ~_found(density.take(open_ones))
    if not ruled_out.any():
        return
    which = "" if density.n_datasets == 1 else f" in dataset {open_ones[ruled_out][0].item()}"
    raise ValueError(
        f"Expected data that the program can produce; got data that are impossible{which} under "
        f"all latents tried, {_N_DRAWS + _N_LED * _N_STEPS} of them: they lie outside the "
        "supports of their distributions, or a factor is -inf. Check the data's units, and the "
        "constraints of the program."
    )


def _some(
    density: ProgramDensity, u: Float[Tensor, "batch particles dim"]
) -> Bool[Tensor, " batch"]:
    return (density.log_likelihood(u) > -torch.inf).any(-1)


def _found(density: ProgramDensity) -> Bool[Tensor, " batch"]:
    """Whether the cross-entropy search finds a positive density, for each dataset."""
    u = density.sample_prior(_N_LED)
    found = torch.zeros(density.n_datasets, dtype=torch.bool, device=u.device)
    before = u.mean(1, keepdim=True)
    for _ in range(_N_STEPS):
        found |= _some(density, u)
        if found.all():
            break
        best = density.outside(u).topk(_N_LED // 8, largest=False).indices
        elite = u.gather(1, best.unsqueeze(-1).expand(-1, -1, u.shape[-1]))
        mean = elite.mean(1, keepdim=True)
        # As wide as the last step was long, so that steps grow while the target is far away.
        sd = elite.std(1, keepdim=True) + (mean - before).abs()
        u, before = mean + sd * torch.randn_like(u), mean
    return found
