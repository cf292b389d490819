"""Simulation-based evaluation of predictives, at queries of many datasets of a prior."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, clone
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from amortized.diagnostics.data.prior_fit import unchecked
from amortized.diagnostics.trial import batches, method_name
from amortized.infer import infer
from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch
from amortized.seeding import seeded
from amortized.validation import generator_from, whole_number

PredictiveMethod = str | nn.Module | Callable[[TaskBatch], Distribution] | Any
"""A method of `infer`, a PFN, an estimator with ``predict_distribution`` or ``predict_proba``, or a
function of datasets that returns the predictive of their queries, of batch shape
``(n_datasets, n_query)``."""


@dataclass(frozen=True)
class PredictiveTrial:
    """Held-out targets, and a method's predictive evaluated at each.

    Attributes:
        y: the targets, ``(n_datasets, n_query)``.
        log_prob: their log density or log probability, ``(n_datasets, n_query)``.
        cdf: distribution function at the targets, for classes at a random point of its step; None
            if the predictive has none.
        method: name of the method.
        seconds: total time of the method.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PredictiveTrial.run(
        ...     NormalMeanPrior(), "exact", n_datasets=8, n_context=3, progress=False
        ... )
        >>> trial.log_prob.shape
        torch.Size([8, 1])
    """

    y: Tensor
    log_prob: Tensor
    cdf: Tensor | None = None
    method: str = "method"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        cdf_shape = self.y.shape if self.cdf is None else self.cdf.shape
        if (
            self.y.ndim != 2
            or 0 in self.y.shape
            or not self.y.shape == self.log_prob.shape == cdf_shape
        ):
            raise ValueError(
                "Expected y, log_prob and cdf of shape (n_datasets, n_query); got "
                f"{tuple(self.y.shape)}, {tuple(self.log_prob.shape)} and {tuple(cdf_shape)}."
            )

    @classmethod
    def run(
        cls,
        prior: Prior,
        method: PredictiveMethod = "auto",
        *,
        n_datasets: int = 1000,
        n_context: int = 20,
        n_query: int = 1,
        batch_size: int = 256,
        seed: int = 0,
        progress: bool = True,
        **options: Any,
    ) -> "PredictiveTrial":
        """Draws datasets from the prior and computes the method's predictive for each.

        Equal seeds and sizes give equal datasets, so that two methods' trials can be compared.

        Args:
            prior: any prior; a `ProgramPrior` if ``method`` is a name.
            method: name of a method of `infer`; a PFN, which receives the data of the prior without
                preprocessing; an estimator, of which a clone is fitted to each dataset, so that its
                preprocessing is evaluated as well; or a function from a `TaskBatch` to the
                predictive, such as ``prior.posterior_predictive`` if the prior has an exact one.
            n_datasets: number of datasets.
            n_context: number of context rows of each.
            n_query: number of query rows of each.
            batch_size: number of datasets processed together.
            seed: seed of the datasets and of the method.
            progress: whether a progress bar is shown.
            **options: options of `infer`.
        """
        n_query = whole_number("n_query", n_query)
        parts, seconds, sizes = [], 0.0, (n_datasets, n_context, n_query, batch_size)
        for start, batch in batches(prior, *sizes, seed, progress):
            began = time.perf_counter()
            answer = predictive(prior, method, batch, seed + start, options)
            parts.append(_scored(answer, batch, seed + start))
            seconds += time.perf_counter() - began
        columns = list(zip(*parts, strict=True))
        has_cdf = all(cdf is not None for cdf in columns[2])
        return cls(
            torch.cat(columns[0]),
            torch.cat(columns[1]),
            torch.cat(columns[2]) if has_cdf else None,
            method_name(method),
            seconds,
        )

    @property
    def n_datasets(self) -> int:
        """Number of datasets."""
        return len(self.y)

    @property
    def scores(self) -> Tensor:
        """Mean log score of each dataset's queries, ``(n_datasets,)``."""
        return self.log_prob.mean(-1)


def predictive(
    prior: Prior,
    method: PredictiveMethod,
    batch: TaskBatch,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Distribution:
    """A method's predictive of a batch's queries, of batch shape ``(n_datasets, n_query)``."""
    if isinstance(method, str):
        posterior = infer(
            prior, batch.x_context, batch.y_context, method=method, seed=seed, **(options or {})
        )
        return posterior.predictive(batch.x_query)
    if isinstance(method, BaseEstimator):
        return _of_estimator(method, batch)
    with seeded(seed), torch.no_grad():
        if isinstance(method, nn.Module):
            answer = method(batch.x_context, batch.y_context, batch.x_query, batch.context_mask)
        else:
            answer = method(batch, **(options or {}))
    if not isinstance(answer, Distribution):
        raise TypeError(
            f"Expected {method_name(method)} to return a torch distribution; got "
            f"{type(answer).__name__}."
        )
    return answer


def _scored(
    answer: Distribution, batch: TaskBatch, seed: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Targets, their log probabilities and distribution function, as float64."""
    if batch.query_mask is not None:
        raise ValueError("Expected queries without a mask; draw the same number for each dataset.")
    y = batch.y_query
    cdf: Tensor | None
    with torch.no_grad():
        log_prob = answer.log_prob(y).double().cpu()
        if isinstance(answer, Categorical):
            cdf = _level_of_class(answer.probs.double().cpu(), y.long().cpu(), seed)
        else:
            try:
                cdf = answer.cdf(y).double().cpu()
            except NotImplementedError:
                cdf = None
    return y.double().cpu(), log_prob, cdf


def _level_of_class(
    probs: Float[Tensor, "datasets query classes"], y: Int[Tensor, "datasets query"], seed: int
) -> Float[Tensor, "datasets query"]:
    """A uniform draw within the step of the distribution function at the observed class."""
    chance = torch.rand(y.shape, generator=generator_from(seed), dtype=probs.dtype)
    step, top = (p.gather(-1, y.unsqueeze(-1)).squeeze(-1) for p in (probs, probs.cumsum(-1)))
    return top - chance * step


class _EachDataset(Distribution):
    """Predictives of several datasets as one distribution of batch shape ``(datasets, query)``.

    Args:
        parts: predictive of each dataset, of batch shape ``(query,)``.
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


def _copies(estimator: Any) -> Callable[[], Any]:
    """Makes clones of an estimator; those of this package share one network, loaded once."""
    if not hasattr(estimator, "_network"):
        return partial(clone, estimator)
    parameters = estimator.get_params(deep=False) | {"network": estimator._network()}
    return lambda: type(estimator)(**parameters)


def _of_estimator(estimator: BaseEstimator, batch: TaskBatch) -> Distribution:
    """The predictive of a batch's queries by clones of an estimator, one fitted to each dataset.

    Args:
        estimator: has ``predict_distribution`` or, for classes 0, 1, ..., ``predict_proba``.
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
    answers, copy = list[Any](), _copies(estimator)
    for task in range(batch.n_tasks):
        rows = slice(None) if batch.context_mask is None else batch.context_mask[task]
        x, y = batch.x_context[task][rows].double(), batch.y_context[task][rows].double()
        with unchecked():  # the datasets are the prior's own
            own = copy().fit(x.cpu().numpy(), y.cpu().numpy())
        queries = batch.x_query[task].double().cpu().numpy()
        answers.append(
            own.predict_distribution(queries) if of_numbers else _class_probabilities(own, queries)
        )
    if of_numbers:
        return _EachDataset(answers)
    n_classes = max(probs.shape[-1] for probs in answers)
    padded = [torch.nn.functional.pad(probs, (0, n_classes - probs.shape[-1])) for probs in answers]
    return Categorical(torch.stack(padded))


def _class_probabilities(fitted: Any, x: Any) -> Float[Tensor, "query classes"]:
    """Probabilities indexed by class; 0 for classes that are not in the context."""
    classes = torch.as_tensor(fitted.classes_).long()
    probs = torch.zeros(len(x), int(classes.max()) + 1, dtype=torch.float64)
    probs[:, classes] = torch.as_tensor(fitted.predict_proba(x), dtype=torch.float64)
    return probs
