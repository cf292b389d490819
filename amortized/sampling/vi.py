"""Variational inference with Pyro's guides, one dataset at a time, with a check of the fit.

The guide approximates one real vector u, so every guide works with every program, and its draws are
checked by importance weights. Its parameters are kept out of Pyro's global store, which belongs to
the user. The program is not wrapped in a plate, because that would shift its own plate dimensions.

References:
    Kucukelbir et al., Automatic differentiation variational inference (2017), arXiv 1603.00788.
    Yao et al., Yes, but did it work? (2018), arXiv 1802.02538.
"""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.infer import autoguide
from torch import Tensor
from torch.distributions import Distribution

from amortized.program.density import ProgramDensity
from amortized.program.vectorised import precision, quiet_program
from amortized.progress import with_progress
from amortized.sampling.checks.pareto import smooth_weights
from amortized.sampling.draws import Draws
from amortized.sampling.start import Start, as_start
from amortized.sampling.steps.tempering import tame
from amortized.seeding import nothing_drawn
from amortized.validation import number_between, whole_number

GUIDES: dict[str, Callable[..., Any]] = {
    "normal": autoguide.AutoDiagonalNormal,
    "multivariate": autoguide.AutoMultivariateNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "flow": autoguide.AutoIAFNormal,
}


def vi(
    density: ProgramDensity,
    n_draws: int = 1000,
    *,
    guide: str = "multivariate",
    n_steps: int = 1000,
    learning_rate: float = 0.02,
    n_elbo: int = 8,
    start: Start | Distribution | None = None,
) -> Draws:
    """Draws from a guide fitted to the posterior of every dataset.

    Args:
        density: the log density to approximate.
        n_draws: draws for each dataset.
        guide: one of `GUIDES`.
        n_steps: gradient steps, over which the learning rate falls to a hundredth.
        learning_rate: initial learning rate of Adam.
        n_elbo: draws per gradient estimate.
        start: a density whose median initialises the guide; None uses the median of the prior.

    Returns:
        draws with diagnostics ``k_hat`` of their importance weights (well above 0.7 the guide does
        not fit), ``elbo`` and ``start``.
    """
    n_steps, n_elbo = whole_number("n_steps", n_steps, 1), whole_number("n_elbo", n_elbo, 1)
    learning_rate = number_between("learning_rate", learning_rate, 0, math.inf)
    if guide not in GUIDES:
        raise ValueError(f"Expected guide among {list(GUIDES)}; got {guide!r}.")
    first = density.sample_prior(128) if start is None else as_start(start).sample(128)
    centres = tame(first).median(1).values.to(density.y.dtype)
    fitted = [
        _fit(density.take(torch.tensor([i])), at, guide, n_steps, learning_rate, n_elbo, n_draws)
        for i, at in enumerate(centres)
    ]
    u = torch.stack([each[0] for each in fitted])
    with torch.no_grad():
        log_ratio = density.log_density(u) - torch.stack([each[1] for each in fitted])
    smoothed = smooth_weights(log_ratio)
    diagnostics = {
        "guide": guide,
        "start": "prior" if start is None else type(start).__name__,
        "k_hat": smoothed.k_hat,
        "elbo": log_ratio.mean(-1),
    }
    return Draws(u, None, None, 1, diagnostics)


def _fit(
    density: ProgramDensity,
    centre: Float[Tensor, " dim"],
    guide: str,
    n_steps: int,
    rate: float,
    n_elbo: int,
    n_draws: int,
) -> tuple[Tensor, Tensor]:
    """Draws of the fitted guide, ``(n, dim)``, and their log density under it."""
    dim, zero = density.dim, density.y.new_zeros(())

    def real_line() -> None:
        pyro.sample("u", dist.Normal(zero.expand(dim), 1.0).to_event(1))

    with quiet_program(), precision(density.y.dtype):
        with pyro.settings.context(module_local_params=True):
            at_centre = autoguide.initialization.init_to_value(values={"u": centre})
            approximation = GUIDES[guide](real_line, init_loc_fn=at_centre)
            approximation()  # creates its parameters
        parameters = list(approximation.parameters())
        optimiser = torch.optim.Adam(parameters, rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.01 ** (1 / n_steps))
        for _ in with_progress(range(n_steps), "VI", "step"):
            with nothing_drawn():
                law = approximation.get_posterior()
            u = law.rsample((n_elbo,))
            with nothing_drawn():
                loss = (law.log_prob(u) - density.log_density(u.unsqueeze(0))[0]).mean()
                optimiser.zero_grad()
                loss.backward(inputs=parameters)  # the program may have parameters of its own
                optimiser.step()
                schedule.step()
        with torch.no_grad():
            law = approximation.get_posterior()
            u = law.sample((n_draws,))
            return u, law.log_prob(u)
