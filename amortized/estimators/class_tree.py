"""Any number of classes by tasks of two: each class against the rest, in a tree where many."""

from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from amortized.estimators.table_views import EncodedViews, draw_views
from amortized.networks.tabular_pfn import TabularPFN

_MOST_GROUPS = 10  # tasks, and encodings, of one split


class ClassTree:
    r"""Classifies into any number of classes by tasks of two classes.

    Two classes are one task; more are one task each, against the rest. With :math:`p_c` the
    probability of c in its task, c has a probability proportional to :math:`p_c (1 - p_c)^{-1/2}`:
    the geometric mean of :math:`p_c`, what its own task says, and of its odds, what all tasks say
    together if they are independent. (A small network answers these tasks much better than one of
    ten classes.) More than ten classes c are put into ten groups g, with
    :math:`p(c | x) = p(g | x)\, p(c | g, x)`, and the second factor is learned from the rows of
    group g alone.

    Args:
        network: a network for classification.
        x: the table as numbers, ``(rows, columns)``.
        labels: class numbers 0, 1, ..., ``(rows,)``, each of which occurs.
        columns: the columns to be looked at.
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
        n_views: int,
        random_state: np.random.RandomState,
        weight: NDArray[np.float64] | None = None,
        precision: str = "auto",
    ) -> None:
        self.n_classes = int(labels.max()) + 1
        n_groups = min(self.n_classes, _MOST_GROUPS)
        self.groups = np.array_split(np.arange(self.n_classes), n_groups)
        group = np.repeat(np.arange(n_groups), [len(members) for members in self.groups])[labels]
        # Of two groups the second's task says all; a single one is no question.
        asked = range(n_groups) if n_groups > 2 else range(1, n_groups)
        self.tasks = []
        if asked:
            # The same views for all tasks: the answer does not depend on the order of the classes.
            most = network.config.max_context
            views = draw_views(
                ceil(n_views / len(asked)), group, columns, most, random_state, weight
            )
            for number in asked:
                is_member = (group == number).astype(np.float64)
                answers = [is_member[view.rows] for view in views]
                self.tasks.append(EncodedViews(network, x, views, answers, precision))
        self.children = [
            None
            if len(members) == 1
            else ClassTree(
                network,
                x[group == number],
                labels[group == number] - members[0],
                columns=columns,
                n_views=n_views,
                random_state=random_state,
                weight=None if weight is None else weight[group == number],
                precision=precision,
            )
            for number, members in enumerate(self.groups)
        ]

    def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each class, ``(queries, classes)``.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        if not self.tasks:
            return np.ones((len(x), 1))
        answers = [
            torch.cat([torch.stack(views).mean(0) for views in task.masses(x)])[:, :2].numpy()
            for task in self.tasks
        ]
        by_group = answers[0]
        if len(answers) > 1:
            rest, own = np.clip(answers, np.finfo(float).tiny, None).transpose(2, 1, 0)
            by_group = own / np.sqrt(rest)
            by_group /= by_group.sum(1, keepdims=True)
        proba = np.empty((len(x), self.n_classes))
        for number, (classes, child) in enumerate(zip(self.groups, self.children, strict=True)):
            within = 1.0 if child is None else child.predict_proba(x)
            proba[:, classes] = by_group[:, [number]] * within
        return proba
