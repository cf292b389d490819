"""Compares a program's vectorised density with plain traces of the program.

Particles are evaluated together and discrete latents are summed out. Both rely on how a program
broadcasts, and may silently compute a wrong density. Therefore a few points are also evaluated in
single runs with all latents given, and a method that disagrees is not used.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor

from amortized.program.discrete.enumeration import Enumerable, one_by_one
from amortized.program.sites import Place, observations, refuse, run_for_latents
from amortized.program.vectorised import KEEP_TENSORS, is_subsample, warn_of_parameters
from amortized.seeding import seeded

_CROSSED = (
    " Discrete latents of two crossed plates cannot be summed out together. Draw those of the "
    "shorter plate outside of it, one by one, as in z = torch.stack([pyro.sample(f'z{j}', ...) "
    "for j in range(n)], -1)."
)
_N_POINTS = 3  # including the origin
_N_ASSIGNMENTS = 9  # points if latents are summed out, each with a different assignment
_N_DRAWN = 180  # values of discrete sites that are enough, whatever the number of points


def settle(density: Any, trace: Any) -> None:
    """Chooses the fastest method to compute a `ProgramDensity` that agrees with plain runs.

    Args:
        density: the density; its ``discrete`` and ``vectorised`` are set to the chosen method.
        trace: trace of the program on the first dataset.

    Raises:
        ValueError: if there is none.
    """
    warn_of_parameters(trace)
    _refuse_other_shapes(trace)
    one = density.take(torch.tensor([0]))
    failures: list[Exception] = []
    for discrete, vectorised in _ways(trace, density.discrete):
        one.discrete, one.vectorised = discrete, vectorised
        try:
            _compare(one)
        except Exception as failure:
            failures.append(failure)
            continue
        _require_fixed_supports(one)
        density.discrete, density.vectorised = discrete, vectorised
        if not vectorised:
            _warn(failures[0])
        return
    reason = next((each for each in failures if isinstance(each, _Differs)), failures[-1])
    raise ValueError(
        "Expected a program whose density can be evaluated wherever its latents may lie; got "
        f"{reason if isinstance(reason, _Differs) else f'{type(reason).__name__}: {reason}'}"
        f"{_CROSSED if 'tree-structured plate' in str(reason) else ''}"
        f"{_other_plates(trace, density.discrete)}"
    ) from reason


def _other_plates(trace: Any, discrete: Enumerable | None) -> str:
    """What to write where rows index a discrete latent of another plate, as in ``z[item]``."""

    def plates(site: Any) -> set[str]:
        return {f.name for f in site["cond_indep_stack"] if f.vectorized}

    seen = set().union(*map(plates, observations(trace).values()))
    for name in sorted(discrete.names) if discrete else ():
        others = plates(trace.nodes[name])
        if others and not others & seen:
            return (
                f" The discrete '{name}' lies in the plate {sorted(others)}, outside that of the "
                "observations. If rows index it, as in z[item], give each item one row of y, with "
                "a column for each answer and NaN where there is none; or draw the items one by "
                "one, as z0, z1, ..., and observe the rows in a loop, "
                "pyro.sample(f'y{i}', ..., obs=y[i])."
            )
    return ""


def _refuse_other_shapes(trace: Any) -> None:
    """Rejects observations that would broadcast to another shape, such as a column against rows."""
    for name, site in observations(trace).items():
        expected, got = site["fn"].shape(), site["value"].shape
        try:
            fits = torch.broadcast_shapes(expected, got) == got
        except RuntimeError:
            fits = False
        in_plate = any(frame.vectorized for frame in site["cond_indep_stack"])
        fits = fits and not (in_plate and len(got) > len(expected))  # rows would meet columns
        if not fits:
            raise ValueError(
                f"Expected observations {name} of shape {tuple(expected)} for one dataset, as the "
                f"program has them at its site '{name}'; got {tuple(got)}. Give a column of "
                "targets as y[:, 0]; a batch of datasets needs the same leading dimensions of x "
                "and y."
            )


class _Differs(Exception):
    """The computed density differs from the program's."""


def _ways(trace: Any, discrete: Enumerable | None) -> Iterator[tuple[Enumerable | None, bool]]:
    """Methods, the fastest first: discrete latents summed out, and whether to vectorise."""
    singly = None if discrete is None else one_by_one(trace, discrete)
    for vectorised in (True, False):
        yield discrete, vectorised
        if singly is not None:
            yield singly, vectorised


def _compare(density: Any) -> None:
    """Raises an error if the density of a dataset cannot be computed, or is not the program's."""
    n_points = _N_POINTS
    if density.discrete:  # every point draws all discrete sites anew
        n_points = max(n_points, min(_N_ASSIGNMENTS, _N_DRAWN // len(density.discrete.names)))
    plainly = density.take(torch.tensor([0]))
    plainly.vectorised = False
    with seeded(0):
        u = density.y.new_zeros(1, n_points, density.dim)
        if density.dim:
            u[:, 1:] = density.sample_prior(n_points - 1)
        with torch.no_grad():
            pinned = _assignments(density, n_points)
            points = {"u": u, "pinned": pinned}
            theirs = plainly.over_all(partial(_plain, density), points)
            ours = density.over_all(lambda at, x, y: density.evaluate(x=x, y=y, **at), points)
    for name, each, expected in zip(("log prior", "log likelihood"), ours, theirs, strict=True):
        _require_same(name, each, expected)


def _require_fixed_supports(density: Any) -> None:
    """Rejects continuous latents whose place in u depends on a discrete latent."""
    if not density.discrete or not density.dim:
        return
    plainly = density.take(torch.tensor([0]))
    plainly.vectorised = False
    with seeded(0), torch.no_grad():
        pinned = _assignments(density, _N_ASSIGNMENTS)
        for name, values in density.discrete.values.items():
            pinned[name][:, 0], pinned[name][:, 1] = values[0], values[-1]
        u = density.y.new_zeros(1, _N_ASSIGNMENTS, density.dim)
        placed = plainly.over_all(partial(_placed, density), {"u": u, "pinned": pinned})
    for name, value in placed.items():
        if not torch.allclose(value, value[:, :1], equal_nan=True):
            raise ValueError(
                f"Expected supports of continuous latents that do not depend on discrete ones "
                f"{sorted(density.discrete.names)}; got '{name}', whose bounds do. Draw it in "
                "fixed bounds and scale it, as in share = pyro.sample('share', "
                "dist.Uniform(0, 1)); value = low[z] + (high[z] - low[z]) * share."
            )


def _placed(density: Any, point: dict[str, Any], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The continuous latents at u, with the discrete latents at given values."""

    def assign(message: Any) -> None:
        message["value"] = point["pinned"][message["name"]]

    with Place(density.layout, point["u"], assign) as run:
        density.model(x, y)
    return run.values


def _require_same(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Compares values; the density may be -inf where the program's is finite."""
    slack = 1e-3 + (1e-5 if ours.dtype == torch.float64 else 1e-3) * theirs.abs()
    same = (ours == theirs) | ((ours - theirs).abs() <= slack) | theirs.isnan()
    wrong = ~same & (ours != -torch.inf)
    if wrong.any():
        raise _Differs(
            f"a {name} of {ours[wrong][0].item():.6g} where a plain run of the program has "
            f"{theirs[wrong][0].item():.6g}. Values of a discrete latent that broadcast against "
            "rows need the rows in a pyro.plate; every random number must come from a pyro.sample; "
            "and no state may be kept between runs."
        )


def _assignments(density: Any, n: int) -> dict[str, Tensor]:
    """Uniformly drawn values of the discrete latents, ``{name: (1, n, *shape)}``."""
    drawn = {}
    for name in sorted(density.discrete.names) if density.discrete else ():
        values, shape = density.discrete.values[name], density.discrete.shapes[name]
        drawn[name] = values[torch.randint(len(values), (1, n, *shape))]
    return drawn


def _plain(density: Any, point: dict[str, Any], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Log prior and log likelihood of a plain run, with the discrete latents at given values."""

    def assign(message: Any) -> None:
        if message["name"] not in point["pinned"]:
            refuse(message)
        message["value"] = point["pinned"][message["name"]]

    u = point["u"]
    run = Place(density.layout, u, assign)
    with pyro.poutine.trace() as tracer:
        if density.is_simulator:  # may be slow, and fail at some latents
            run_for_latents(run, density.model, x, y)
        else:
            with run:
                density.model(x, y)
    run.require_all()
    trace, totals = tracer.trace, [run.log_jacobian, u.new_zeros(())]
    known = {
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not (site["is_observed"] and density.is_simulator)
    }
    trace.compute_log_prob(lambda name, _: name in known)
    for name in known:
        site = trace.nodes[name]
        if not is_subsample(site):
            totals[site["is_observed"]] = totals[site["is_observed"]] + site["log_prob_sum"]
    unknown = torch.nan if density.is_simulator else 0.0
    return totals[0], totals[1] + unknown


def _warn(reason: Exception) -> None:
    first_line = str(reason).split(". ")[0].split("\n")[0]
    as_numbers = any(each in first_line for each in (".item()", "numpy", "data pointer"))
    advice = "Write choices on drawn values with torch.where instead of if"
    warnings.warn(
        "The program's density cannot be computed for all particles at once and is computed "
        f"one by one, which is slow. Torch reports: {first_line}. "
        f"{KEEP_TENSORS if as_numbers else advice}.",
        UserWarning,
        stacklevel=5,
    )
