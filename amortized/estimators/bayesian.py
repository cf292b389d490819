"""Any model and any inference method as scikit-learn estimators."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_random_state
from torch import Tensor
from torch.distributions import Distribution

from amortized.arrays import validate_data
from amortized.estimators.all_or_nothing import all_or_nothing
from amortized.estimators.bayesian_estimator import BayesianEstimator, Model
from amortized.predictive import Affine
from amortized.priors.prior import Prior
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.priors.regression.logistic_model import LogisticModelPrior
from amortized.seeding import seeded
from amortized.tables.class_labels import class_labels
from amortized.tables.encoding import location_and_scale
from amortized.validation import quantile_levels, whole_number


class BayesianRegressor(RegressorMixin, BayesianEstimator):
    """Bayesian regression with any model and any inference method.

    Args:
        model: a prior with a program, or a Pyro program ``model(x, y=None)`` in the data's own
            units. None is conjugate linear regression with unknown noise on standardised data,
            whatever the method; its latents are "weights", "intercept" and "variance"
            (`LinearRegressionPrior`).
        method: a method of `amortized.infer.infer`.
        latent_prior: replaces the model's own, as for `amortized.infer.infer`; in the model's
            units. `set_prior` changes it without a call of `fit`.
        n_draws: posterior draws.
        options: further arguments of the method.
        random_state: seed of the draws.

    Attributes:
        posterior_: the `Posterior` of the model's latents.
        X_train_: all rows seen, ``(n, n_features_in_)``.
        y_train_: their targets, ``(n,)``.
        n_features_in_: number of features.

    Example:
        >>> import numpy as np
        >>> X = np.linspace(-1, 1, 30)[:, None]
        >>> estimator = BayesianRegressor().fit(X, 3 * X[:, 0] + 1)
        >>> estimator.predict([[0.5]]).round(1)
        array([2.5])
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> "BayesianRegressor":
        """Infer the posterior of the model's latents.

        Args:
            X: inputs, ``(n, n_features)``, finite numbers.
            y: targets, ``(n,)``, finite numbers.
        """
        with all_or_nothing(self):
            return self._checked(X, y, further=False)

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> "BayesianRegressor":
        """Updates the posterior with more rows; samplers start from the current posterior.

        With method "dt" the posterior becomes the prior of the new rows, and
        ``posterior_.diagnostics["drift"]`` is the divergence from the posterior given all rows at
        once. If a parameter has changed since the last call, the posterior is computed from all
        rows.
        """
        with all_or_nothing(self):
            return self._checked(X, y, further=hasattr(self, "posterior_"))

    def _checked(self, X: ArrayLike, y: ArrayLike, *, further: bool) -> "BayesianRegressor":
        inputs, targets = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, reset=not further
        )
        return self._take(inputs, np.asarray(targets, dtype=np.float64), further=further)

    def _default_model(self) -> Prior:
        # Weakly informative: weights of 10 noise scales, noise of any size below the target's.
        return LinearRegressionPrior(
            self.n_features_in_, weight_scale=10.0, concentration=1.0, rate=0.1
        )

    def _set_units(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        super()._set_units(X, y)
        if self.model is None:
            self._y_mean, self._y_scale = map(float, location_and_scale(y))

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
        """Mean of the predictive, and its standard deviation if requested."""
        predictive = self.predict_distribution(X)
        mean = predictive.mean.numpy()
        return (mean, predictive.stddev.numpy()) if return_std else mean

    def predict_quantiles(self, X: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
        """Quantiles of the predictive, ``(m, n_quantiles)``."""
        levels = quantile_levels(q)
        predictive = self.predict_distribution(X)
        return torch.stack(
            [predictive.icdf(level.expand(predictive.batch_shape)) for level in levels], -1
        ).numpy()

    def sample_y(
        self, X: ArrayLike, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0
    ) -> NDArray[np.float64]:
        """Draws of the targets, ``(m, n_samples)``."""
        n_samples = whole_number("n_samples", n_samples)
        predictive = self.predict_distribution(X)
        with seeded(int(check_random_state(random_state).randint(2**31 - 1))):
            return predictive.sample(torch.Size([n_samples])).T.numpy()


class _LogisticRegression:
    """Weights of N(0, 2) for each class except the first; a class, so that it can be pickled."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        n_free = self.n_classes - 1
        weights = pyro.sample(
            "weights", dist.Normal(x.new_zeros(x.shape[1], n_free), 2.0).to_event(2)
        )
        intercept = pyro.sample("intercept", dist.Normal(x.new_zeros(n_free), 2.0).to_event(1))
        answers = dist.Categorical(logits=torch.nn.functional.pad(x @ weights + intercept, (1, 0)))
        return pyro.sample("y", answers.to_event(1), obs=y)


class BayesianClassifier(ClassifierMixin, BayesianEstimator):
    """Bayesian classification with any model and any inference method.

    Args:
        model: a prior with a program, or a Pyro program ``model(x, y=None)`` whose y is the index
            of the class, from 0. None is logistic regression on standardised inputs with
            coefficients of N(0, 2), for every method: for two classes `LogisticModelPrior`, whose
            latent "coefficients" has the intercept last; for more, "weights" and "intercept" of
            each class except the first.

    The other arguments are those of `BayesianRegressor`.

    Attributes:
        classes_: the classes, in the order of their indices.
        posterior_: the `Posterior` of the model's latents.
        X_train_: all rows seen, ``(n, n_features_in_)``.
        y_train_: class index of each row, ``(n,)``.
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
        with all_or_nothing(self):
            return self._checked(X, y, None, further=False)

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> "BayesianClassifier":
        """Updates the posterior with more rows, like `BayesianRegressor.partial_fit`.

        Args:
            X: inputs of the new rows, ``(n, n_features)``.
            y: classes of the new rows, ``(n,)``.
            classes: all possible classes, required in the first call if its rows do not contain
                all of them.
        """
        with all_or_nothing(self):
            return self._checked(X, y, classes, further=hasattr(self, "posterior_"))

    def _checked(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None, *, further: bool
    ) -> "BayesianClassifier":
        known = y if y is None else class_labels(y)
        inputs, labels = validate_data(self, X, known, dtype=np.float64, reset=not further)
        check_classification_targets(labels)
        if not further:
            self.classes_ = np.unique(labels if classes is None else class_labels(classes))
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(
                f"Expected classes among {self.classes_.tolist()}; got {unknown.tolist()}. Name "
                "all classes in the first call: partial_fit(X, y, classes)."
            )
        if len(self.classes_) < 2:
            raise ValueError(
                f"Expected at least 2 classes; got 1 class, {self.classes_[0]!r}. Classification "
                "needs rows of different classes."
            )
        numbers = np.searchsorted(self.classes_, labels).astype(np.float64)
        return self._take(inputs, numbers, further=further)

    def _default_model(self) -> Model:
        if len(self.classes_) == 2:
            return LogisticModelPrior(self.n_features_in_, intercept=True, scale=2.0)
        return _LogisticRegression(len(self.classes_))

    def predict_distribution(self, X: ArrayLike) -> Distribution:
        """The posterior predictive of each row's class index, of batch shape ``(m,)``."""
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
