"""Any model and any inference method as scikit-learn estimators."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
from torch import Tensor
from torch.distributions import Distribution

from amortized.estimators.reporting import PosteriorReport
from amortized.infer import infer
from amortized.infer.streaming import update
from amortized.posterior import Posterior
from amortized.predictive import Affine
from amortized.priors.linear_model import LinearModelPrior
from amortized.priors.linear_regression import LinearRegressionPrior
from amortized.priors.prior import Prior

Model = Callable[..., Any] | Prior


class _BayesianEstimator(PosteriorReport, BaseEstimator):
    """What regression and classification share: arguments, the data's units, call of `infer`."""

    def __init__(
        self,
        model: Model | None = None,
        *,
        method: str = "auto",
        n_draws: int = 1000,
        options: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.model = model
        self.method = method
        self.n_draws = n_draws
        self.options = options
        self.random_state = random_state

    def _learn(
        self,
        X: NDArray[np.float64],
        y: NDArray[np.float64],
        default_model: Model,
        start: Posterior | None,
    ) -> None:
        """Infers the posterior of the user's model, or of the default on standardised inputs."""
        self._x_mean, self._x_scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
        if self.model is None:
            scale = X.std(0)
            self._x_mean, self._x_scale = X.mean(0), np.where(scale > 0, scale, 1.0)
        options = dict(self.options or {})
        if start is not None:
            options["start"] = start
        model = default_model if self.model is None else self.model
        self._problem = model, torch.as_tensor(self._standardise(X)), torch.as_tensor(y)
        self.posterior_ = infer(
            *self._problem,
            method=self.method,
            n_draws=self.n_draws,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
            **options,
        )

    def _standardise(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return (X - self._x_mean) / self._x_scale

    def _predictive(self, X: ArrayLike) -> Any:
        check_is_fitted(self)
        inputs: Any = validate_data(self, X, dtype=np.float64, reset=False)
        return self.posterior_.predictive(torch.as_tensor(self._standardise(inputs)))


class BayesianRegressor(RegressorMixin, _BayesianEstimator):
    """Bayesian regression with any model and any inference method.

    Args:
        model: a prior with a program, or a Pyro program ``model(x, y=None)`` in the data's own
            units. None is linear regression with unknown noise on standardised data.
        method: a method of `amortized.infer.infer`.
        n_draws: posterior draws.
        options: further arguments of the method.
        random_state: seed of the draws.

    Attributes:
        posterior_: the `Posterior` of the model's latents.
        n_features_in_: number of features.

    Example:
        >>> import numpy as np
        >>> X = np.linspace(-1, 1, 30)[:, None]
        >>> estimator = BayesianRegressor().fit(X, 3 * X[:, 0] + 1)
        >>> estimator.predict([[0.5]]).round(1)
        array([2.5])
    """

    X_train_: NDArray[np.float64]
    y_train_: NDArray[np.float64]

    def fit(self, X: ArrayLike, y: ArrayLike) -> "BayesianRegressor":
        """Infer the posterior of the model's latents.

        Args:
            X: inputs, ``(n, n_features)``, finite numbers.
            y: targets, ``(n,)``, finite numbers.
        """
        return self._fit(X, y, with_earlier_rows=False)

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> "BayesianRegressor":
        """Take further rows into account; samplers start from the posterior so far.

        With method "dt" the posterior becomes the prior of the further rows, and
        ``posterior_.diagnostics["drift"]`` is how far that led from the posterior of all rows.
        """
        return self._fit(X, y, with_earlier_rows=hasattr(self, "posterior_"))

    def _fit(self, X: ArrayLike, y: ArrayLike, *, with_earlier_rows: bool) -> "BayesianRegressor":
        inputs, targets = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, reset=not with_earlier_rows
        )
        targets, start = np.asarray(targets, dtype=np.float64), None
        if with_earlier_rows and self.method == "dt":
            return self._stream(inputs, targets)
        if with_earlier_rows:
            inputs = np.concatenate([self.X_train_, inputs])
            targets = np.concatenate([self.y_train_, targets])
            start = None if self.method == "exact" else self.posterior_
        default = self.model is None
        self._y_mean = float(targets.mean()) if default else 0.0
        self._y_scale = (float(targets.std()) or 1.0) if default else 1.0
        # Weak: weights of 10 noise scales, noise of any size below the target's.
        weak: Prior = LinearRegressionPrior(
            inputs.shape[1], weight_scale=10.0, concentration=1.0, rate=0.1
        )
        if self.method == "dt":  # whose network has weights that do not scale with the noise
            weak = LinearModelPrior(inputs.shape[1], log_noise=-1.0)
        self._learn(inputs, (targets - self._y_mean) / self._y_scale, weak, start)
        self.X_train_, self.y_train_ = inputs, targets
        return self

    def _stream(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> "BayesianRegressor":
        """Takes the posterior so far for the prior of further rows; units stay the first ones."""
        model, x_before, y_before = self._problem
        x, y_now = torch.as_tensor(self._standardise(X)), (y - self._y_mean) / self._y_scale
        self.posterior_, drift = update(
            model,
            self.posterior_,
            (x, torch.as_tensor(y_now)),
            (x_before, y_before),
            n_draws=self.n_draws,
            **dict(self.options or {}),
        )
        self._problem = (
            model,
            torch.cat([x_before, x]),
            torch.cat([y_before, torch.as_tensor(y_now)]),
        )
        self.X_train_ = np.concatenate([self.X_train_, X])
        self.y_train_ = np.concatenate([self.y_train_, y])
        self.posterior_.diagnostics["drift"] = drift.item()
        return self

    def predict_distribution(self, X: ArrayLike) -> Distribution:
        """The posterior predictive of each row's target, of batch shape ``(m,)``."""
        predictive = self._predictive(X)
        return (
            predictive
            if self.model is not None
            else Affine(predictive, self._y_mean, self._y_scale)
        )

    def predict(
        self, X: ArrayLike, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The predictive's mean, and its standard deviation if asked for."""
        predictive = self.predict_distribution(X)
        mean = predictive.mean.numpy()
        return (mean, predictive.stddev.numpy()) if return_std else mean

    def predict_quantiles(self, X: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
        """The predictive's quantiles, ``(m, n_quantiles)``."""
        levels = torch.as_tensor(np.atleast_1d(np.asarray(q, dtype=np.float64)))
        if levels.ndim != 1 or ((levels <= 0) | (levels >= 1)).any():
            raise ValueError(f"Expected quantile levels between 0 and 1; got {q!r}.")
        predictive = self.predict_distribution(X)
        return torch.stack(
            [predictive.icdf(level.expand(predictive.batch_shape)) for level in levels], -1
        ).numpy()

    def sample_y(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> NDArray[np.float64]:
        """Draws of the targets, ``(m, n_samples)``."""
        predictive = self.predict_distribution(X)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))
            return predictive.sample(torch.Size([n_samples])).T.numpy()


class _LogisticRegression:
    """Weights of N(0, 2) for each class but the first; a class, so that it pickles."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        n_free = self.n_classes - 1
        weights = pyro.sample(
            "weights", dist.Normal(x.new_zeros(x.shape[1], n_free), 2.0).to_event(2)
        )
        intercept = pyro.sample("intercept", dist.Normal(x.new_zeros(n_free), 2.0).to_event(1))
        logits = x @ weights + intercept
        if n_free == 1:
            answers = dist.Bernoulli(logits=logits.squeeze(-1))
        else:
            answers = dist.Categorical(logits=torch.nn.functional.pad(logits, (1, 0)))
        return pyro.sample("y", answers.to_event(1), obs=y)


class BayesianClassifier(ClassifierMixin, _BayesianEstimator):
    """Bayesian classification with any model and any inference method.

    Args:
        model: a prior with a program, or a Pyro program ``model(x, y=None)`` whose y is the
            number of the class, from 0. None is logistic regression on standardised inputs.
        method: a method of `amortized.infer.infer`.
        n_draws: posterior draws.
        options: further arguments of the method.
        random_state: seed of the draws.

    Attributes:
        classes_: the classes, in the order of their numbers.
        posterior_: the `Posterior` of the model's latents.
        n_features_in_: number of features.

    Example:
        >>> import numpy as np
        >>> X = np.linspace(-1, 1, 40)[:, None]
        >>> estimator = BayesianClassifier(random_state=0).fit(X, np.where(X[:, 0] > 0, "b", "a"))
        >>> estimator.predict([[-0.9], [0.9]]).tolist()
        ['a', 'b']
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> "BayesianClassifier":
        """Infer the posterior of the model's latents.

        Args:
            X: inputs, ``(n, n_features)``, finite numbers.
            y: classes, ``(n,)``.
        """
        inputs, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"Expected at least 2 classes; got 1 class, {self.classes_[0]!r}. There is nothing "
                "to tell apart."
            )
        default = _LogisticRegression(len(self.classes_))
        self._learn(inputs, numbers.astype(np.float64), default, None)
        return self

    def predict_distribution(self, X: ArrayLike) -> Distribution:
        """The posterior predictive of each row's class number, of batch shape ``(m,)``."""
        return self._predictive(X)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Posterior predictive probability of each class, ``(m, n_classes)``."""
        predictive = self.predict_distribution(X)
        numbers = torch.arange(len(self.classes_), dtype=torch.float64).unsqueeze(-1)
        log_prob = predictive.log_prob(numbers.expand(-1, *predictive.batch_shape))
        return torch.softmax(log_prob.T, -1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row."""
        most = self.predict_proba(X).argmax(-1)
        return self.classes_[most]
