r"""Discrete latents, summed out of a program's density as far as Pyro can enumerate them.

.. math:: p(u, y) = \sum_z p(u, z, y)

Pyro runs the program once with all values of each discrete latent along a separate dimension, left
of all plates, and keeps track of the dimensions of each factor (see
`amortized.program.discrete.factors`). The sum over them is computed by
`amortized.program.discrete.elimination`, in logarithms and with operations that `torch.func.vmap`
can batch.

If the rows form one event, as in ``dist.Normal(...).to_event(1)``, they are not a plate, and Pyro
may confuse the values of a latent that broadcasts against them with rows. Such a program is run
once for every assignment of its latents outside of plates instead. `amortized.program.plain_trace`
determines which of the two is correct.

References:
    Obermeyer et al., Tensor variable elimination for plated factor graphs (2019), arXiv 1902.03210.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent

from amortized.program.sites import latent_sites, observations
from amortized.program.vectorised import is_subsample

_MOST_ASSIGNMENTS = 256  # each takes one run of the program


class Enumerable(NamedTuple):
    """The discrete latents of a program.

    Attributes:
        names: names of their sites.
        first_dim: the first dimension, from the right, that no site of the program uses.
        values: possible values of one element of each, ``(values, *event)``.
        shapes: shape of each, without its event.
        of_rows: those drawn in the plate of the rows of "y", independently for each row.
        assignments: assignments of the latents outside of plates, for each of which the program is
            run; empty if Pyro enumerates all latents.
    """

    names: frozenset[str]
    first_dim: int
    values: Mapping[str, Tensor]
    shapes: Mapping[str, torch.Size]
    of_rows: frozenset[str] = frozenset()
    assignments: tuple[Mapping[str, Tensor], ...] = ()


def enumerable_latents(trace: Any) -> Enumerable | None:
    """The discrete latents of a traced program; None if there are none.

    Raises:
        ValueError: if the number of values of one is infinite or depends on its arguments.
    """
    sites = {
        name: site
        for name, site in latent_sites(trace).items()
        if site["fn"].support is not None and site["fn"].support.is_discrete
    }
    for name, site in sites.items():
        if not site["fn"].has_enumerate_support:
            advice = (
                "Sum it out in the program: Poisson counts with a gamma rate are dist.GammaPoisson."
            )
            if isinstance(site["fn"], Independent):
                advice = "Draw its elements inside a pyro.plate, without .to_event."
            raise ValueError(
                f"Expected continuous latents, or discrete ones with finitely many values; got "
                f"'{name}' of {type(site['fn']).__name__}, which Pyro cannot enumerate. {advice}"
            )
    if not sites:
        return None
    samples = [
        site for site in trace.nodes.values() if site["type"] == "sample" and not is_subsample(site)
    ]
    plates = [-f.dim for site in samples for f in site["cond_indep_stack"] if f.vectorized]
    # Dimensions of rows that form an event are avoided too: values must not be mistaken for rows.
    events = [len(site["fn"].shape()) for site in samples]
    values, shapes = {}, {}
    for name, site in sites.items():
        support = site["fn"].enumerate_support(expand=False)
        values[name] = support.reshape(len(support), *site["fn"].event_shape)
        shapes[name] = site["fn"].batch_shape
    first_dim = -1 - max(plates + events)
    return Enumerable(frozenset(sites), first_dim, values, shapes, _of_rows(sites, trace))


def _of_rows(sites: Mapping[str, Any], trace: Any) -> frozenset[str]:
    def plates(site: Any) -> set[str]:
        return {f.name for f in site["cond_indep_stack"] if f.vectorized and f.dim == -1}

    of_data: set[str] = set()
    for site in observations(trace).values():
        of_data |= plates(site)
    return frozenset(name for name in sites if plates(sites[name]) & of_data)


def one_by_one(trace: Any, discrete: Enumerable) -> Enumerable | None:
    """The same latents, where those outside of plates take one run for each assignment.

    Returns:
        None if there are no such latents, or too many assignments.
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
