"""Lists of datasets of different sizes: those of equal size are answered together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from amortized.arrays import as_tensor, as_values
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.fitting import stacked
from amortized.posterior import Posterior


def is_ragged(x: Any, y: Any) -> bool:
    """Whether data are a list of datasets that differ in their number of rows.

    Example:
        >>> is_ragged(None, [[1.0, 2.0], [3.0]]), is_ragged(None, [[1.0, 2.0], [3.0, 4.0]])
        (True, False)
    """
    data = x if y is None else y
    if not isinstance(data, list | tuple):
        return False
    sizes = {_n_rows(member) for member in data}
    return len(sizes) > 1 and None not in sizes


def _n_rows(member: Any) -> int | None:
    """Rows of a dataset; None of a number."""
    if getattr(member, "ndim", 1) == 0 or not hasattr(member, "__len__"):
        return None
    return len(member)


def by_size(x: Any, y: Sequence[Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The datasets of each size: their places in the list, their inputs and their observations.

    Args:
        x: inputs of each dataset, ``(n, n_features)``; None where there are none.
        y: observations of each dataset, ``(n, *event)``.

    Raises:
        ValueError: if inputs and observations do not belong together.
    """
    if x is not None and (not isinstance(x, list | tuple) or len(x) != len(y)):
        found = len(x) if isinstance(x, list | tuple) else type(x).__name__
        raise ValueError(
            f"Expected x to be a list of {len(y)} datasets, as y is; got {found}. Give the inputs "
            "of each dataset, (n, n_features)."
        )
    answers = [as_tensor(member, f"y[{i}]", allow_nan=True).detach() for i, member in enumerate(y)]
    inputs = [answer.new_zeros(len(answer), 0) for answer in answers]
    if x is not None:
        inputs = [as_tensor(member, f"x[{i}]").detach() for i, member in enumerate(x)]
    groups: dict[Any, list[int]] = {}
    for i, (given, answer) in enumerate(zip(inputs, answers, strict=True)):
        if given.ndim != 2 or len(given) != len(answer):
            raise ValueError(
                f"Expected x[{i}] of shape ({len(answer)}, n_features), a row for each of y[{i}]; "
                f"got {tuple(given.shape)}."
            )
        groups.setdefault((answer.shape, given.shape), []).append(i)
    return [
        (
            torch.tensor(places),
            torch.stack([inputs[i] for i in places]),
            torch.stack([answers[i] for i in places]),
        )
        for places in groups.values()
    ]


def infer_ragged(
    infer: Callable[..., Posterior], x: Any, y: Sequence[Any], latent_prior: Any, seed: int
) -> Posterior:
    """One posterior of all datasets, in their order, from one call for each size.

    Args:
        infer: takes x, y, the latent prior of these datasets and a seed.
        x: inputs of each dataset.
        y: observations of each dataset.
        latent_prior: as for `amortized.infer.infer`; a batch of mixtures is one for each dataset.
        seed: equal seeds give equal draws.
    """
    groups = by_size(x, y)
    places = torch.cat([place for place, _, _ in groups])
    answers = [
        infer(inputs, answer, _of_places(latent_prior, place, len(y)), seed + number)
        for number, (place, inputs, answer) in enumerate(groups)
    ]
    return _InOrder(answers, places.argsort()).posterior()


def _of_places(latent_prior: Any, place: Tensor, n: int) -> Any:
    """The latent prior of some of the datasets."""
    mixture = getattr(latent_prior, "mixture", latent_prior)
    if isinstance(mixture, GaussianMixture) and mixture.batch_shape:
        if mixture.batch_shape != (n,):
            raise ValueError(
                f"Expected a latent prior for each of {n} datasets, or one for all; got a batch of "
                f"shape {tuple(mixture.batch_shape)}."
            )
        return mixture[place]
    if getattr(latent_prior, "batch_shape", ()):
        raise ValueError(
            "Expected one latent prior for all datasets, or a batch of mixtures; got draws of many "
            "datasets. Give fit_draws(...) of each, stacked."
        )
    return latent_prior


class _InOrder:
    """Answers to groups of datasets, put in the order of the list.

    Args:
        answers: to each group.
        order: the place of each dataset of the list in the groups, one after another.
    """

    def __init__(self, answers: Sequence[Posterior], order: Tensor) -> None:
        self.answers, self.order = answers, order
        self.sizes = [len(answer.log_weights[0]) for answer in answers]

    def joined(self, parts: Sequence[Tensor], dim: int) -> Tensor:
        """The parts of each group along a dimension, in order."""
        return torch.cat(list(parts), dim).index_select(dim, self.order)

    def split(self, value: Tensor, dim: int) -> list[Tensor]:
        """The parts of a value that belong to each group: the inverse of `joined`."""
        return list(value.index_select(dim, self.order.argsort()).split(self.sizes, dim))

    def posterior(self) -> Posterior:
        """All answers as one."""
        answers = self.answers
        numbers = {answer.n_draws for answer in answers}
        shapes = {
            tuple((name, value.shape[2:]) for name, value in answer.weighted_draws()[0].items())
            for answer in answers
        }
        if len(shapes) > 1 or len(numbers) > 1:
            raise ValueError(
                "Expected latents that are the same whatever the number of rows; got "
                f"{sorted(map(str, shapes))}. Call infer for each dataset."
            )
        draws = [answer.weighted_draws() for answer in answers]
        weighted = any(answer._log_weights is not None for answer in answers)
        evidences = [answer.log_evidence for answer in answers]
        errors = [answer.log_evidence_error for answer in answers]
        mixtures = [answer.mixture for answer in answers]
        probabilities = [answer._probabilities for answer in answers]
        chains = {answer.n_chains for answer in answers}
        return Posterior(
            {name: self.joined([each[name] for each, _ in draws], 1) for name in draws[0][0]},
            log_weights=self.joined([weights for _, weights in draws], 1) if weighted else None,
            n_chains=chains.pop() if len(chains) == 1 else 1,
            log_evidence=self._or_none(evidences),
            log_evidence_error=self._or_none(errors),
            log_prob=self._log_prob if all(a._log_prob is not None for a in answers) else None,
            mixture=self._mixture(mixtures),
            predictive=self._predictive,
            discrete={
                name: self.joined([each[name] for each in probabilities], 0)
                for name in probabilities[0]
            },
            diagnostics=self._diagnostics(),
            batch_shape=(len(self.order),),
        )

    def _or_none(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        known = [part for part in parts if part is not None]
        return self.joined(known, 0) if len(known) == len(parts) else None

    def _mixture(self, parts: Sequence[GaussianMixture | None]) -> GaussianMixture | None:
        each = [part[i] for part in parts if part is not None for i in range(len(part.log_weights))]
        return stacked([each[i] for i in self.order]) if len(each) == len(self.order) else None

    def _diagnostics(self) -> dict[str, Any]:
        """Of each dataset where a method measures each; otherwise of each group, if they differ."""
        found: dict[str, Any] = {}
        for name in dict.fromkeys(name for answer in self.answers for name in answer.diagnostics):
            parts: list[Any] = [answer.diagnostics.get(name) for answer in self.answers]
            sizes = zip(parts, self.sizes, strict=True)
            if all(isinstance(part, Tensor) and part.shape[:1] == (n,) for part, n in sizes):
                found[name] = self.joined(parts, 0)
            elif all(isinstance(part, list) for part in parts):
                each = [entry for part in parts for entry in part]
                found[name] = [each[i] for i in self.order]
            else:
                alike = all(type(part) is type(parts[0]) and part == parts[0] for part in parts)
                found[name] = parts[0] if alike else parts
        return found

    def _log_prob(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Log density of ``{name: (*sample, batch, *event)}``."""
        events = {
            name: value.ndim - 2 for name, value in self.answers[0].weighted_draws()[0].items()
        }
        split = {
            name: self.split(value, value.ndim - 1 - events[name])
            for name, value in latents.items()
        }
        parts = [
            answer.log_prob({name: value[i] for name, value in split.items()})
            for i, answer in enumerate(self.answers)
        ]
        return self.joined(parts, parts[0].ndim - 1)

    def _predictive(self, x: Any) -> Distribution:
        inputs = self.split(as_values(x, "x"), 0)
        parts = [answer.predictive(each) for answer, each in zip(self.answers, inputs, strict=True)]
        return PredictivesInOrder(parts, self)


class PredictivesInOrder(Distribution):
    """Predictives of groups of datasets, of batch shape ``(batch, m)`` in the order of the list.

    Args:
        parts: the predictives, of batch shape ``(group, m)``.
        place: joins and splits values along the datasets.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, parts: Sequence[Any], place: _InOrder) -> None:
        self.parts, self.place = parts, place
        shape = torch.Size([len(place.order), *parts[0].batch_shape[1:]])
        super().__init__(shape, validate_args=False)

    def _each(self, name: str, value: Any) -> Tensor:
        value = as_values(value, "value")
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        parts = self.place.split(value, value.ndim - 2)
        each = [getattr(part, name)(v) for part, v in zip(self.parts, parts, strict=True)]
        return self.place.joined(each, each[0].ndim - 2)

    @property
    def mean(self) -> Tensor:
        return self.place.joined([part.mean for part in self.parts], 0)

    @property
    def variance(self) -> Tensor:
        return self.place.joined([part.variance for part in self.parts], 0)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return self.place.joined([part.sample(shape) for part in self.parts], len(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self._each("log_prob", value)

    def cdf(self, value: Tensor) -> Tensor:
        return self._each("cdf", value)

    def icdf(self, value: Tensor) -> Tensor:
        return self._each("icdf", value)

    def crps(self, value: Tensor) -> Tensor:
        return self._each("crps", value)

    def entropy(self) -> Tensor:
        return self.place.joined([part.entropy() for part in self.parts], 0)
