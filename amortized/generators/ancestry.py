"""The tree of ancestors of a particle system, without the branches that have died out.

References:
    Jacob, Murray and Rubenthaler, Path storage in the particle filter (2015), arXiv 1307.3180: the
    expected number of nodes is at most T + c N log N.
"""

import torch
from torch import Tensor

__all__ = ["Ancestry"]


class Ancestry:
    """Values of each step and the indices of their parents.

    Example:
        >>> import torch
        >>> tree = Ancestry()
        >>> tree.append(torch.tensor([1.0, 2.0]), None)
        >>> tree.append(torch.tensor([3.0, 4.0]), torch.tensor([1, 1]))
        >>> tree.paths(), tree.n_nodes
        (tensor([[2., 3.],
            [2., 4.]]), 3)
    """

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._parents: list[Tensor] = []

    @property
    def n_nodes(self) -> int:
        """Number of values that are kept."""
        return sum(map(len, self._values))

    def append(self, values: Tensor, parents: Tensor | None) -> None:
        """Adds a step; the parents are indices among the values of the step before."""
        if parents is None:
            parents = torch.arange(len(values))
        self._values.append(values)
        self._parents.append(parents)
        for t in range(len(self._values) - 1, 0, -1):
            alive, self._parents[t] = torch.unique(self._parents[t], return_inverse=True)
            if len(alive) == len(self._values[t - 1]):
                break  # further back nothing has died either
            self._values[t - 1] = self._values[t - 1][alive]
            self._parents[t - 1] = self._parents[t - 1][alive]

    def paths(self) -> Tensor:
        """The sequence of values that led to each of the last ones, ``(n, steps, ...)``."""
        index = torch.arange(len(self._values[-1]))
        found = []
        for values, parents in zip(reversed(self._values), reversed(self._parents), strict=True):
            found.append(values[index])
            index = parents[index]
        return torch.stack(found[::-1], 1)
