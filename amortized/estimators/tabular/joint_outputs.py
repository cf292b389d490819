r"""Several outputs a row: each given the inputs alone, and all of them jointly by the chain rule.

.. math:: p(y_1, \ldots, y_k \mid x) = \prod_j p(y_j \mid x, y_1, \ldots, y_{j-1})

Means, standard deviations and quantiles of an output are those of its own predictive
:math:`p(y_j | x)`, for which no other output is needed. Draws and the joint density are those of
the chain (``column_chain``), whose factors are learned when they are first asked for.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amortized.estimators.tabular.column_chain import ColumnChain, Table

Numbers = NDArray[np.float64]


class JointOutputs:
    """The estimators of a regression with several outputs.

    Args:
        regressor: makes an estimator of one output.
        x: inputs, ``(rows, features)``, floats or objects.
        y: outputs, ``(rows, outputs)``.
        weight: of the rows, ``(rows,)``; None is once each.
    """

    def __init__(
        self, regressor: Callable[[], Any], x: Table, y: Numbers, weight: Numbers | None
    ) -> None:
        self._n_inputs = x.shape[1]
        self.chain = ColumnChain(
            np.concatenate((x, y), axis=1), x.shape[1], regressor, None, weight
        )
        with warnings.catch_warnings():  # of the whole, the user has been warned
            warnings.simplefilter("ignore", UserWarning)
            later = [regressor().fit(x, target, weight) for target in y.T[1:]]
        self.each = [self.chain.link(self._n_inputs).estimator, *later]

    def stacked(self, method: str, x: Table, *arguments: Any) -> Numbers:
        """What a method returns for each output, ``(rows, outputs, ...)``.

        Args:
            method: of an estimator of one output.
            x: queries, ``(rows, features)``.
            arguments: of the method.
        """
        return np.stack([getattr(one, method)(x, *arguments) for one in self.each], axis=1)

    def predict(self, x: Table, return_std: bool) -> Numbers | tuple[Numbers, Numbers]:
        """Means, and standard deviations if asked for, ``(rows, outputs)``."""
        if not return_std:
            return self.stacked("predict", x)
        mean, std = np.stack([one.predict(x, True) for one in self.each], axis=2)
        return mean, std

    def sample(self, x: Table, n_samples: int, random: np.random.RandomState) -> Numbers:
        """Joint draws, ``(rows, outputs, n_samples)``."""
        drawn = self.chain.sample(np.repeat(x, n_samples, axis=0), random)[:, self._n_inputs :]
        by_row = drawn.astype(np.float64).reshape(len(x), n_samples, -1)
        return by_row.transpose(0, 2, 1)

    def log_density(self, x: Table, y: Numbers) -> Numbers:
        """Joint log density of the outputs, ``(rows,)``, in nats."""
        return self.chain.log_density(np.concatenate((x, y), axis=1))
