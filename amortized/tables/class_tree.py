"""Classification with any number of classes by a network for few classes."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from amortized.networks.tabular_pfn import TabularPFN
from amortized.tables.readings import Reading, reading_kinds
from amortized.tables.view_weights import held_out_share, view_weights
from amortized.tables.views import EncodedViews, View, draw_views, rows_read

_MOST_GROUPS = 10  # tasks, and encodings, of one split
# Groups with a smaller probability are not split further by the network, because no class
# probability would change by more than this.
_NEGLIGIBLE = 1e-4


class ClassTree:
    r"""Classifies into any number of classes by tasks with few classes.

    Up to the number of classes for which the network was trained, there is a single task. For more
    classes there is one task per class, against the rest. If :math:`p_c` is the probability of
    class c in its task, its combined probability is proportional to
    :math:`p_c (1 - p_c)^{-1/2}`, the geometric mean of :math:`p_c` and of its odds; the odds would
    be correct for independent tasks. More than ten classes are clustered into groups g of similar
    classes, with :math:`p(c | x) = p(g | x)\, p(c | g, x)`, where the second factor is learned from
    the rows of group g.

    Args:
        network: a network for classification.
        x: the table as numbers, ``(rows, columns)``.
        labels: class indices 0, 1, ..., ``(rows,)``, each of which occurs.
        columns: the columns to be used.
        unordered: whether each column is categorical without an order.
        n_views: number of views of each split, divided among its tasks, at least one per task.
        random_state: random state of the views.
        weight: weights of the rows, ``(rows,)``; None uses each row once.
        precision: one of ``PRECISIONS``.

    Attributes:
        frequency: relative frequency of each class, ``(classes,)``.
        views: views of the tasks of the first split, one task after another; None for one class.

    References:
        In defense of one-vs-all classification (Rifkin and Klautau, 2004), JMLR 5.
    """

    def __init__(
        self,
        network: TabularPFN,
        x: NDArray[np.floating],
        labels: NDArray[np.intp],
        *,
        columns: NDArray[np.intp],
        unordered: NDArray[np.bool_],
        n_views: int,
        random_state: np.random.RandomState,
        weight: NDArray[np.float64] | None = None,
        precision: str = "auto",
    ) -> None:
        self.n_classes = int(labels.max()) + 1
        self.frequency = np.bincount(labels) / len(labels)
        self.groups = class_groups(x[:, columns], labels, _MOST_GROUPS)
        n_groups = len(self.groups)
        number = np.empty(self.n_classes, dtype=np.intp)
        for place, members in enumerate(self.groups):
            number[members] = place
        group = number[labels]
        self.views: EncodedViews | None = None
        if n_groups > 1:
            views = draw_views(n_views, group, columns, rows_read(network), random_state, weight)
            self._ask(network, x, group, views, columns, unordered, random_state, precision)
        self._children = [
            None
            if len(members) == 1
            else ClassTree(
                network,
                x[group == place],
                np.searchsorted(members, labels[group == place]),
                columns=columns,
                unordered=unordered,
                n_views=n_views,
                random_state=random_state,
                weight=None if weight is None else weight[group == place],
                precision=precision,
            )
            for place, members in enumerate(self.groups)
        ]

    def _ask(
        self,
        network: TabularPFN,
        x: NDArray[np.floating],
        group: NDArray[np.intp],
        views: list[View],
        columns: NDArray[np.intp],
        unordered: NDArray[np.bool_],
        random_state: np.random.RandomState,
        precision: str,
    ) -> None:
        """Encodes the tasks that distinguish the groups."""
        member = np.eye(len(self.groups))[group]
        questions = [group.astype(np.float64)]
        if len(self.groups) > max(2, network.config.classes_at_once):
            questions = list(member.T)
            views = views[: ceil(len(views) / len(questions))]
        # All tasks use the same views, so that predictions do not depend on the order of classes.
        reads = [
            Reading(x[view.rows], member[view.rows], view.columns, unordered, kind, random_state)
            for view, kind in zip(views, reading_kinds(len(views)), strict=True)
        ]
        share = 0.5
        if len(questions) == 1 and len(views) > 1:
            share = held_out_share(
                network,
                x,
                questions[0],
                member,
                columns=columns,
                unordered=unordered,
                most_rows=rows_read(network),
                precision=precision,
            )
        self._weights = torch.as_tensor(view_weights(reads, share))[:, None, None]
        answers = [asked[view.rows] for asked in questions for view in views]
        self.views = EncodedViews(network, reads * len(questions), answers, precision)

    def encode(self) -> "ClassTree":
        """Encodes all views."""
        if self.views is not None:
            self.views.encode()
        for child in self._children:
            if child is not None:
                child.encode()
        return self

    @property
    def is_one_split(self) -> bool:
        """Whether `views` contain all inputs of the network."""
        return self.views is not None and not any(self._children)

    def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each class, ``(queries, classes)``.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        if self.views is None or not len(x):
            return np.ones((len(x), self.n_classes))
        by_group = np.concatenate([self.by_group(chunk) for chunk in self.views.masses(x)])
        proba = np.empty((len(x), self.n_classes))
        for place, (classes, child) in enumerate(zip(self.groups, self._children, strict=True)):
            if child is not None:
                within = np.tile(child.frequency, (len(x), 1))
                asked = by_group[:, place] >= _NEGLIGIBLE
                within[asked] = child.predict_proba(x[asked])
                proba[:, classes] = by_group[:, [place]] * within
            else:
                proba[:, classes] = by_group[:, [place]]
        return proba

    def by_group(self, masses: Sequence[Tensor]) -> NDArray[np.float64]:
        """Probability of each group, or class of one split, ``(queries, groups)``.

        Args:
            masses: output of the network for each of `views`, ``(queries, classes)``.
        """
        n_views = len(self._weights)
        answers = [
            (torch.stack(list(masses[start : start + n_views])) * self._weights).sum(0).numpy()
            for start in range(0, len(masses), n_views)
        ]
        if len(answers) == 1:
            return answers[0][:, : len(self.groups)]
        rest, own = np.clip(answers, np.finfo(float).tiny, None).transpose(2, 1, 0)[:2]
        by_group = own / np.sqrt(rest)
        return by_group / by_group.sum(1, keepdims=True)


def class_groups(
    x: NDArray[np.floating], labels: NDArray[np.intp], most: int
) -> list[NDArray[np.intp]]:
    """Clusters classes into a limited number of groups.

    The groups are those of Ward's method on the class means, in units of the standard deviation
    within classes, so that similar classes share a group. They do not depend on the order of the
    classes.

    Args:
        x: the table as numbers, ``(rows, columns)``; missing values are NaN.
        labels: class indices 0, 1, ..., ``(rows,)``, each of which occurs.
        most: largest number of groups, at least 2.

    Returns:
        The class indices of each group, ascending, with groups ordered by their first index.

    References:
        | Hierarchical Grouping to Optimize an Objective Function (Ward, 1963)

    Example:
        >>> x = np.array([[0.0], [9.0], [0.1], [9.1]])
        >>> [group.tolist() for group in class_groups(x, np.arange(4), 2)]
        [[0, 2], [1, 3]]
    """
    n_classes = int(labels.max()) + 1
    if n_classes <= most:
        return [np.array([number]) for number in range(n_classes)]
    means = _class_means(x.astype(np.float64), labels, n_classes)
    if not np.ptp(means, axis=0).any():  # all class means are equal
        return np.array_split(np.arange(n_classes), most)
    group = fcluster(linkage(means, "ward"), most, "maxclust")
    groups = [np.flatnonzero(group == number) for number in np.unique(group)]
    return sorted(groups, key=lambda members: int(members[0]))


def _class_means(
    x: NDArray[np.float64], labels: NDArray[np.intp], n_classes: int
) -> NDArray[np.float64]:
    known = ~np.isnan(x)
    filled = np.where(known, x, 0.0)
    filled = np.where(known, x, filled.sum(0) / np.maximum(known.sum(0), 1))
    count = np.bincount(labels, minlength=n_classes)[:, None]
    means = np.zeros((n_classes, x.shape[1]))
    np.add.at(means, labels, filled)
    means /= count
    within = np.sqrt(np.square(filled - means[labels]).mean(0))
    # Without variation within classes, as with one row per class, the total is used.
    within = np.where(within > 1e-9 * filled.std(0), within, filled.std(0))
    return means / np.where(within > 0, within, 1.0)
