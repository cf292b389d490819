r"""The number of modes of a set of draws, and the share of the draws in each.

A Gaussian mixture with the number of components chosen by BIC is fitted to the draws. Two
components are merged unless there is a valley between them: unless the mixture density between
their means falls below a tenth of its value at the lower mean. A curved or heavy-tailed mode, which
needs several components, is therefore counted once.

References:
    Hennig, Methods for merging Gaussian mixture components (2010), section 4.1.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from sklearn.mixture import GaussianMixture

_VALLEY = 0.1  # relative to the density at the lower mean; equal normals 5 sd apart reach it
_LEAST_SHARE = 0.01  # draws of a smaller mode are assigned to the nearest larger one
_MOST_NORMALS = 8  # components, and so modes
_MOST_DRAWS = 2000  # for the fit; enough to find a mode of 1%

Points = NDArray[np.float64]


class Modes(NamedTuple):
    """Modes of draws, largest first.

    Attributes:
        shares: shares of the draws, ``(n_modes,)``; they add up to 1.
        labels: index of each draw's mode, ``(n,)``.
    """

    shares: Points
    labels: NDArray[np.int64]


def find_modes(draws: Points) -> Modes:
    """Assigns draws ``(n, dim)`` to modes.

    Args:
        draws: equally weighted, on any scale.

    Example:
        >>> import numpy as np
        >>> rng = np.random.RandomState(0)
        >>> draws = rng.randn(1000, 2) + np.where(rng.rand(1000, 1) < 0.25, 10.0, 0.0)
        >>> find_modes(draws).shares.round(2)
        array([0.76, 0.24])
    """
    low, middle, high = np.quantile(draws, [0.16, 0.5, 0.84], axis=0)
    scaled = (draws - middle) / np.maximum((high - low) / 2, 1e-300)
    mixture = _fit(scaled[:: -(-len(scaled) // _MOST_DRAWS)])
    n_groups, group = connected_components(_joined(mixture))
    of_group = mixture.predict_proba(scaled) @ np.eye(n_groups)[group]
    size = of_group.mean(0)
    order = np.argsort(-size)
    order = order[: max(1, (size >= _LEAST_SHARE).sum())]  # a few draws in a tail are not a mode
    labels = of_group[:, order].argmax(1)
    return Modes(np.bincount(labels, minlength=len(order)) / len(draws), labels)


def _fit(draws: Points) -> GaussianMixture:
    """The mixture with the smallest BIC; stops when two more components bring no improvement."""
    best, best_bic, worse = None, np.inf, 0
    for k in range(1, min(_MOST_NORMALS, len(draws) // 2) + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # incomplete convergence is harmless here
            fitted = GaussianMixture(k, reg_covar=1e-3, random_state=0, n_init=3).fit(draws)
        bic = fitted.bic(draws)
        if bic < best_bic:
            best, best_bic, worse = fitted, bic, 0
        else:
            worse += 1
        if worse == 2:
            break
    return best


def _joined(mixture: GaussianMixture) -> NDArray[np.bool_]:
    """Pairs of components without a valley between them, ``(k, k)``."""
    means = mixture.means_
    share = np.linspace(0.0, 1.0, 21)[:, None]
    joined = np.eye(len(means), dtype=bool)
    for i in range(len(means)):
        for j in range(i):
            along = mixture.score_samples((1 - share) * means[i] + share * means[j])
            joined[i, j] = along.min() > min(along[0], along[-1]) + np.log(_VALLEY)
    return joined | joined.T
