"""What an estimator answers to each dataset of a batch, as one distribution."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, clone
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from amortized.diagnostics.prior_fit import unchecked
from amortized.priors.task import TaskBatch


class EachDataset(Distribution):
    """Predictives of several datasets as one, of batch shape ``(datasets, query)``.

    Args:
        parts: each dataset's, of batch shape ``(query,)``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = tuple(parts)
        super().__init__(torch.Size((len(parts), *parts[0].batch_shape)), validate_args=False)

    @property
    def mean(self) -> Float[Tensor, "datasets query"]:
        return torch.stack([part.mean for part in self.parts])

    @property
    def variance(self) -> Float[Tensor, "datasets query"]:
        return torch.stack([part.variance for part in self.parts])

    def log_prob(self, value: Float[Tensor, "datasets query"]) -> Float[Tensor, "datasets query"]:
        return self._of_each("log_prob", value)

    def cdf(self, value: Float[Tensor, "datasets query"]) -> Float[Tensor, "datasets query"]:
        return self._of_each("cdf", value)

    def icdf(self, value: Float[Tensor, "datasets query"]) -> Float[Tensor, "datasets query"]:
        return self._of_each("icdf", value)

    def _of_each(self, method: str, value: Tensor) -> Tensor:
        value = value.double().cpu().expand(self.batch_shape)
        pairs = zip(self.parts, value, strict=True)
        return torch.stack([getattr(part, method)(own) for part, own in pairs])


def answers_of(estimator: BaseEstimator, batch: TaskBatch) -> Distribution:
    """The predictive of a batch's queries by clones of an estimator, one fitted to each dataset.

    Args:
        estimator: with ``predict_distribution`` or, for classes 0, 1, ..., ``predict_proba``.
        batch: the datasets.

    Raises:
        TypeError: if the estimator has neither method.
    """
    of_numbers = hasattr(estimator, "predict_distribution")
    if not of_numbers and not hasattr(estimator, "predict_proba"):
        raise TypeError(
            "Expected an estimator with predict_distribution or predict_proba; got "
            f"{type(estimator).__name__}."
        )
    answers: list[Any] = []
    for task in range(batch.n_tasks):
        rows = slice(None) if batch.context_mask is None else batch.context_mask[task]
        x, y = batch.x_context[task][rows].double(), batch.y_context[task][rows].double()
        with unchecked():  # the datasets are the prior's own
            own: Any = clone(estimator).fit(x.cpu().numpy(), y.cpu().numpy())
        queries = batch.x_query[task].double().cpu().numpy()
        answers.append(
            own.predict_distribution(queries) if of_numbers else _of_classes(own, queries)
        )
    if of_numbers:
        return EachDataset(answers)
    n_classes = max(probs.shape[-1] for probs in answers)
    padded = [torch.nn.functional.pad(probs, (0, n_classes - probs.shape[-1])) for probs in answers]
    return Categorical(torch.stack(padded))


def _of_classes(fitted: Any, x: Any) -> Float[Tensor, "query classes"]:
    """Probabilities by the number of the class; 0 for classes that the context lacks."""
    classes = torch.as_tensor(fitted.classes_).long()
    probs = torch.zeros(len(x), int(classes.max()) + 1, dtype=torch.float64)
    probs[:, classes] = torch.as_tensor(fitted.predict_proba(x), dtype=torch.float64)
    return probs
