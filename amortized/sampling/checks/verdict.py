"""Limits on diagnostics, common to all samplers: when draws are in doubt, and the warning.

Samplers attach numbers to their draws as diagnostics. The limits are the same for every method, so
that equal numbers have equal meaning.
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.program.density import ProgramDensity
from amortized.sampling.checks.precision import precision, standard_errors
from amortized.sampling.draws import Draws

_HEAVY = 10.0  # kurtosis above which the standard deviation of a thousand draws is unreliable


class Limit(NamedTuple):
    """A limit beyond which a diagnostic puts draws in doubt.

    Attributes:
        value: the limit.
        largest: whether values above the limit, rather than below it, are in doubt.
        meaning: what such a value means, phrased as the end of a sentence.
        advice: what the user can do about it.
    """

    value: float
    largest: bool
    meaning: str
    advice: str


_MORE = "give more draws, or use method='smc'"
_LATENTS = "reparametrise the program (non-centred, or on another scale)"
LIMITS: dict[str, Limit] = {
    "r_hat": Limit(1.03, True, "chains or groups of draws disagree", f"{_MORE}, or {_LATENTS}"),
    "mcse_mean": Limit(
        0.08, True, "a mean's standard error, in standard deviations, is large", _MORE
    ),
    "mcse_sd": Limit(0.09, True, "a standard deviation's relative error is large", _MORE),
    "divergent": Limit(
        0.01, True, "this share of the transitions diverged", f"raise target_accept, or {_LATENTS}"
    ),
    "tail_accept": Limit(
        0.2, False, "moves in a tail are seldom accepted, as in the neck of a funnel", _LATENTS
    ),
    "mean_off": Limit(
        0.1,
        True,
        "an independent estimate has a mean that many standard deviations away",
        "use method='smc' or 'nuts' and compare",
    ),
    "sd_off": Limit(
        0.1,
        True,
        "an independent estimate has a standard deviation that is off by this share",
        "use method='smc' or 'nuts' and compare",
    ),
    "evidence_off": Limit(
        0.15,
        True,
        "independent estimates of the log evidence differ by so much beyond their errors",
        "give more particles, or a start closer to the posterior",
    ),
    "insertion_p": Limit(
        1e-3,
        False,
        "new points of nested sampling do not rank uniformly among the live ones",
        "give more n_steps",
    ),
    "run_scatter": Limit(
        2.0,
        True,
        "evidences of nested sampling's runs differ by so many times what chance explains",
        "give more n_live and n_steps",
    ),
    "poor_weights": Limit(
        0.5, True, "a few importance weights dominate, so they are unreliable", "use method='smc'"
    ),
}
"""By name of the diagnostic; a NaN is in doubt, a missing diagnostic is not."""


def in_doubt(diagnostics: Mapping[str, Any]) -> dict[str, Bool[Tensor, " batch"]]:
    """Which datasets each diagnostic puts in doubt."""
    found = {}
    for name, limit in LIMITS.items():
        value = diagnostics.get(name)
        if isinstance(value, Tensor):
            found[name] = ~(value <= limit.value if limit.largest else value >= limit.value)
    return found


def any_doubt(diagnostics: Mapping[str, Any]) -> Bool[Tensor, " batch"]:
    """Which datasets are in doubt for any reason."""
    return torch.stack(list(in_doubt(diagnostics).values())).any(0)


def judged(draws: Draws) -> Draws:
    """Adds the diagnostic ``doubt``: the reasons for doubt of each dataset, as sentences."""
    doubts = in_doubt(draws.diagnostics)
    words = [
        [
            f"{name} is {float(draws.diagnostics[name][i]):.3g}, its limit {LIMITS[name].value:g}: "
            f"{LIMITS[name].meaning}"
            for name, doubt in doubts.items()
            if doubt[i]
        ]
        for i in range(len(draws.u))
    ]
    return draws._replace(diagnostics=draws.diagnostics | {"doubt": words})


def warn_of_doubt(doubt: list[str] | list[list[str]] | None) -> None:
    """Warns once if any dataset is in doubt, with the reasons and advice for the worst one.

    Args:
        doubt: the diagnostic of one dataset or of several; None if the draws were not judged.
    """
    of_each = [[each] if isinstance(each, str) else each for each in doubt or []]
    doubtful = [each for each in of_each if each]
    if not doubtful:
        return
    one = isinstance((doubt or [""])[0], str)
    worst = [reason for each in doubtful for reason in each] if one else max(doubtful, key=len)
    advice = dict.fromkeys(LIMITS[reason.split()[0]].advice for reason in worst)
    which = "These draws" if one else f"The draws of {len(doubtful)} of {len(of_each)} datasets"
    warnings.warn(
        f"{which} are in doubt: do not rely on them yet. {'; '.join(worst)}. What helps: "
        f"{'; '.join(advice)}.",
        UserWarning,
        stacklevel=3,  # the caller's caller
    )


def features(
    density: ProgramDensity, u: Float[Tensor, "batch n dim"]
) -> Float[Tensor, "batch n features"]:
    """The latents in their own units and u itself: the scalars whose moments are compared."""
    values = [
        value.reshape(*u.shape[:2], -1).to(u.dtype) for value in density.constrain(u).values()
    ]
    return torch.cat([*values, u], -1)


class Summary(NamedTuple):
    """Moments of every scalar of `features`, ``(batch, features)``.

    Attributes:
        mean: posterior mean.
        sd: posterior standard deviation, above 0.
        mean_error: standard error of the mean.
        sd_error: standard error of the standard deviation.
        varies: False for constants, such as the diagonal of a correlation matrix.
        heavy: whether the tails are too heavy for the draws to determine the standard deviation.
    """

    mean: Tensor
    sd: Tensor
    mean_error: Tensor
    sd_error: Tensor
    varies: Tensor
    heavy: Tensor


def summary(draws: Draws, values: Float[Tensor, "batch n features"]) -> Summary:
    """Means and standard deviations of the draws' `features`, with their standard errors."""
    errors = standard_errors(values, draws.log_weights, draws.n_chains, draws.cluster)
    share = values.new_full(values.shape[:2], 1 / values.shape[1])
    share = share if draws.log_weights is None else draws.log_weights.softmax(-1)
    mean = torch.einsum("bn,bnf->bf", share, values)
    squares = (values - mean.unsqueeze(1)).square()
    variance = torch.einsum("bn,bnf->bf", share, squares)
    sd = variance.sqrt()
    varies = ~(sd <= 1e-12 * mean.abs())  # rounding
    fourth = torch.einsum("bn,bnf->bf", share, squares.square())
    heavy = fourth > _HEAVY * variance.square()
    return Summary(mean, torch.where(varies, sd, 1.0), *errors, varies, heavy)


def measured(density: ProgramDensity, draws: Draws) -> Draws:
    """Adds the worst ``ess``, ``mcse_mean``, ``mcse_sd`` and ``r_hat`` over all latents.

    The errors are in units of standard deviations and rescaled to 1,000 draws of the same kind, so
    that asking for fewer draws does not by itself put them in doubt.
    """
    values = features(density, draws.u)
    of = summary(draws, values)
    n = draws.u.shape[1]
    mcse = torch.where(of.varies, of.mean_error / of.sd, 0.0).amax(-1)
    mcse_sd = torch.where(of.varies & ~of.heavy, of.sd_error / of.sd, 0.0).amax(-1)
    scale = min(1.0, (n / 1000) ** 0.5)
    numbers = {
        "ess": mcse.square().reciprocal().clamp(max=n),
        "mcse_mean": scale * mcse,
        "mcse_sd": scale * mcse_sd,
    }
    if draws.cluster is None and draws.log_weights is None:  # clusters have standard errors
        found = precision(values, n_chains=draws.n_chains).r_hat
        numbers["r_hat"] = torch.where(of.varies, found, 1.0).amax(-1)
    return draws._replace(diagnostics=draws.diagnostics | numbers)
