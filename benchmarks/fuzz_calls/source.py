"""Generated values: numbers of every size, arrays of every type, tables and odd options."""

import copy
import math
import random
from typing import Any

import numpy as np
import torch

NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-3, 1e3, 1e-30, 1e-310, 1e9, -1e9, 1e30, 1e200]


BROKEN = [np.nan, np.inf, -np.inf]


ODD = [None, -1, 0, 1.5, math.nan, math.inf, "a", [], 10**30, True, -0.5, "1", (1, 2)]


class Source:
    """Generated values; it remembers the arrays that it made, and what they were."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.made: list[tuple[Any, Any]] = []

    def one(self, *values: Any) -> Any:
        """One of some values."""
        return self.rng.choice(values)

    def size(self, most: int) -> int:
        """A number of rows or columns, 0 included."""
        return self.rng.randrange(most + 1)

    def often(self, value: Any, *others: Any) -> Any:
        """A value that is usually in order."""
        return self.rng.choice(others or ODD) if self.rng.random() < 0.07 else value

    def seed(self) -> Any:
        """A seed of scikit-learn; not None, which stands for NumPy's global state."""
        return self.often(0, *ODD[1:])

    def kept(self, array: Any) -> Any:
        """An array that the call must not change."""
        self.made.append((array, copy.deepcopy(array)))
        return array

    def values(self, n: int, broken: float = 0.1) -> list[float]:
        """Numbers, mostly ordinary; some huge, tiny, equal or missing."""
        kind = self.rng.random()
        if kind < 0.6:
            found = [self.rng.gauss(0, 1) for _ in range(n)]
        elif kind < 0.8:
            found = [float(self.rng.randrange(4)) for _ in range(n)]
        else:
            found = [self.rng.choice(NUMBERS) for _ in range(n)]
        if n and self.rng.random() < broken:
            found[self.rng.randrange(n)] = self.rng.choice(BROKEN)
        return found

    def vector(self, n: int, broken: float = 0.1) -> Any:
        """Numbers as an array of any type."""
        found = self.values(n, broken)
        if self.rng.random() < 0.1:
            mask = [self.rng.random() < 0.2 for _ in range(n)]
            return self.kept(np.ma.array(found, mask=mask))
        types = [list, np.array, np.float32, torch.tensor, torch.tensor, np.array]
        made = self.rng.choice(types)
        with np.errstate(all="ignore"):
            return self.kept(made(found))

    def array(self, *shape: int, broken: float = 0.1) -> Any:
        """Numbers of a shape, as a NumPy array or a tensor."""
        found = np.array(self.values(math.prod(shape), broken)).reshape(shape)
        return self.kept(self.one(found, found, torch.as_tensor(found), found.tolist()))

    def tensor(self, *shape: int, broken: float = 0.1) -> torch.Tensor:
        """Numbers of a shape, as a tensor of either precision."""
        found = torch.tensor(self.values(math.prod(shape), broken), dtype=torch.float64)
        return self.kept(found.reshape(shape).to(self.one(torch.float64, torch.float32)))

    def table(self, n: int, d: int) -> Any:
        """A table, of which some columns are missing values, or names."""
        columns = [np.asarray(self.values(n, 0.05)) for _ in range(d)]
        found = np.stack(columns, 1) if d else np.zeros((n, 0))
        if self.rng.random() < 0.1:
            names = np.array([self.one("a", "b", None) for _ in range(n)], dtype=object)
            return self.kept(np.column_stack([found.astype(object), names]))
        return self.kept(found)

    def rows(self) -> tuple[Any, Any]:
        """Inputs and as many targets, or, rarely, more."""
        n, d = self.often(1 + self.size(5), 0), self.size(2)
        return self.array(n, d, broken=0.05), self.vector(n if self.rng.random() < 0.95 else n + 1)


def law(holds: Any, what: str) -> None:
    """A law of every answer."""
    assert bool(holds), f"broken law: {what}"
