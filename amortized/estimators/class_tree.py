"""Any number of classes by tasks of a few: in one pass where the network can, in a tree if many."""

from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from amortized.estimators.class_groups import class_groups
from amortized.estimators.table_views import EncodedViews, View, draw_views, rows_read
from amortized.estimators.view_readings import Reading, reading_kinds
from amortized.estimators.view_weights import held_out_share, view_weights
from amortized.networks.tabular_pfn import TabularPFN

_MOST_GROUPS = 10  # tasks, and encodings, of one split


class ClassTree:
    r"""Classifies into any number of classes by tasks of a few classes.

    As many classes as the network was trained to tell apart at once are one task. More are one
    task each, against the rest. With :math:`p_c` the probability of c in its task, c has a
    probability proportional to :math:`p_c (1 - p_c)^{-1/2}`: the geometric mean of :math:`p_c`,
    what its own task says, and of its odds, what all tasks say together if they are independent.
    More than ten classes c are put into groups g of those that look alike, with
    :math:`p(c | x) = p(g | x)\, p(c | g, x)`, and the second factor is learned from the rows of
    group g alone.

    Args:
        network: a network for classification.
        x: the table as numbers, ``(rows, columns)``.
        labels: class numbers 0, 1, ..., ``(rows,)``, each of which occurs.
        columns: the columns to be looked at.
        unordered: which of the table's columns are categories without an order.
        n_views: views of each split, which its tasks share; each task has one at least.
        random_state: draws the views.
        weight: by which they draw rows, ``(rows,)``; None takes each once.
        precision: one of ``PRECISIONS``.

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
        self.groups = class_groups(x[:, columns], labels, _MOST_GROUPS)
        n_groups = len(self.groups)
        number = np.empty(self.n_classes, dtype=np.intp)
        for place, members in enumerate(self.groups):
            number[members] = place
        group = number[labels]
        self._tasks: list[EncodedViews] = []
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
        """Encode the tasks that tell the groups apart."""
        member = np.eye(len(self.groups))[group]
        questions = [group.astype(np.float64)]
        if len(self.groups) > max(2, network.config.classes_at_once):
            questions = list(member.T)
            views = views[: ceil(len(views) / len(questions))]
        # The same views for all tasks: the answer does not depend on the order of the classes.
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
        for asked in questions:
            answers = [asked[view.rows] for view in views]
            self._tasks.append(EncodedViews(network, reads, answers, precision))

    def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each class, ``(queries, classes)``.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        if not self._tasks:
            return np.ones((len(x), 1))
        by_group = self._of_groups(x)
        proba = np.empty((len(x), self.n_classes))
        for place, (classes, child) in enumerate(zip(self.groups, self._children, strict=True)):
            within = 1.0 if child is None else child.predict_proba(x)
            proba[:, classes] = by_group[:, [place]] * within
        return proba

    def _of_groups(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each group, ``(queries, groups)``."""
        answers = [
            torch.cat([(torch.stack(v) * self._weights).sum(0) for v in task.masses(x)]).numpy()
            for task in self._tasks
        ]
        if len(answers) == 1:
            return answers[0][:, : len(self.groups)]
        rest, own = np.clip(answers, np.finfo(float).tiny, None).transpose(2, 1, 0)[:2]
        by_group = own / np.sqrt(rest)
        return by_group / by_group.sum(1, keepdims=True)
