"""Which of many classes are told apart first: groups of classes that look alike."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage


def class_groups(
    x: NDArray[np.floating], labels: NDArray[np.intp], most: int
) -> list[NDArray[np.intp]]:
    """Put classes into at most so many groups; each is its own where there are no more.

    The groups are those of Ward's method on the means of the classes, in units of the standard
    deviation within classes: what differs little is told apart last, by a task of its own. They do
    not depend on the classes' numbers.

    Args:
        x: the table as numbers, ``(rows, columns)``; missing values are NaN.
        labels: class numbers 0, 1, ..., ``(rows,)``, each of which occurs.
        most: groups, at least 2.

    Returns:
        The class numbers of each group, ascending; groups by their first one.

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
    if not np.ptp(means, axis=0).any():  # nothing tells them apart
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
    # Where nothing varies within classes, one row a class for instance, all of it is between.
    within = np.where(within > 1e-9 * filled.std(0), within, filled.std(0))
    return means / np.where(within > 0, within, 1.0)
