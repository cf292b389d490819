"""More classes than a network has slots: a tree of groups, each split a classification."""

import numpy as np
import torch
from numpy.typing import NDArray

from amortized.estimators.table_views import EncodedViews, draw_views
from amortized.networks.tabular_pfn import TabularPFN


class ClassTree:
    r"""Classifies into any number of classes by splits into at most ``max_classes`` groups.

    A class's probability is the product of its groups' along the path: with classes c in groups g,
    :math:`p(c | x) = p(g | x)\, p(c | g, x)`, and the second factor is learned from the rows of
    group g alone. Up to ``max_classes`` classes make one split, and all is exact; each further
    level multiplies that number.

    Args:
        network: a network for classification.
        x: the table as numbers, ``(rows, columns)``.
        labels: class numbers 0, 1, ..., ``(rows,)``, each of which occurs.
        columns: the columns to be looked at.
        n_views: views of each split.
        random_state: draws the views.
        weight: by which they draw rows, ``(rows,)``; None takes each once.
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
    ) -> None:
        self.n_classes = int(labels.max()) + 1
        n_groups = min(self.n_classes, network.config.max_classes)
        self.groups = np.array_split(np.arange(self.n_classes), n_groups)
        group = np.repeat(np.arange(n_groups), [len(members) for members in self.groups])[labels]
        self.views: EncodedViews | None = None
        if n_groups > 1:
            most = network.config.max_context
            views = draw_views(n_views, group, columns, most, random_state, weight)
            answers = [group[view.rows].astype(np.float64) for view in views]
            self.views = EncodedViews(network, x, views, answers)
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
            )
            for number, members in enumerate(self.groups)
        ]

    def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each class, ``(queries, classes)``.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        if self.views is None:
            return np.ones((len(x), 1))
        by_group = torch.cat([torch.stack(views).mean(0) for views in self.views.masses(x)]).numpy()
        proba = np.empty((len(x), self.n_classes))
        for number, (members, child) in enumerate(zip(self.groups, self.children, strict=True)):
            within = 1.0 if child is None else child.predict_proba(x)
            proba[:, members] = by_group[:, [number]] * within
        return proba
