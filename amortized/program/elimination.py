r"""Sums and draws over the discrete variables of a factor graph, by variable elimination.

Factors are tensors of logarithms with named dimensions, one letter each, stored in Pyro's attribute
``_pyro_dims``. Pyro decides in which plates a variable is summed out; here the variables of one
plate context are summed out one after another,

.. math:: m(z_{\text{others}}) = \log \sum_{z} \exp \sum_{f \ni z} f(z, z_{\text{others}}),

beginning with the variable that shares factors with the fewest others, so that a chain costs one
small matrix per step. In reverse order, each variable is drawn given those that were summed out
after it, from the same sum of its factors: a joint draw costs no more than the sum.

References:
    Obermeyer et al., Tensor variable elimination for plated factor graphs (2019), arXiv 1902.03210.
"""

import heapq
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.ops.rings import LogRing
from torch import Tensor

from amortized.program.vectorised import draw_index


class Elimination(LogRing):
    """Pyro's ring of logarithms with a recorded sum that `torch.func.vmap` can batch.

    Attributes:
        steps: the variables in the order in which they were summed out, each with the sum of its
            factors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, Any]] = []

    def sumproduct(self, terms: list[Any], dims: Iterable[str]) -> Any:
        """The product of terms with some dimensions summed out, all in logarithms."""
        graph = _Graph(terms, set(dims))
        while (dim := graph.pop_least_connected()) is not None:
            joint = product(graph.take(dim))
            self.steps.append((dim, joint))
            graph.put(_summed(joint, dim))
        return product(graph.terms())


class _Graph:
    """Terms by their dimensions, with the dimensions to sum out ordered by their neighbours."""

    def __init__(self, terms: list[Any], dims: set[str]) -> None:
        self._terms = dict(enumerate(terms))
        self._next = len(terms)
        self._open = dims
        self._with: dict[str, set[int]] = {dim: set() for dim in dims}
        for key, term in self._terms.items():
            for dim in dims.intersection(term._pyro_dims):
                self._with[dim].add(key)
        self._heap = [(self._degree(dim), dim) for dim in dims]
        heapq.heapify(self._heap)

    def _degree(self, dim: str) -> int:
        return len({d for key in self._with[dim] for d in self._terms[key]._pyro_dims})

    def pop_least_connected(self) -> str | None:
        """The remaining dimension with the fewest neighbours; None if all are summed out."""
        while self._heap:
            degree, dim = heapq.heappop(self._heap)
            if dim not in self._open:
                continue
            if degree == self._degree(dim):  # an entry from before a change has another degree
                self._open.remove(dim)
                return dim
            heapq.heappush(self._heap, (self._degree(dim), dim))
        return None

    def take(self, dim: str) -> list[Any]:
        """Removes the terms with a dimension."""
        keys = sorted(self._with.pop(dim))
        taken = [self._terms.pop(key) for key in keys]
        for key, term in zip(keys, taken, strict=True):
            for other in self._open.intersection(term._pyro_dims):
                self._with[other].discard(key)
        return taken

    def put(self, term: Any) -> None:
        """Adds a term."""
        self._terms[self._next] = term
        for dim in self._open.intersection(term._pyro_dims):
            self._with[dim].add(self._next)
        self._next += 1
        for dim in self._open.intersection(term._pyro_dims):
            heapq.heappush(self._heap, (self._degree(dim), dim))

    def terms(self) -> list[Any]:
        """All terms, in the order in which they came."""
        return list(self._terms.values())


def named(tensor: Tensor, names: str) -> Any:
    """Names the dimensions of a tensor in place, which must therefore be a new one."""
    tensor._pyro_dims = names  # type: ignore[attr-defined]
    return tensor


def aligned(term: Any, names: str) -> Tensor:
    """A term with its dimensions in the order of names; missing dimensions have size 1."""
    own = term._pyro_dims
    order = [own.index(name) for name in names if name in own]
    if order != sorted(order):
        term = term.permute(order)
    if len(own) == len(names):
        return term
    return term[tuple(slice(None) if name in own else None for name in names)]


def product(terms: list[Any]) -> Any:
    """The sum of the terms' logarithms, with all of their dimensions."""
    names = "".join(sorted(set("".join(term._pyro_dims for term in terms))))
    total = aligned(terms[0], names) + 0.0  # a new tensor, because it will be named in place
    for term in terms[1:]:
        total = total + aligned(term, names)
    return named(total, names)


def _summed(joint: Any, dim: str) -> Any:
    at = joint._pyro_dims.index(dim)
    return named(joint.logsumexp(at), joint._pyro_dims.replace(dim, ""))


def draw_all(
    steps: list[tuple[str, Any]], plates: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """A joint draw of the variables that were summed out, as indices of their values.

    Args:
        steps: the steps of an `Elimination`.
        plates: names and sizes of the plates of every variable.

    Returns:
        the indices of each variable, with its plates as dimensions.
    """
    chosen: dict[str, Any] = {}
    for dim, joint in reversed(steps):
        for other in set(joint._pyro_dims) & set(chosen):
            joint = _given(joint, other, chosen[other])
        names = "".join(sorted({*joint._pyro_dims, *plates[dim]}))
        here = aligned(joint, names)
        at = names.index(dim)
        sizes = [plates[dim].get(name, size) for name, size in zip(names, here.shape, strict=True)]
        chosen[dim] = named(draw_index(here.expand(sizes), at), names.replace(dim, ""))
    return chosen


def _given(joint: Any, dim: str, index: Any) -> Any:
    """A joint factor at a given value of a variable, which may differ along plates."""
    names = "".join(sorted({*joint._pyro_dims, *index._pyro_dims}))
    values = torch.arange(joint.shape[joint._pyro_dims.index(dim)])
    is_value = aligned(index, names) == aligned(named(values, dim), names)
    # Other values are made impossible, because a gather neither broadcasts nor works under vmap
    # for all shapes.
    picked = torch.where(is_value, aligned(joint, names), -torch.inf).amax(names.index(dim))
    return named(picked, names.replace(dim, ""))
