r"""Discrete latents, summed out of a program's density as far as Pyro can enumerate them.

.. math:: p(u, y) = \sum_z p(u, z, y)

Pyro runs the program once with all values of each discrete latent along a separate dimension, left
of all plates, and keeps track of the dimensions of each factor. The sum over them is computed by
`amortized.program.elimination`, in logarithms and with operations that `torch.func.vmap` can batch.

If the rows form one event, as in ``dist.Normal(...).to_event(1)``, they are not a plate, and Pyro
may confuse the values of a latent that broadcasts against them with rows. Such a program is run
once for every assignment of its latents outside of plates instead. `amortized.program.plain_trace`
determines which of the two is correct.

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
from torch import Tensor
from torch.overrides import TorchFunctionMode

from amortized.program.elimination import Elimination, draw_all, named, product
from amortized.program.sites import LatentSpace, Place, latent_sites, observations
from amortized.program.support import log_prob
from amortized.program.vectorised import Program, is_deterministic, is_subsample

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
            raise ValueError(
                f"Expected continuous latents, or discrete ones with finitely many values; got "
                f"'{name}' of {type(site['fn']).__name__}, which Pyro cannot enumerate. Sum it out "
                "in the program: Poisson counts with a gamma rate are dist.GammaPoisson."
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
        layout: layout of its continuous latents.
        discrete: its discrete latents.
        u: the particle.
        x: inputs of its dataset.
        y: observations.
        pinned: values of the discrete latents to which the sum is restricted, so that its terms can
            be compared with the program.
    """
    runs = [
        _Run(model, layout, discrete, u, x, y, assignment, pinned)
        for assignment in discrete.assignments or ({},)
    ]
    log_prior = torch.stack([run.log_prior() for run in runs]).logsumexp(0)
    total = torch.stack([run.log_joint() for run in runs]).logsumexp(0)
    # If all terms are impossible, -inf - -inf is NaN, but the likelihood is 0.
    return log_prior, torch.where(total == -torch.inf, -torch.inf, total - log_prior)


def discrete_draws(
    model: Program, layout: LatentSpace, discrete: Enumerable, u: Tensor, x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """One joint draw of the discrete latents given one particle and its data."""
    assignments = discrete.assignments or ({},)
    totals, draws = [], []
    for assignment in assignments:
        run = _Run(model, layout, discrete, u, x, y, assignment)
        ring = Elimination()
        totals.append(run.log_joint(ring))
        draws.append(run.values_of(draw_all(ring.steps, run.plates())) | dict(assignment))
    if len(assignments) == 1:
        return draws[0]
    log_odds = torch.stack(totals)
    tiny = torch.finfo(log_odds.dtype).tiny
    noise = -(-torch.rand(log_odds.shape, dtype=log_odds.dtype).clamp(min=tiny).log()).log()
    chosen = (log_odds + noise).argmax(0)
    return {
        name: torch.stack([each[name] for each in draws]).index_select(0, chosen.reshape(1))[0]
        for name in draws[0]
    }


def discrete_probabilities(
    model: Program, layout: LatentSpace, discrete: Enumerable, u: Tensor, x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    r"""The probability of every value of each discrete latent given one particle and its data.

    If each value's factor is multiplied by :math:`e^{w}`, it is the derivative of the log of the
    sum with respect to w at 0.

    Returns:
        ``{name: (*shape, values)}``, where shape is that of the site without its event.
    """
    tilts = {
        name: u.new_zeros(shape.numel(), len(discrete.values[name]))
        for name, shape in discrete.shapes.items()
    }

    def log_sum(tilts: dict[str, Tensor]) -> Tensor:
        return torch.stack(
            [
                _Run(model, layout, discrete, u, x, y, assignment).log_joint(tilts=tilts)
                for assignment in discrete.assignments or ({},)
            ]
        ).logsumexp(0)

    slopes = torch.func.grad(log_sum)(tilts)
    return {
        name: slope.reshape(*discrete.shapes[name], slope.shape[-1])
        for name, slope in slopes.items()
    }


class _Run:
    """One run of a program with its discrete latents enumerated, and its factors.

    Args:
        assignment: values of some discrete latents in this run; others are enumerated.
        pinned: values to which the sum over the enumerated latents is restricted.

    The other arguments are those of `log_densities`.
    """

    def __init__(
        self,
        model: Program,
        layout: LatentSpace,
        discrete: Enumerable,
        u: Tensor,
        x: Tensor,
        y: Tensor,
        assignment: Mapping[str, Tensor],
        pinned: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._discrete, self._assignment = discrete, assignment
        self._is_pinned = pinned is not None

        def mark(message: Any) -> None:
            if message["name"] in assignment:
                message["value"] = assignment[message["name"]]
            else:
                message["infer"]["enumerate"] = "parallel"

        with pyro.poutine.trace() as tracer, _DataUnderVmap():
            with pyro.poutine.enum(first_available_dim=discrete.first_dim):
                with Place(layout, u, mark) as placed:
                    model(x, y)
            self._trace = tracer.trace
            self._fill_log_probs()
            for name, value in (pinned or {}).items():
                _pin(self._trace.nodes[name], value)
            self._trace.pack_tensors()
        self._log_jacobian = placed.log_jacobian
        self._sites = {
            name: site for name, site in self._trace.nodes.items() if site["type"] == "sample"
        }
        self._letters = {
            name: (self._sites[name]["infer"] or {})["_enumerate_symbol"]
            for name in discrete.names
            if name not in assignment and len(discrete.values[name]) > 1
        }

    def _fill_log_probs(self) -> None:
        for name, site in list(self._trace.nodes.items()):
            is_sample = site["type"] == "sample"
            if is_sample and (is_subsample(site) or is_deterministic(site)):
                self._trace.remove_node(name)
            elif is_sample:  # torch's own log_prob may be finite outside the support
                value: Any = site["value"]
                each = log_prob(site["fn"], value)
                site["unscaled_log_prob"] = each
                site["log_prob"] = scale_and_mask(each, site["scale"], site["mask"])
                site["log_prob_sum"] = site["log_prob"].sum()

    def log_joint(
        self, ring: Elimination | None = None, tilts: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Log of the sum of the product of all factors.

        Args:
            ring: records the elimination.
            tilts: logarithms of additional factors of the discrete latents, each
                ``(elements, values)``.
        """
        total = self._sum_out(self._sites, ring, tilts) + self._log_jacobian
        for name, value in self._assignment.items():
            if not tilts:
                break
            total = total + tilts[name][0] @ _is_value(self._discrete, name, value).to(total)
        return total

    def log_prior(self) -> Tensor:
        """Log of the same sum without the observations."""
        latents = {name: site for name, site in self._sites.items() if not site["is_observed"]}
        if not self._is_pinned and all(map(self._is_free, latents)):
            latents = {name: s for name, s in latents.items() if name not in self._letters}
        return self._sum_out(latents) + self._log_jacobian

    def _is_free(self, name: str) -> bool:
        """Whether a latent does not affect the sum over the enumerated latents."""
        site = self._sites[name]
        if name in self._letters:
            return isinstance(site["scale"], float) and site["scale"] == 1 and site["mask"] is None
        factor: Any = site["packed"]["log_prob"]
        return not set(factor._pyro_dims) & set(self._letters.values())

    def _sum_out(
        self,
        sites: Mapping[str, Any],
        ring: Elimination | None = None,
        tilts: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Log of the sum over all enumerated dimensions of the product of the sites' factors."""
        factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for name, site in sites.items():
            factor: Any = site["packed"]["log_prob"]
            if tilts and name in self._letters:
                factor = product([factor, self._named(name, tilts[name])])
            factors.setdefault(frozenset(_plates(self._trace, site)), []).append(factor)
        summed = set(self._trace.symbol_to_dim) - set(self._trace.plate_to_symbol.values())
        if not factors:
            return self._log_jacobian.new_zeros(())
        return contract_to_tensor(factors, summed, ring=ring or Elimination())

    def plates(self) -> dict[str, dict[str, int]]:
        """Letters and sizes of the plates of every enumerated latent, by its letter."""
        return {
            letter: {
                key: f.size
                for key, f in _plates(self._trace, self._sites[name]).items()
                if f.size > 1
            }
            for name, letter in self._letters.items()
        }

    def _named(self, name: str, tilt: Tensor) -> Any:
        """A table of elements and values with named dimensions."""
        plates = _plates(self._trace, self._sites[name])
        frames = sorted(plates.items(), key=lambda item: item[1].dim)
        sizes = [f.size for _, f in frames if f.size > 1]
        letters = "".join(letter for letter, f in frames if f.size > 1)
        return named(tilt.reshape(*sizes, tilt.shape[-1]) + 0.0, letters + self._letters[name])

    def values_of(self, indices: Mapping[str, Any]) -> dict[str, Tensor]:
        """The values of the enumerated latents with given indices, in the sites' shapes."""
        values = {}
        for name in self._discrete.names - set(self._assignment):
            support, shape = self._discrete.values[name], self._discrete.shapes[name]
            if name not in self._letters:  # a latent with one value only
                values[name] = support[0].expand(*shape, *support.shape[1:]) + 0
                continue
            index: Any = indices[self._letters[name]]
            plates = _plates(self._trace, self._sites[name])
            order = sorted(index._pyro_dims, key=lambda letter: plates[letter].dim)
            index = index.permute([index._pyro_dims.index(letter) for letter in order])
            values[name] = support[index.reshape(shape)]
        return values


def _plates(trace: Any, site: Any) -> dict[str, Any]:
    """The vectorised plates around a site, by letter."""
    return {trace.plate_to_symbol[f.name]: f for f in site["cond_indep_stack"] if f.vectorized}


def _is_value(discrete: Enumerable, name: str, value: Tensor) -> Tensor:
    """For each value of a latent without plates, whether it is this one."""
    support = discrete.values[name]
    return (support == value).reshape(len(support), -1).all(-1)


def _pin(site: Any, value: Tensor) -> None:
    """Makes all values of a site except one impossible."""
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
