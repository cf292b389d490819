"""Labels given by workers to items, as indices sorted by item."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from amortized.arrays import without_mask


@dataclass(frozen=True)
class Answers:
    """Labels in the order of the items.

    Attributes:
        item: index of the item, ``(n_answers,)``, non-decreasing.
        worker: index of the worker.
        answer: index of the class.
        n_items: number of items, each with at least one label.
        n_workers: number of workers.
        n_classes: number of classes.
    """

    item: Int[np.ndarray, " n_answers"]
    worker: Int[np.ndarray, " n_answers"]
    answer: Int[np.ndarray, " n_answers"]
    n_items: int
    n_workers: int
    n_classes: int

    def by_item(self, values: Float[np.ndarray, "chains n_answers *rest"]) -> np.ndarray:
        """Sums over the labels of each item, ``(chains, n_items, *rest)``."""
        starts = np.searchsorted(self.item, np.arange(self.n_items))
        return np.add.reduceat(values, starts, axis=1)

    def count(self, index: Int[np.ndarray, "chains n_answers"], size: int) -> np.ndarray:
        """How often each worker has each index below ``size``: ``(chains, n_workers, size)``."""
        n_chains = len(index)
        chain = np.arange(n_chains)[:, None]
        flat = (chain * self.n_workers + self.worker) * size + index
        found = np.bincount(flat.ravel(), minlength=n_chains * self.n_workers * size)
        return found.reshape(n_chains, self.n_workers, size)

    def votes(self) -> Int[np.ndarray, "n_items n_classes"]:
        """Number of workers for each class of each item."""
        flat = self.item * self.n_classes + self.answer
        found = np.bincount(flat, minlength=self.n_items * self.n_classes)
        return found.reshape(self.n_items, self.n_classes)


def read(items: ArrayLike, workers: ArrayLike, answers: ArrayLike) -> list[np.ndarray]:
    """Converts the three columns to arrays, with one entry per label.

    Raises:
        ValueError: if their lengths differ, or if entries are missing.
    """
    columns = [np.asarray(without_mask(column)) for column in (items, workers, answers)]
    if any(c.ndim != 1 or len(c) != len(columns[0]) for c in columns) or not len(columns[0]):
        raise ValueError(
            "Expected items, workers and answers of equal length, one entry for each answer; got "
            f"shapes {[c.shape for c in columns]}."
        )
    for name, column in zip(("items", "workers", "answers"), columns, strict=True):
        # NaN and NaT are not equal to themselves.
        if any(entry is None for entry in column.flat) or not (column == column).all():
            raise ValueError(
                f"Expected {name} without NaN, None or masked entries; leave out answers that are "
                "missing."
            )
    return columns


def encode(
    columns: Sequence[np.ndarray], classes: ArrayLike | None
) -> tuple[Answers, np.ndarray, np.ndarray, np.ndarray]:
    """Encodes labels as indices; also returns the sorted items, workers and classes.

    Args:
        columns: items, workers and labels, from `read`.
        classes: all possible classes; None for those that occur.

    Raises:
        ValueError: if a label is not among the classes.
    """
    known_items, item = np.unique(columns[0], return_inverse=True)
    known_workers, worker = np.unique(columns[1], return_inverse=True)
    known = np.unique(columns[2] if classes is None else np.asarray(classes))
    answer = np.searchsorted(known, columns[2]).clip(max=len(known) - 1)
    if (known[answer] != columns[2]).any() or len(known) < 2:
        raise ValueError(
            f"Expected answers among at least two classes; got answers {np.unique(columns[2])} and "
            f"classes {known}. Give all classes as classes=[...]."
        )
    order = np.argsort(item, kind="stable")
    sizes = len(known_items), len(known_workers), len(known)
    encoded = Answers(item[order], worker[order], answer[order], *sizes)
    return encoded, known_items, known_workers, known
