"""Rejects data that a program cannot have produced, whatever its latents are.

A factor of -inf, or a support with bounds that depend on latents, can rule out every value of them.
For most data some prior draw has a positive density. If none has, the cross-entropy method searches
for latents whose supports are closer to the observations, before the data are rejected.

References:
    Rubinstein, The cross-entropy method for combinatorial and continuous optimization (1999).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from amortized.program.density import ProgramDensity
from amortized.seeding import seeded

_N_DRAWS = 64  # prior draws evaluated first
_N_SEARCH = 512
_N_STEPS = 30
_EPS = torch.finfo(torch.float64).eps
_LARGEST = 0.1 / _EPS  # a log density whose last digit is 0.1 nats
_NARROWEST = 100 * _EPS  # standard deviation of a posterior, relative to the latent itself
_STEP = 1e-6  # of second differences, likewise


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
    with torch.no_grad(), seeded(0):
        best = density.log_likelihood(density.sample_prior(_N_DRAWS)).amax(-1)
        unexplained = (best < -_LARGEST).nonzero()[:, 0]
        far = best[unexplained].isfinite()
        _refuse_far(density, unexplained[far])
        unexplained = unexplained[~far]
        if not len(unexplained):
            return
        ruled_out = ~_found(density.take(unexplained))
    if not ruled_out.any():
        return
    which = _which(density, unexplained[ruled_out][0])
    raise ValueError(
        f"Expected data that the program can produce; got data that are impossible{which} under "
        f"all latents tried, {_N_DRAWS + _N_SEARCH * _N_STEPS} of them: they lie outside the "
        "supports of their distributions, or a factor is -inf. Check the data's units, and the "
        "constraints of the program."
    )


def _refuse_far(density: ProgramDensity, chosen: Int[Tensor, " chosen"]) -> None:
    """Raises an error if the log density is so large that rounding hides its differences."""
    if not len(chosen):
        return
    some = density.take(chosen)
    u = some.sample_prior(_N_SEARCH)
    before, best = u.mean(1, keepdim=True), u.new_full((len(chosen),), -torch.inf)
    highest = u[:, 0]
    for _ in range(_N_STEPS):
        heights = some.log_density(u).nan_to_num(-torch.inf)
        height, index = heights.max(-1)
        higher = height > best
        best = torch.where(higher, height, best)
        highest = torch.where(higher.unsqueeze(-1), u[torch.arange(len(u)), index], highest)
        if (best > -_LARGEST).all():
            return _refuse_narrow(some, highest, chosen)
        u, before = _next_draws(u, heights.topk(_N_SEARCH // 8).indices, before)
    at = int(best.argmin())
    raise ValueError(
        "Expected data near those that the program produces; got data"
        f"{_which(density, chosen[at])} with a log density of {best[at].item():.1g} at the best "
        "latents found: differences between latents are lost in its rounding. Check the data's "
        "units, or widen the priors."
    )


def _refuse_narrow(
    density: ProgramDensity, u: Float[Tensor, "batch dim"], chosen: Int[Tensor, " batch"]
) -> None:
    """Raises an error if the posterior is narrower than a few floating-point numbers."""
    step = _STEP * u.abs()
    shift = torch.diag_embed(step)
    points = torch.cat([u.unsqueeze(1), u.unsqueeze(1) + shift, u.unsqueeze(1) - shift], 1)
    height = density.log_density(points)
    above, below = height[:, 1:].chunk(2, 1)
    curvature = (2 * height[:, :1] - above - below).clamp(min=0.0)  # times step**2
    narrow = (_STEP * curvature.rsqrt() < _NARROWEST).any(-1)
    if narrow.any():
        at = int(narrow.nonzero()[0])
        raise ValueError(
            "Expected a posterior that double precision resolves; got data"
            f"{_which(density, chosen[at])} that fix a latent to fewer than "
            f"{_NARROWEST / _EPS:.0f} neighbouring numbers. Check the data's units, or rescale "
            "inputs and latents."
        )


def _which(density: ProgramDensity, number: Tensor) -> str:
    """Names a dataset in a message if there are several."""
    return "" if density.n_datasets == 1 else f" in dataset {int(number)}"


def _some(
    density: ProgramDensity, u: Float[Tensor, "batch particles dim"]
) -> Bool[Tensor, " batch"]:
    return (density.log_likelihood(u) > -torch.inf).any(-1)


def _found(density: ProgramDensity) -> Bool[Tensor, " batch"]:
    """Whether the cross-entropy search finds a positive density, for each dataset."""
    u = density.sample_prior(_N_SEARCH)
    found = torch.zeros(density.n_datasets, dtype=torch.bool, device=u.device)
    before = u.mean(1, keepdim=True)
    for _ in range(_N_STEPS):
        found |= _some(density, u)
        if found.all():
            break
        best = density.outside(u).topk(_N_SEARCH // 8, largest=False).indices
        u, before = _next_draws(u, best, before)
    return found


def _next_draws(u: Tensor, best: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Normal draws around the best previous draws, and the mean of these."""
    elite = u.gather(1, best.unsqueeze(-1).expand(-1, -1, u.shape[-1]))
    mean = elite.mean(1, keepdim=True)
    # The last step is added to the spread, so that a distant region is reached in growing steps.
    sd = elite.std(1, keepdim=True) + (mean - before).abs()
    return mean + sd * torch.randn_like(u), mean
