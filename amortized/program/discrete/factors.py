r"""The factors of a program whose discrete latents are enumerated, and what follows from them.

Pyro runs the program once with all values of each discrete latent along a separate dimension. The
log densities of the sites are then the tables of a factor graph with

.. math:: p(u, y) = \sum_z \prod_f f(z, u, y).

The sum, the marginals of each latent and joint draws are computed by
`amortized.program.discrete.elimination`. The marginals are the derivative of the log of the sum
with respect to the log of the latent's own factor,

.. math:: p(z_i = v \mid u, y) = \frac{\partial \log p(u, y)}{\partial \log f_i(v)},

summed over the other dimensions of this factor.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.ops.contract import contract_to_tensor
from torch import Tensor
from torch.overrides import TorchFunctionMode

from amortized.program.discrete.elimination import Elimination, aligned, draw_all, named
from amortized.program.discrete.enumeration import Enumerable
from amortized.program.sites import LatentSpace, Place
from amortized.program.support import log_prob
from amortized.program.vectorised import Program, draw_index, is_deterministic, is_subsample


class Factors:
    """The factors of a program at one particle, with its discrete latents enumerated.

    Args:
        model: the program.
        layout: layout of its continuous latents.
        discrete: its discrete latents.
        u: the particle.
        x: inputs of its dataset.
        y: observations.
        assignment: values of some discrete latents in this run; others are enumerated.
        pinned: values of the discrete latents to which the sum is restricted, so that its terms can
            be compared with the program.

    Attributes:
        tables: logarithms of the factors by site, with named dimensions.
        log_jacobian: log determinant of the bijections to the latents' supports.
        assignment: as given.
        largest: see `amortized.program.discrete.elimination.Elimination`.
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
        self.assignment, self.largest = assignment, 0
        self._discrete, self._is_pinned = discrete, pinned is not None

        def mark(message: Any) -> None:
            if message["name"] in assignment:
                message["value"] = assignment[message["name"]]
            else:
                message["infer"]["enumerate"] = "parallel"

        with pyro.poutine.trace() as tracer, _DataUnderVmap():
            with pyro.poutine.enum(first_available_dim=discrete.first_dim):
                with Place(layout, u, mark) as placed:
                    model(x, y)
            trace = tracer.trace
            _fill_log_probs(trace)
            for name, value in (pinned or {}).items():
                _pin(trace.nodes[name], value)
            trace.pack_tensors()
        self.log_jacobian = placed.log_jacobian
        sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
        self._letters = {
            name: (sites[name]["infer"] or {})["_enumerate_symbol"]
            for name in sites  # in the order of the program
            if name in discrete.names - set(assignment) and len(discrete.values[name]) > 1
        }
        self._latents = {name for name, site in sites.items() if not site["is_observed"]}
        self._whole = {
            name
            for name, site in sites.items()
            if isinstance(site["scale"], float) and site["scale"] == 1 and site["mask"] is None
        }
        self._frames = {
            name: {trace.plate_to_symbol[f.name]: f for f in s["cond_indep_stack"] if f.vectorized}
            for name, s in sites.items()
        }
        self._summed = set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())
        self.tables = {name: self._table(name, sites[name]) for name in sites}
        self._dims = {name: table._pyro_dims for name, table in self.tables.items()}

    def _table(self, name: str, site: Any) -> Any:
        """The factor of a site, with all of its plates if its marginals are of interest."""
        table: Any = site["packed"]["log_prob"]
        plates = self._plates(name)
        missing = "".join(letter for letter in plates if letter not in table._pyro_dims)
        if name not in self._letters or not missing:
            return table
        names = missing + table._pyro_dims
        sizes = [plates[letter] for letter in missing]
        return named(aligned(table, names).expand(*sizes, *table.shape), names)

    def with_tables(self, tables: Mapping[str, Tensor], log_jacobian: Tensor) -> "Factors":
        """The same factors with other values."""
        other = copy.copy(self)
        other.log_jacobian = log_jacobian
        other.tables = {name: named(t.view_as(t), self._dims[name]) for name, t in tables.items()}
        return other

    def without_tables(self) -> "Factors":
        """The names and the dimensions of the factors, without values."""
        return self.with_tables({}, torch.zeros(()))

    def log_joint(self, ring: Elimination | None = None) -> Tensor:
        """Log of the sum of the product of all factors; the ring records the elimination."""
        return self._sum_out(set(self.tables), ring) + self.log_jacobian

    def log_prior(self) -> Tensor:
        """Log of the same sum without the observations."""
        names = self._latents
        if not self._is_pinned and all(map(self._is_free, names)):
            names = names - set(self._letters)
        return self._sum_out(names) + self.log_jacobian

    def _is_free(self, name: str) -> bool:
        """Whether a latent does not affect the sum over the enumerated latents."""
        if name in self._letters:
            return name in self._whole
        return not set(self._dims[name]) & set(self._letters.values())

    def _sum_out(self, names: set[str], ring: Elimination | None = None) -> Tensor:
        """Log of the sum over all enumerated dimensions of the product of some sites' factors."""
        factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for name, table in self.tables.items():
            if name in names:
                factors.setdefault(frozenset(self._frames[name]), []).append(table)
        if not factors:
            return torch.zeros_like(self.log_jacobian)
        ring = Elimination(self.largest) if ring is None else ring
        return contract_to_tensor(factors, self._summed, ring=ring)

    def draws(self, n_draws: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Log of the sum, and joint draws of the discrete latents, ``{name: (n_draws, ...)}``."""
        ring = Elimination(self.largest)
        total = self.log_joint(ring)
        plates = {letter: self._plates(name) for name, letter in self._letters.items()}
        indices = draw_all(ring.steps, plates, n_draws)
        found = dict(self.assignment)
        for name in self._discrete.names - set(self.assignment):
            support, shape = self._discrete.values[name], self._discrete.shapes[name]
            if name in self._letters:
                index = self._by_frames(name, indices[self._letters[name]], "*")
                found[name] = support[index.reshape(n_draws, *shape)]
            else:  # a latent with one value only
                found[name] = support[0].expand(n_draws, *shape, *support.shape[1:]) + 0
        return total, {
            name: value.expand(n_draws, *value.shape) if name in self.assignment else value
            for name, value in found.items()
        }

    def probabilities(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Log of the sum, and marginals of the discrete latents, ``{name: (*shape, values)}``."""

        def log_sum(own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            total = self.with_tables(self.tables | own, self.log_jacobian).log_joint()
            return total, total

        slopes, total = torch.func.grad(log_sum, has_aux=True)(
            {name: self.tables[name] for name in self._letters}
        )
        found = {}
        for name in self._discrete.names:
            values, shape = self._discrete.values[name], self._discrete.shapes[name]
            if name in self._letters:
                slope = named(slopes[name], self._dims[name])
                share = self._by_frames(name, slope, "", self._letters[name])
            elif name in self.assignment:
                same = (values == self.assignment[name]).reshape(len(values), -1)
                share = same.all(-1).to(total)
            else:
                share = total.new_ones(shape.numel())
            found[name] = share.reshape(*shape, len(values)).to(total)
        return total, found

    def _plates(self, name: str) -> dict[str, int]:
        """Letters and sizes of the plates of a latent."""
        return {letter: f.size for letter, f in self._frames[name].items() if f.size > 1}

    def _by_frames(self, name: str, term: Any, first: str, last: str = "") -> Tensor:
        """A term with its dimensions in the order of the plates, and others summed out."""
        frames = self._frames[name]
        names = first + "".join(sorted(self._plates(name), key=lambda d: frames[d].dim or 0)) + last
        others = [at for at, letter in enumerate(term._pyro_dims) if letter not in names]
        kept = "".join(letter for letter in term._pyro_dims if letter in names)
        return aligned(named(term.sum(others) if others else term + 0, kept), names)


def all_factors(
    model: Program,
    layout: LatentSpace,
    discrete: Enumerable,
    u: Tensor,
    x: Tensor,
    y: Tensor,
    pinned: Mapping[str, Tensor] | None = None,
) -> list[Factors]:
    """The factors of one particle for each assignment; the arguments are those of `Factors`."""
    return [
        Factors(model, layout, discrete, u, x, y, assignment, pinned)
        for assignment in discrete.assignments or ({},)
    ]


def log_densities(runs: list[Factors]) -> tuple[Tensor, Tensor]:
    """Log prior of u and log likelihood, both with discrete latents summed out."""
    log_prior = torch.stack([run.log_prior() for run in runs]).logsumexp(0)
    total = torch.stack([run.log_joint() for run in runs]).logsumexp(0)
    # If all terms are impossible, -inf - -inf is NaN, but the likelihood is 0.
    return log_prior, torch.where(total == -torch.inf, -torch.inf, total - log_prior)


def discrete_draws(runs: list[Factors], n_draws: int) -> dict[str, Tensor]:
    """Joint draws of the discrete latents, ``{name: (n_draws, *shape)}``."""
    totals, draws = zip(*(run.draws(n_draws) for run in runs), strict=True)
    if len(runs) == 1:
        return draws[0]
    chosen = draw_index(torch.stack(totals).expand(n_draws, -1), -1)
    return {
        name: torch.stack([each[name] for each in draws])[chosen, torch.arange(n_draws)]
        for name in draws[0]
    }


def discrete_probabilities(runs: list[Factors]) -> dict[str, Tensor]:
    """The probability of every value of each discrete latent, ``{name: (*shape, values)}``.

    Here shape is that of the site without its event.
    """
    totals, found = zip(*(run.probabilities() for run in runs), strict=True)
    share = torch.stack(totals).softmax(0)
    return {
        name: torch.tensordot(share, torch.stack([each[name] for each in found]), 1)
        for name in found[0]
    }


def _fill_log_probs(trace: Any) -> None:
    """Computes the log densities of a trace, and removes what has none."""
    for name, site in list(trace.nodes.items()):
        is_sample = site["type"] == "sample"
        if is_sample and (is_subsample(site) or is_deterministic(site)):
            trace.remove_node(name)
        elif is_sample:  # torch's own log_prob may be finite outside the support
            each = log_prob(site["fn"], site["value"])
            site["unscaled_log_prob"] = each
            site["log_prob"] = scale_and_mask(each, site["scale"], site["mask"])
            site["log_prob_sum"] = site["log_prob"].sum()


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
