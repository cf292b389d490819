"""The base class of Bayesian regression and classification: units, inference and updates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from operator import is_
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, check_random_state
from torch import Tensor

from amortized.arrays import validate_data
from amortized.estimators.all_or_nothing import all_or_nothing
from amortized.estimators.reporting import PosteriorReport
from amortized.infer import LatentPrior, infer
from amortized.infer.prior_sensitivity import PriorSensitivity, prior_sensitivity
from amortized.infer.streaming import drift, update
from amortized.posterior import Posterior
from amortized.priors.prior import Prior
from amortized.tables.encoding import location_and_scale, refuse_extremes

Model = Callable[..., Any] | Prior
Same = TypeVar("Same", bound="BayesianEstimator")


@dataclass(eq=False, repr=False)
class BayesianEstimator(PosteriorReport, BaseEstimator):
    """Estimator with the posterior of a model's latents, updated with data and prior.

    A subclass defines the default model (`_default_model`), and validates the data passed to
    `_take`.

    Attributes:
        X_train_: all rows seen, ``(n, n_features_in_)``.
        y_train_: their targets, as numbers, ``(n,)``.
        posterior_: the `Posterior` of the latents.
    """

    model: Model | None = None
    _: KW_ONLY
    method: str = "auto"
    latent_prior: LatentPrior | None = None
    n_draws: int = 1000
    options: Mapping[str, Any] | None = None
    random_state: int | np.random.RandomState | None = None

    def set_prior(self: Same, latent_prior: LatentPrior | None) -> Same:
        """Changes the latent prior and computes the posterior given all rows seen so far.

        The units of the data remain unchanged. With method "dt" this takes one forward pass.

        Args:
            latent_prior: as for `amortized.infer.infer`; None for the model's own.

        Returns:
            the estimator, with the new prior as its parameter ``latent_prior``.

        Raises:
            ValueError: if the prior does not match the model; the estimator is then unchanged.
        """
        check_is_fitted(self)
        with all_or_nothing(self):
            self.latent_prior = latent_prior
            self._answer(*self._problem[1:])
        return self

    def prior_sensitivity(
        self, latent_priors: Mapping[str, LatentPrior | None] | Sequence[LatentPrior | None]
    ) -> PriorSensitivity:
        """Posteriors under other priors given the rows seen so far, as one batch.

        Args:
            latent_priors: priors, by label or as a sequence, each as for `set_prior`.

        Returns:
            the posteriors, compared with that under the current prior; see
            `amortized.infer.prior_sensitivity.prior_sensitivity`.
        """
        check_is_fitted(self)
        return prior_sensitivity(
            *self._problem,
            latent_priors=latent_priors,
            base=self.latent_prior,
            # Priors are compared as mixtures, for which there are no closed forms.
            method="auto" if self.method == "exact" else self.method,
            n_draws=self.n_draws,
            seed=self._seed(),
            **dict(self.options or {}),
        )

    def _default_model(self) -> Model:
        """The default model, for standardised data."""
        raise NotImplementedError

    def _set_units(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """Determines the units of the model's data; a user's model gets the original units."""
        self._x_mean, self._x_scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
        self._y_mean, self._y_scale = 0.0, 1.0
        if self.model is None:
            self._x_mean, self._x_scale = location_and_scale(X)

    def _in_units(
        self, X: NDArray[np.float64], y: NDArray[np.float64] | None = None
    ) -> tuple[Tensor, Tensor]:
        answers = np.zeros(len(X)) if y is None else (y - self._y_mean) / self._y_scale
        return torch.as_tensor((X - self._x_mean) / self._x_scale), torch.as_tensor(answers)

    def _take(self: Same, X: NDArray[np.float64], y: NDArray[np.float64], *, further: bool) -> Same:
        """Infers the posterior from validated rows and, if ``further``, earlier ones."""
        start = None
        if self.model is None:
            refuse_extremes(X, "X")
            refuse_extremes(y, "y")
        if further:
            # After a change of parameters the earlier posterior cannot be used.
            goes_on = all(map(is_, self._asked(), self._answered))
            if goes_on and self.method == "dt":
                return self._stream(X, y)
            start = self.posterior_ if goes_on and self.method != "exact" else None
            X, y = np.concatenate([self.X_train_, X]), np.concatenate([self.y_train_, y])
        self._set_units(X, y)
        self._answer(*self._in_units(X, y), start)
        self.X_train_, self.y_train_ = X, y
        return self

    def _asked(self) -> tuple[Any, ...]:
        """The parameters that determine the posterior."""
        return self.model, self.method, self.latent_prior

    def _answer(self, x: Tensor, y: Tensor, start: Posterior | None = None) -> None:
        """Infers the posterior given data in the model's units."""
        model = self._default_model() if self.model is None else self.model
        options = dict(self.options or {})
        if start is not None:
            options["start"] = start
        self.posterior_ = infer(
            model,
            x,
            y,
            method=self.method,
            latent_prior=self.latent_prior,
            n_draws=self.n_draws,
            seed=self._seed(),
            **options,
        )
        self._problem, self._answered = (model, x, y), self._asked()

    def _stream(self: Same, X: NDArray[np.float64], y: NDArray[np.float64]) -> Same:
        """Uses the current posterior as the prior of new rows; units remain unchanged."""
        model, *earlier = self._problem
        new = self._in_units(X, y)
        options = dict(self.options or {})
        posterior = update(
            model, self.posterior_, *new, n_draws=self.n_draws, seed=self._seed(), **options
        )
        problem = model, *(torch.cat(both) for both in zip(earlier, new, strict=True))
        _, inputs, targets = problem
        off = drift(model, inputs, targets, posterior, latent_prior=self.latent_prior, **options)
        posterior.diagnostics["drift"] = off.item()
        self._problem, self.posterior_ = problem, posterior
        self.X_train_ = np.concatenate([self.X_train_, X])
        self.y_train_ = np.concatenate([self.y_train_, y])
        return self

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _predictive(self, X: ArrayLike) -> Any:
        check_is_fitted(self)
        inputs: Any = validate_data(self, X, dtype=np.float64, reset=False)
        return self.posterior_.predictive(self._in_units(inputs)[0])
