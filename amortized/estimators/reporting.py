"""The method ``report`` of fitted estimators: every reason to distrust their predictions."""

import warnings
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from amortized.diagnostics.data.held_out_classes import classes_section, held_out_classes
from amortized.diagnostics.data.held_out_targets import (
    HeldOutTargets,
    held_out_targets,
    targets_section,
)
from amortized.diagnostics.data.prior_fit import LEAST_ROWS, gross_misfit, prior_fit
from amortized.diagnostics.reports.page import Report, Section
from amortized.diagnostics.reports.posterior_report import report_posterior
from amortized.diagnostics.reports.predictive_report import report_pfn
from amortized.networks import PFN
from amortized.priors.prior import Prior


def warn_of_doubts(network: Any) -> None:
    """Warns, from ``fit``, if the calibration measured after the network's training is poor.

    Args:
        network: a network from `train` or `load`.
    """
    for doubt in [] if network.calibration is None else network.calibration.doubts:
        warnings.warn(
            f"Predictions of this network are unreliable: {doubt}. Train it longer or with more "
            "weights.",
            stacklevel=3,
        )


def observed_rows(
    x: NDArray[Any], y: NDArray[Any], order: NDArray[Any], kept: NDArray[Any], weighted: bool
) -> NDArray[np.intp]:
    """The training rows in the order in which they were given.

    Args:
        x: inputs of the stored rows, sorted.
        y: targets of the stored rows, sorted.
        order: original position of each sorted row.
        kept: which of the sorted rows were stored.
        weighted: whether several rows may represent a single observation.
    """
    observed = np.argsort(order[kept], kind="stable")
    if weighted:
        rows = np.column_stack((x, y))[observed]
        observed = observed[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    return observed


def warn_of_misfit(estimator: Any) -> None:
    """Warns, from ``fit``, if a network over rows is grossly overconfident on held-out rows.

    Args:
        estimator: the fitted estimator.
    """
    if isinstance(estimator.network_, PFN) and estimator.y_train_.ndim == 1:
        rows = estimator._observed
        x, y = (torch.as_tensor(v[rows]) for v in (estimator.X_train_, estimator.y_train_))
        if (misfit := gross_misfit(estimator.network_, x, y)) is not None:
            warnings.warn(f"The prior of the network does not fit. {misfit}", stacklevel=3)


# Views of a table in each fold, which are faster and slightly less accurate than the default.
_VIEWS = 2


class RegressorReport:
    """The report of `PFNRegressor`."""

    network_: Any
    X_train_: Any
    y_train_: Any

    def report(
        self, reference: str | None = "auto", *, prior: Prior | None = None, seed: int = 0
    ) -> Report:
        """Calibration and accuracy on held-out rows, and every reason to distrust the predictions.

        For a table, coverage, PIT, log score and error in five-fold cross-validation are compared
        with those of simple baselines. For a network over rows, the report also covers the fit of
        its prior, its calibration over the prior, its training range and the divergence from a
        reference method.

        Args:
            reference: method of `infer` with the prior of a network over rows, "auto" or None.
            prior: training prior of a network over rows; None uses the one that its config names.
            seed: seed of all random numbers.
        """
        check_is_fitted(self)
        if self.y_train_.ndim == 2:
            raise ValueError(
                f"Expected one output; got {self.y_train_.shape[1]}. Fit an estimator to each and "
                "take its report."
            )
        if not isinstance(self.network_, PFN):
            return _report_of_table(self, seed)
        network = deepcopy(self.network_).cpu()  # modules are moved in place
        x, y = torch.as_tensor(self.X_train_), torch.as_tensor(self.y_train_)
        observed = getattr(self, "_observed", None)
        if observed is None:  # older files; the order of rows is unknown and must not be tested
            observed = np.random.default_rng(seed).permutation(len(x))
        fit = None
        if len(observed) >= LEAST_ROWS:
            fit = prior_fit(network, x[observed], y[observed], prior=prior, seed=seed)
        names = getattr(self, "feature_names_in_", None)
        judged = {"estimator": clone(self), "reference": reference, "fit": fit, "names": names}
        return report_pfn(network, x, y, prior=prior, seed=seed, **judged)


class ClassifierReport:
    """The report of `PFNClassifier`."""

    network_: Any
    X_train_: Any
    y_train_: Any
    classes_: Any

    def report(self, *, seed: int = 0) -> Report:
        """Calibration, log-loss, confusion matrix and counts in five-fold cross-validation.

        The log-loss is compared with that of class prevalence and of boosted trees.

        Args:
            seed: seed of the folds and of the simulated labels.
        """
        check_is_fitted(self)
        x, y = self.X_train_[rows := _distinct_rows(self)], self.y_train_[rows]

        def answer(given: NDArray[np.intp], out: NDArray[np.intp]) -> NDArray[np.float64]:
            present = np.unique(y[given])
            part = _of_rows(self, rows[given])
            part.y_train_ = np.searchsorted(present, y[given])
            part.classes_, part.class_weight_ = self.classes_[present], part.class_weight_[present]
            part._make_views()
            probs = np.zeros((len(out), len(self.classes_)))
            probs[:, present] = part._point(x[out].astype(np.float64))
            return probs

        found: Section
        try:
            inputs = x.astype(np.float64)
            held_out = held_out_classes(answer, inputs, y, len(self.classes_), seed)
            found = classes_section(held_out, self.classes_, seed)
        except ValueError as reason:
            found = Section("Held-out rows", {"not judged": str(reason)})
        return Report.of(_title(self, len(x)), [found, _asked(self)])


def _report_of_table(estimator: Any, seed: int) -> Report:
    x = estimator.X_train_[rows := _distinct_rows(estimator)]
    y = (estimator.y_train_ * estimator._y_scale + estimator._y_mean)[rows]

    def answer(given: NDArray[np.intp], out: NDArray[np.intp]) -> Any:
        part = _of_rows(estimator, rows[given])
        part._standardise(y[given])
        part._make_views()
        return part._context.predictive(x[out].astype(np.float64))

    if len(x) >= LEAST_ROWS:
        found = targets_section(held_out_targets(answer, x.astype(np.float64), y, seed))
    else:
        found = Section("Held-out rows", {"not judged": f"fewer than {LEAST_ROWS} rows"})
    return Report.of(_title(estimator, len(x)), [found, _asked(estimator)])


def _distinct_rows(estimator: Any) -> NDArray[np.intp]:
    """Indices of distinct training rows, because copies must not be in different folds."""
    if not getattr(estimator, "_weighted", False):
        return np.arange(len(estimator.X_train_))
    rows = np.column_stack((estimator.X_train_, estimator.y_train_))
    return np.sort(np.unique(rows, axis=0, return_index=True)[1])


def _of_rows(estimator: Any, rows: NDArray[np.intp]) -> Any:
    """The fitted estimator restricted to some rows, before its views are created."""
    part = object.__new__(type(estimator))
    part.__dict__.update(estimator.__dict__)
    part.X_train_, part.y_train_ = estimator.X_train_[rows], estimator.y_train_[rows]
    if estimator._row_weights is not None:
        part._row_weights = estimator._row_weights[rows]
    part.n_estimators = min(_VIEWS, estimator.n_estimators or _VIEWS)
    return part


def _title(estimator: Any, n_rows: int) -> str:
    return f"{type(estimator).__name__} on {n_rows} rows"


def _asked(estimator: Any) -> Section:
    config = estimator.network_.config
    entries: dict[str, Any] = {"network": str(config.prior)}
    entries |= {"rows": len(estimator.X_train_), "features": estimator.n_features_in_}
    return Section("Subject", entries)


class CurveReport:
    """The report of `LearningCurveRegressor`."""

    network_: Any
    steps_: Any
    values_: Any

    def report(self) -> Report:
        """Calibration and error of the last known value of each curve, given its first 80%.

        The error is compared with that of the last value given. Each curve contributes one value,
        so that values are independent; a few dozen curves are needed to detect more than gross
        errors.
        """
        check_is_fitted(self)
        shown, last = self.steps_.copy(), []
        values, target, before = self.values_.copy(), [], []
        for row in range(len(shown)):
            known = np.flatnonzero(~np.isnan(values[row]) & ~np.isnan(shown[row]))
            n_hidden = max(1, len(known) // 5)
            if len(known) < 2:
                continue
            hidden = known[-n_hidden:]
            last.append((row, shown[row, known[-1]]))
            target.append(values[row, known[-1]])
            before.append(values[row, known[-n_hidden - 1]])
            values[row, hidden] = np.nan
        asked = Section(
            "Subject", {"network": str(self.network_.config.prior), "curves": len(shown)}
        )
        if not last:
            short = Section("Held-out curves", {"not judged": "no curve with two known values"})
            return Report.of(_curve_title(self), [short, asked])
        rows = [row for row, _ in last]
        part: Any = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part._many, part.steps_, part.values_ = True, shown[rows], values[rows]
        answer = part.predict_distribution(np.array([[step] for _, step in last]))
        y = np.array(target)
        held_out = HeldOutTargets.of(answer, y, predictions={"last value shown": np.array(before)})
        return Report.of(_curve_title(self), [targets_section(held_out, "curve"), asked])


def _curve_title(estimator: Any) -> str:
    n = len(estimator.steps_)
    return f"{type(estimator).__name__} on {n} curve{'s' if n > 1 else ''}"


class PosteriorReport:
    """The report of estimators that predict by the posterior of a program."""

    X_train_: Any
    y_train_: Any
    posterior_: Any
    latent_prior: Any
    options: Any
    _problem: Any

    def report(self, reference: str | None = "auto", *, seed: int = 0) -> Report:
        """Held-out rows, method, calibration at these inputs, fit, and a reference.

        Args:
            reference: method of `infer` to compare with, "auto" or None.
            seed: seed of all random numbers.
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
            held_out=self._held_out(seed),
        )

    def _held_out(self, seed: int) -> Section:
        x, y, names = self.X_train_, self.y_train_, getattr(self, "classes_", None)

        def fitted(given: NDArray[np.intp]) -> Any:
            own: Any = clone(self)
            with warnings.catch_warnings():  # the user was warned when all rows were fitted
                warnings.simplefilter("ignore", UserWarning)
                if names is None:
                    return own.fit(x[given], y[given])
                return own.partial_fit(x[given], names[y[given].astype(np.intp)], names)

        try:
            if names is None:
                answer = lambda given, out: fitted(given).predict_distribution(x[out])  # noqa: E731
                return targets_section(held_out_targets(answer, x, y, seed))
            probs = lambda given, out: fitted(given).predict_proba(x[out])  # noqa: E731
            found = held_out_classes(probs, x, y.astype(np.intp), len(names), seed)
            return classes_section(found, names, seed)
        except (ValueError, RuntimeError) as reason:  # a program may require all of its rows
            return Section("Held-out rows", {"not judged": f"{reason!s:.200}"})
