"""Gives a fitted estimator its ``report``: the verdict on its answer to the data it knows."""

import warnings
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from amortized.diagnostics.page import Report
from amortized.diagnostics.posterior_report import report_posterior
from amortized.diagnostics.predictive_report import fit_section, report_pfn
from amortized.diagnostics.prior_fit import LEAST_ROWS, gross_misfit, prior_fit
from amortized.networks import PFN
from amortized.tables.encoding import MAX_COLUMNS
from amortized.tables.screening import strongest_columns


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


def observed_rows(
    x: NDArray[Any], y: NDArray[Any], order: NDArray[Any], kept: NDArray[Any], weighted: bool
) -> NDArray[np.intp]:
    """Numbers of the fitted rows in the order in which they were given.

    Args:
        x: inputs, sorted, of the rows that were kept.
        y: targets, likewise.
        order: where each sorted row stood.
        kept: which of the sorted rows were kept.
        weighted: whether a row may stand several times for one that was observed once.
    """
    observed = np.argsort(order[kept], kind="stable")
    if weighted:
        rows = np.column_stack((x, y))[observed]
        observed = observed[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    return observed


def warn_of_misfit(estimator: Any) -> None:
    """Warns where ``fit`` was called if a network over rows is far too sure of held-out rows.

    Args:
        estimator: fitted.
    """
    if isinstance(estimator.network_, PFN):
        rows = estimator._observed
        x, y = (torch.as_tensor(v[rows]) for v in (estimator.X_train_, estimator.y_train_))
        if (misfit := gross_misfit(estimator.network_, x, y)) is not None:
            warnings.warn(f"The prior of the network does not fit. {misfit}", stacklevel=3)


class NetworkReport:
    """For estimators that answer by a network."""

    network_: Any
    X_train_: Any
    y_train_: Any

    def report(self, reference: str | None = "auto", *, seed: int = 0) -> Report:
        """Whether the prior fits the rows; calibration, range and a reference; see `report_pfn`.

        Of a network over tables the first alone, by its answer to one reading of the table.

        Args:
            reference: method of `infer` on the network's prior, "auto" or None.
            seed: of what is drawn.
        """
        check_is_fitted(self)
        network = deepcopy(self.network_).cpu()  # modules move in place
        x, y = torch.as_tensor(self.X_train_), torch.as_tensor(self.y_train_)
        over_rows = isinstance(network, PFN)
        observed = getattr(self, "_observed", None) if over_rows else None
        if observed is None:  # of tables and older files; successive rows must not be related
            observed = np.random.default_rng(seed).permutation(len(x))
        fit = None
        if len(observed) >= LEAST_ROWS:
            columns: Any = slice(None)
            if not over_rows:
                columns = strongest_columns(self.X_train_, self.y_train_[:, None], MAX_COLUMNS)
            fit = prior_fit(network, x[observed][:, columns], y[observed], seed=seed)
        if over_rows:
            return report_pfn(
                network, x, y, estimator=clone(self), reference=reference, seed=seed, fit=fit
            )
        found = list[str]()
        sections = fit_section(fit, found)
        sections["What was asked"] = {"rows": len(x), "features": x.shape[1]}
        return Report(f"{network.config.prior} on {len(x)} rows", sections, found)


class PosteriorReport:
    """For estimators that answer by the posterior of a program."""

    posterior_: Any
    latent_prior: Any
    options: Any
    _problem: Any

    def report(self, reference: str | None = "auto", *, seed: int = 0) -> Report:
        """Method, calibration, fit and a reference on the data, as one page.

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
