"""Gives a fitted estimator its ``report``: the verdict on its answer to the data it knows."""

import warnings
from copy import deepcopy
from typing import Any

import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from amortized.diagnostics.page import Report
from amortized.diagnostics.posterior_report import report_posterior
from amortized.diagnostics.predictive_report import report_pfn
from amortized.networks import PFN


def warn_of_doubts(network: Any) -> None:
    """Warns of a network that its own training has measured to be poor, where ``fit`` was called.

    Args:
        network: as `train` returns it, or as it was loaded.
    """
    for doubt in [] if network.calibration is None else network.calibration.doubts:
        warnings.warn(
            f"Do not trust the answers of this network: {doubt}. Train it longer or with more "
            "weights.",
            stacklevel=3,
        )


class NetworkReport:
    """For estimators that answer by a network."""

    network_: Any
    X_train_: Any
    y_train_: Any

    def report(self, reference: str | None = "auto", *, seed: int = 0) -> Report:
        """Calibration of this estimator, range and a reference on the data; see `report_pfn`.

        Args:
            reference: method of `infer` on the network's prior, "auto" or None.
            seed: of what is drawn.
        """
        check_is_fitted(self)
        if not isinstance(self.network_, PFN):
            raise ValueError(
                "Expected a network over rows, whose prior has a density to compare with; got a "
                f"{type(self.network_).__name__}. Take model='gp'."
            )
        x, y = torch.as_tensor(self.X_train_), torch.as_tensor(self.y_train_)
        network = deepcopy(self.network_).cpu()  # modules move in place
        return report_pfn(network, x, y, estimator=clone(self), reference=reference, seed=seed)


class PosteriorReport:
    """For estimators that answer by the posterior of a program."""

    posterior_: Any
    latent_prior: Any
    options: Any
    _problem: Any

    def report(self, reference: str | None = "auto", *, seed: int = 0) -> Report:
        """Rung, calibration, fit and a reference on the data, as one page.

        Args:
            reference: method of `infer` to compare with, "auto" or None.
            seed: of what is drawn.
        """
        check_is_fitted(self)
        model, x, y = self._problem
        return report_posterior(
            model,
            x,
            y,
            self.posterior_,
            reference=reference,
            latent_prior=self.latent_prior,
            options=self.options,
            seed=seed,
        )
