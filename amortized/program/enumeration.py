r"""Discrete latents, summed out of a program's density as far as Pyro can enumerate them.

.. math:: p(u, y) = \sum_z p(u, z, y)

Pyro runs the program once with every value of each discrete latent along a dimension of its own,
left of all plates, and knows which dimensions each factor has. The sum over them is taken here, one
variable after the other, in logarithms and by operations that `torch.func.vmap` can batch.

Rows that are one event, as in ``dist.Normal(...).to_event(1)``, are no plate, and Pyro takes the
values of a latent that broadcasts against them for another latent's, or for rows. Such a program is
run once for every assignment of its latents outside of plates instead. Which of the two is right
for a program, `amortized.program.plain_trace` finds out.

References:
    Obermeyer et al., Tensor variable elimination for plated factor graphs (2019), arXiv 1902.03210.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from torch import Tensor
from torch.overrides import TorchFunctionMode

from amortized.program.sites import LatentSpace, Place, latent_sites
from amortized.program.support import log_prob
from amortized.program.vectorised import Program, is_subsample

_MOST_ASSIGNMENTS = 256  # each takes one run of the program


class Enumerable(NamedTuple):
    """The discrete latents of a program.

    Attributes:
        names: of their sites.
        first_dim: the first dimension, from the right, that no site of the program uses.
        assignments: of the latents outside of plates, for each of which the program is run; none
            where Pyro enumerates them all.
    """

    names: frozenset[str]
    first_dim: int
    assignments: tuple[Mapping[str, Tensor], ...] = ()


def enumerable_latents(trace: Any) -> Enumerable | None:
    """The discrete latents of a traced program; None where there are none.

    Raises:
        ValueError: if one has infinitely many values, or as many as its arguments say.
    """
    sites = {
        name: site
        for name, site in latent_sites(trace).items()
        if site["fn"].support is not None and site["fn"].support.is_discrete
    }
    for name, site in sites.items():
        if not site["fn"].has_enumerate_support:
            raise ValueError(
                f"Expected continuous latents, or discrete ones of finitely many values; got "
                f"'{name}' of {type(site['fn']).__name__}, which Pyro cannot enumerate. Sum it out "
                "in the program: Poisson counts with a gamma rate are dist.GammaPoisson."
            )
    if not sites:
        return None
    samples = [
        site for site in trace.nodes.values() if site["type"] == "sample" and not is_subsample(site)
    ]
    plates = [-f.dim for site in samples for f in site["cond_indep_stack"] if f.vectorized]
    # Rows that are an event and no plate are kept clear of too: values must not pass for rows.
    events = [len(site["fn"].shape()) for site in samples]
    return Enumerable(frozenset(sites), -1 - max(plates + events))


def one_by_one(trace: Any, discrete: Enumerable) -> Enumerable | None:
    """The same latents, those outside of plates by one run of the program for each assignment.

    Returns:
        None where there are no such latents, or too many assignments.
    """
    values = {}
    for name in sorted(discrete.names):
        site = trace.nodes[name]
        if not site["fn"].batch_shape and not any(f.vectorized for f in site["cond_indep_stack"]):
            values[name] = site["fn"].enumerate_support(expand=False)
    if not values or math.prod(map(len, values.values())) > _MOST_ASSIGNMENTS:
        return None
    assignments = (
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    )
    return discrete._replace(assignments=tuple(assignments))


def log_densities(
    model: Program,
    layout: LatentSpace,
    discrete: Enumerable,
    u: Tensor,
    x: Tensor,
    y: Tensor,
    pinned: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log prior of u and log likelihood of one particle, both with discrete latents summed out.

    Args:
        model: the program.
        layout: of its continuous latents.
        discrete: its discrete latents.
        u: the particle.
        x: inputs of its dataset.
        y: observations.
        pinned: values of the discrete latents; the sum is then over these alone. So the terms of
            the sum can be compared with the program.
    """
    parts = [
        _enumerated(model, layout, discrete, u, x, y, assignment, pinned)
        for assignment in discrete.assignments or ({},)
    ]
    log_prior, total = (torch.stack(each).logsumexp(0) for each in zip(*parts, strict=True))
    # Where nothing is possible, -inf - -inf is not a number, but the likelihood is nil.
    return log_prior, torch.where(total == -torch.inf, -torch.inf, total - log_prior)


def _enumerated(
    model: Program,
    layout: LatentSpace,
    discrete: Enumerable,
    u: Tensor,
    x: Tensor,
    y: Tensor,
    assignment: Mapping[str, Tensor],
    pinned: Mapping[str, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Log prior and log joint density; latents with an assignment have it, others are summed."""

    def mark(message: Any) -> None:
        if message["name"] in assignment:
            message["value"] = assignment[message["name"]]
        else:
            message["infer"]["enumerate"] = "parallel"

    with pyro.poutine.trace() as tracer, _DataUnderVmap():
        with pyro.poutine.enum(first_available_dim=discrete.first_dim):
            with Place(layout, u, mark) as run:
                model(x, y)
        trace = tracer.trace
        for name, site in list(trace.nodes.items()):
            is_sample = site["type"] == "sample"
            if is_sample and (is_subsample(site) or (site["infer"] or {}).get("_deterministic")):
                trace.remove_node(name)
            elif is_sample:  # Pyro would ask torch, which knows a density outside the support too
                value: Any = site["value"]
                each = log_prob(site["fn"], value)
                site["unscaled_log_prob"] = each
                site["log_prob"] = scale_and_mask(each, site["scale"], site["mask"])
                site["log_prob_sum"] = site["log_prob"].sum()
        for name, value in (pinned or {}).items():
            _pin(trace.nodes[name], value)
        trace.pack_tensors()
        sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
        total = _sum_out(trace, sites)
        log_prior = _sum_out(trace, [site for site in sites if not site["is_observed"]])
    return log_prior + run.log_jacobian, total + run.log_jacobian


def _pin(site: Any, value: Tensor) -> None:
    """Makes all values of a site but one impossible."""
    same: Any = site["value"] == value
    n_event = len(site["fn"].event_shape)
    if n_event:
        same = same.flatten(-n_event).all(-1)
    site["log_prob"] = site["log_prob"] + torch.where(same, 0.0, -torch.inf)


class _DataUnderVmap(TorchFunctionMode):
    """Lets Pyro read ``tensor.data`` for its shape, which `vmap` forbids."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        return func(*args, **(kwargs or {}))


def _sum_out(trace: Any, sites: list[Any]) -> Tensor:
    """Log of the sum over all enumerated dimensions of the product of the sites' factors."""
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for site in sites:
        plates = (trace.plate_to_symbol[f.name] for f in site["cond_indep_stack"] if f.vectorized)
        factors.setdefault(frozenset(plates), []).append(site["packed"]["log_prob"])
    summed = set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())
    return contract_to_tensor(factors, summed, ring=_Ring())


class _Ring(LogRing):
    """Pyro's ring of logarithms, whose own einsum has no batching rule."""

    def sumproduct(self, terms: list[Any], dims: set[str]) -> Any:
        left = list(terms)
        remaining = set(dims)
        while remaining:  # first the variable that shares factors with the fewest others
            around = {
                d: set("".join(t._pyro_dims for t in left if d in t._pyro_dims)) for d in remaining
            }
            dim = min(sorted(remaining), key=lambda d: len(around[d]))
            touched = [term for term in left if dim in term._pyro_dims]
            left = [term for term in left if dim not in term._pyro_dims]
            if touched:
                left.append(_logsumexp(touched, dim))
            remaining.remove(dim)
        return _product(left)


def _product(terms: list[Any]) -> Any:
    """The sum of logarithms, with the dimensions of all."""
    names = "".join(sorted(set("".join(term._pyro_dims for term in terms))))
    aligned = []
    for term in terms:
        order = [term._pyro_dims.index(name) for name in sorted(term._pyro_dims)]
        shape = iter(term.permute(order).shape)
        sizes = [next(shape) if name in term._pyro_dims else 1 for name in names]
        aligned.append(term.permute(order).reshape(sizes))
    result = sum(aligned[1:], aligned[0]) + 0.0  # a new tensor, for the names are written on it
    result._pyro_dims = names
    return result


def _logsumexp(terms: list[Any], dim: str) -> Any:
    joint = _product(terms)
    result = joint.logsumexp(joint._pyro_dims.index(dim))
    result._pyro_dims = joint._pyro_dims.replace(dim, "")
    return result
