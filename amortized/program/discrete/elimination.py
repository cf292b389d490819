r"""Sums and draws over the discrete variables of a factor graph, by variable elimination.

Factors are tensors of logarithms with named dimensions, one letter each, stored in Pyro's attribute
``_pyro_dims``. Pyro decides in which plates a variable is summed out; here the variables of one
plate context are summed out,

.. math:: m(z_{\text{others}}) = \log \sum_{z} \exp \sum_{f \ni z} f(z, z_{\text{others}}),

beginning with those whose factors have the smallest joint table. Variables that share no factor and
whose tables have equal shapes are summed out together, in one operation. In a chain every second
variable can be: half as many remain, which are a chain again, so that T steps take about
:math:`\log_2 T` operations instead of T (cyclic reduction, a parallel scan). The tables of inner
variables are larger than those of the ends, which is why this needs a limit on their size.

In reverse order, variables are drawn given those that were summed out after them, from the same
sums of their factors: a joint draw costs no more than the sum.

References:
    | Obermeyer et al., Tensor variable elimination for plated factor graphs (2019), arXiv
    | 1902.03210
    | Sarkka and Garcia-Fernandez, Temporal parallelization of Bayesian smoothers (2021), arXiv
    | 1905.13002
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from pyro.ops.rings import LogRing
from torch import Tensor

from amortized.program.vectorised import draw_index

_INNER = 2  # neighbours of an inner variable of a chain, whose removal leaves a chain


class Step(NamedTuple):
    """Variables that were summed out together.

    Attributes:
        variables: one letter each.
        neighbours: for each further variable of their tables, its letters, one for each variable.
        kept: letters of the other dimensions, common to all.
        joint: sum of their factors, ``(variables, values, *neighbours, *kept)``.
    """

    variables: list[str]
    neighbours: list[list[str]]
    kept: str
    joint: Tensor


class Elimination(LogRing):
    """Pyro's ring of logarithms with a recorded sum that `torch.func.vmap` can batch.

    Args:
        largest: number of entries up to which tables of inner variables of chains are formed; at 0,
            chains are summed from their ends, which takes least memory.

    Attributes:
        steps: the steps in the order in which they were taken.
    """

    def __init__(self, largest: int = 0) -> None:
        super().__init__()
        self.largest = largest
        self.steps: list[Step] = []

    def sumproduct(self, terms: list[Any], dims: Iterable[str]) -> Any:
        """The product of terms with some dimensions summed out, all in logarithms."""
        graph = _Graph(terms, set(dims))
        while variables := graph.next_variables(self.largest):
            for step in graph.steps_for(variables):
                self.steps.append(step)
                graph.replace(step)
        return product(graph.terms())


class _Graph:
    """Terms by their dimensions, some of which are to be summed out."""

    def __init__(self, terms: list[Any], dims: Collection[str]) -> None:
        self._terms = dict(enumerate(terms))
        self._next = len(terms)
        named_dims = "".join(term._pyro_dims for term in terms)  # in the order of the program
        self._open = {dim: None for dim in named_dims if dim in dims}
        self._with: dict[str, dict[int, None]] = {dim: {} for dim in self._open}
        for key, term in self._terms.items():
            self._link(key, term)
        self._sizes = {dim: self._size(dim) for dim in self._open}

    def _link(self, key: int, term: Any) -> None:
        for dim in term._pyro_dims:
            if dim in self._open:
                self._with[dim][key] = None

    def _size(self, dim: str) -> tuple[int, int]:
        """Entries of the joint table of a variable's factors, and its number of neighbours."""
        sizes: dict[str, int] = {}
        for key in self._with[dim]:
            sizes.update(zip(self._terms[key]._pyro_dims, self._terms[key].shape, strict=True))
        return math.prod(sizes.values()), sum(name in self._open for name in sizes) - 1

    def next_variables(self, largest: int) -> list[str]:
        """Variables that share no factor and are summed out next; none if all are."""
        least = min((entries for entries, _ in self._sizes.values()), default=0)
        chosen, excluded = [], set()
        for dim, (entries, neighbours) in self._sizes.items():
            is_next = entries == least or (entries <= largest and neighbours <= _INNER)
            if is_next and dim not in excluded:
                chosen.append(dim)
                for key in self._with[dim]:
                    excluded.update(self._terms[key]._pyro_dims)
        return chosen

    def steps_for(self, variables: list[str]) -> list[Step]:
        """One step for all variables whose factors have equal shapes, in corresponding orders."""
        alike: dict[Any, list[tuple[list[str], list[Any]]]] = {}
        for dim in variables:
            terms = [self._terms[key] for key in self._with[dim]]
            letters = [dim]
            for term in terms:
                letters += [d for d in term._pyro_dims if d in self._open and d not in letters]
            slots = {letter: chr(at) for at, letter in enumerate(letters)}
            form = tuple(
                ("".join(slots.get(d, d) for d in term._pyro_dims), term.shape) for term in terms
            )
            alike.setdefault(form, []).append((letters, terms))
        return [_step(form, each) for form, each in alike.items()]

    def replace(self, step: Step) -> None:
        """Replaces the terms with the variables of a step by their sums."""
        sums = step.joint.logsumexp(1).unbind(0)
        touched = set()
        for i, dim in enumerate(step.variables):
            del self._open[dim], self._sizes[dim]
            for key in self._with.pop(dim):
                for other in self._terms.pop(key)._pyro_dims:
                    if other in self._open:
                        self._with[other].pop(key, None)
            letters = [each[i] for each in step.neighbours]
            touched.update(letters)
            self._terms[self._next] = named(sums[i], "".join(letters) + step.kept)
            self._link(self._next, self._terms[self._next])
            self._next += 1
        self._sizes.update({dim: self._size(dim) for dim in touched})

    def terms(self) -> list[Any]:
        """All terms, in the order in which they came."""
        return list(self._terms.values())


def _step(form: Any, each: list[tuple[list[str], list[Any]]]) -> Step:
    """The step of variables with factors of the same form."""
    n_slots = len(each[0][0])
    slots = [chr(at) for at in range(n_slots)]
    kept = "".join(sorted({d for dims, _ in form for d in dims if d not in slots}))
    joint: Any = 0.0
    for (dims, _), factors in zip(
        form, zip(*(terms for _, terms in each), strict=True), strict=True
    ):
        stacked = named(torch.stack(factors), "*" + dims)
        joint = joint + aligned(stacked, "*" + "".join(slots) + kept)
    letters = [list(same) for same in zip(*(names for names, _ in each), strict=True)]
    return Step(letters[0], letters[1:], kept, joint)


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


def draw_all(
    steps: list[Step], plates: Mapping[str, Mapping[str, int]], n_draws: int
) -> dict[str, Any]:
    """Joint draws of the variables that were summed out, as indices of their values.

    Args:
        steps: the steps of an `Elimination`.
        plates: names and sizes of the plates of every variable.
        n_draws: number of draws.

    Returns:
        the indices of each variable, ``(n_draws, *plates)``, with its plates named.
    """
    chosen: dict[str, Any] = {}
    for step in reversed(steps):
        own = plates[step.variables[0]]
        names = "".join(sorted(own))
        drawn = draw_index(_given_the_chosen(step, names, own, chosen, n_draws), -1)
        for dim, index in zip(step.variables, drawn.unbind(1), strict=True):
            chosen[dim] = named(index, "*" + names)
    return chosen


def _given_the_chosen(
    step: Step, names: str, sizes: Mapping[str, int], chosen: Mapping[str, Any], n_draws: int
) -> Tensor:
    """Logits of the variables of a step given the values of their neighbours.

    The rows of the joint table are the values of all its other dimensions; for each draw and plate
    one of them is picked.

    Returns:
        ``(n_draws, variables, *names, values)``.
    """
    n = len(step.variables)
    shape = (n_draws, n, *(sizes[name] for name in names))
    row: Any = torch.arange(n).reshape(-1, *(1 for _ in names))
    columns = [*step.neighbours, *([name] * n for name in step.kept)]
    for letters, size in zip(columns, step.joint.shape[2:], strict=True):
        row = row * size + torch.stack(
            [_position(each, names, sizes, chosen) for each in letters], 1
        )
    table = step.joint.movedim(1, -1)
    rows = row.expand(shape).reshape(-1)
    return table.reshape(-1, table.shape[-1])[rows].reshape(*shape, table.shape[-1])


def _position(
    letter: str, names: str, sizes: Mapping[str, int], chosen: Mapping[str, Any]
) -> Tensor:
    """The index along a dimension: the value chosen for a variable, or the place in a plate."""
    if letter in chosen:
        index = aligned(chosen[letter], "*" + names)
    else:
        index = aligned(named(torch.arange(sizes[letter]), letter), "*" + names)
    return index.expand(-1, *(sizes[name] for name in names))
