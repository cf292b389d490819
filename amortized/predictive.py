r"""The posterior predictive of a program: its observation's distribution averaged over draws.

.. math:: p(y^* \mid x^*, D) = \sum_i w_i \, p(y^* \mid \theta_i, x^*, D)

Each term comes from a run of the program at the requested inputs with the latents set to draw i. If
the rows are dependent given the latents, as in a Gaussian process with its function integrated out,
each row is conditioned on the observed targets, see `program.observations.row_distribution`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints
from torch.utils._pytree import tree_map

from amortized.arrays import as_values
from amortized.program.observations.row_distribution import NoPredictive, row_distribution
from amortized.program.support import cdf, log_prob
from amortized.program.vectorised import FunctionalSamplers, Program, draw, precision, quiet_program
from amortized.seeding import seeded

_N_DRAWS_FOR_CDF = 2000  # for distributions without a cdf in torch; an error of about 0.01
_PAIRS_AT_ONCE = 2**21  # pairs of rows whose covariances are held in memory together


class ProgramPredictive(Distribution):
    """Predictive of each requested row, a weighted mixture over posterior draws.

    Args:
        model: the Pyro program ``model(x, y=None)`` of one dataset.
        latents: posterior draws, each ``(n, batch, ...)``.
        log_weights: log weights of the draws, normalised over n, ``(n, batch)``.
        x: requested inputs, ``(batch, m, n_features)``.
        x_known: inputs of the dataset, ``(batch, k, n_features)``.
        y_known: its answers, ``(batch, k)``.
        of_rows: discrete latents of single rows, which are summed out for the asked ones.

    The batch shape is ``(batch, m)``. All rows of a dataset share one draw of the latents within
    each sample.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self,
        model: Program,
        latents: Mapping[str, Tensor],
        log_weights: Float[Tensor, "n batch"],
        x: Float[Tensor, "batch m features"],
        x_known: Float[Tensor, "batch k features"],
        y_known: Float[Tensor, "batch k"],
        of_rows: frozenset[str] = frozenset(),
    ) -> None:
        self._of_rows = of_rows
        latents = {name: value for name, value in latents.items() if name not in of_rows}
        self.model, self.latents, self.log_weights = model, dict(latents), log_weights
        self.x, self.x_known, self.y_known = x, x_known, y_known
        self._sorted_draws: Tensor | None = None
        self._rows: Any = None
        super().__init__(torch.Size(x.shape[:2]), validate_args=False)
        try:
            self._rows = self._known_rows()
            self._over_draws(lambda fn, _: fn.mean + 0.0)
        except NoPredictive:
            raise
        except Exception as reason:
            raise ValueError(
                f"Expected a program that also runs on {x.shape[1]} new rows given its latents; "
                f"got {type(reason).__name__}: {reason}. Latents that belong to single rows leave "
                "no predictive for others."
            ) from reason

    def _over_draws(self, of: Callable[[Any, Any], Any], argument: Tensor | None = None) -> Any:
        """``of(distribution of y, argument)`` for every draw and dataset, ``(n, batch, ..., m)``.

        Args:
            of: function of one distribution, whose batch shape is ``(m,)``.
            argument: its second argument, ``(batch, ..., m)``, the same for every draw.
        """
        argument = self.x.new_zeros(self.x.shape[:2]) if argument is None else argument
        if self._rows is not None:
            kind, parameters = self._rows
            rows = kind(**parameters, validate_args=False)
            each = of(rows, argument.movedim(0, -2).unsqueeze(-3))
            return each if each.ndim == 3 else each.movedim(-3, 0).movedim(-2, 1)

        n_rows = self.x.shape[1] + self.x_known.shape[1]

        def one(latents: dict[str, Tensor], x: Tensor, known: Tensor, y: Tensor, a: Tensor) -> Any:
            return of(row_distribution(self.model, latents, x, known, y, self._of_rows), a)

        over_datasets = torch.func.vmap(one, randomness="different")
        over_draws = torch.func.vmap(
            over_datasets,
            (0, None, None, None, None),
            randomness="different",
            chunk_size=max(1, _PAIRS_AT_ONCE // (len(self.x) * n_rows**2)),
        )
        given = self.latents, self.x, self.x_known, self.y_known, argument
        with quiet_program(), precision(self.x.dtype), torch.no_grad(), FunctionalSamplers():
            try:
                return over_draws(*given)
            except (NoPredictive, NotImplementedError):
                raise
            except Exception:  # an error of the program itself is raised again by the loop
                return _singly(one, *given)

    def _known_rows(self) -> tuple[Any, dict[str, Tensor]] | None:
        """Type and parameters, ``(n, batch, m, ...)``, of every row's distribution in every draw.

        With these the program need not be run for each query. None if the parameters do not
        determine the distribution, as for a mixture.
        """
        kinds: list[Any] = []

        def parameters(fn: Any, _: Tensor) -> dict[str, Tensor]:
            kinds.append(type(fn))
            given = dict(fn.arg_constraints)
            if "logits" in given:
                given.pop("probs", None)  # either of the two parameters is enough
            shapes = {
                name: fn.batch_shape + getattr(fn, name).shape[-constraint.event_dim :]
                if constraint.event_dim
                else fn.batch_shape
                for name, constraint in given.items()
            }
            return {name: (getattr(fn, name) + 0.0).expand(at) for name, at in shapes.items()}

        try:
            values = self._over_draws(parameters)
            rows = kinds[0](**values, validate_args=False)
            return (kinds[0], values) if rows.batch_shape[2:] == self.x.shape[1:2] else None
        except NoPredictive:
            raise
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return None  # as for a zero-inflated law, which takes a gate or its logits, not both

    def _average(self, values: Tensor) -> Tensor:
        weights = self.log_weights.exp()
        return (values * weights.reshape(weights.shape + (1,) * (values.ndim - 2))).sum(0)

    def log_prob(self, value: Float[Tensor, "*shape batch m"]) -> Float[Tensor, "*shape batch m"]:
        """Log of the mixture's density or probability."""
        value = _for_each(self, value).to(self.x)
        moved = value.movedim(-2, 0)
        each = self._over_draws(log_prob, moved)
        weights = self.log_weights.reshape(self.log_weights.shape + (1,) * (each.ndim - 2))
        return (each + weights).logsumexp(0).movedim(0, -2)

    @property
    def mean(self) -> Float[Tensor, "batch m"]:
        """Mean of the mixture."""
        return self._average(self._over_draws(lambda fn, _: fn.mean + 0.0))

    @property
    def variance(self) -> Float[Tensor, "batch m"]:
        """Variance of the mixture: the mean variance and the variance of the means."""
        means = self._over_draws(lambda fn, _: fn.mean + 0.0)
        variances = self._over_draws(lambda fn, _: fn.variance + 0.0)
        centre = self._average(means)
        return self._average(variances + (means - centre).square())

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws ``(*sample_shape, batch, m)``."""
        n = torch.Size(sample_shape).numel()
        index = torch.multinomial(self.log_weights.exp().T, n, replacement=True).T

        def picked(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: torch.stack([value[index[:, b], b] for b in range(index.shape[1])], 1)
                for name, value in values.items()
            }

        chosen = object.__new__(ProgramPredictive)
        chosen.__dict__.update(self.__dict__)
        if self._rows is None:
            chosen.latents = picked(self.latents)
        else:
            chosen._rows = self._rows[0], picked(self._rows[1])
        draws = chosen._over_draws(lambda fn, _: draw(fn) + 0.0)
        return draws.reshape(*sample_shape, *self.batch_shape)

    def cdf(self, value: Float[Tensor, "*shape batch m"]) -> Float[Tensor, "*shape batch m"]:
        """Distribution function; estimated from draws if torch has none for y's distribution."""
        value = _for_each(self, value).to(self.x)
        try:
            each = self._over_draws(cdf, value.movedim(-2, 0))
        except NotImplementedError:
            return (
                (self._draws().unsqueeze(1) <= value.reshape(-1, *self.batch_shape))
                .to(value.dtype)
                .mean(0)
                .reshape(value.shape)
            )
        return self._average(each).movedim(0, -2)

    def icdf(self, value: Float[Tensor, "*shape batch m"]) -> Float[Tensor, "*shape batch m"]:
        """Quantiles: bisection on the cdf, or order statistics of draws where there is none."""
        value = _for_each(self, value).to(self.x)
        try:
            # A mixture's quantile lies between the smallest and the largest of its components'.
            each = self._over_draws(_icdf, value.movedim(-2, 0))
            low, high = each.amin(0).movedim(0, -2), each.amax(0).movedim(0, -2)
        except NotImplementedError:
            draws = self._draws()
            try:
                self._over_draws(cdf, draws[0])
            except NotImplementedError:
                index = (value * len(draws)).long().clamp(0, len(draws) - 1)
                n = index.numel() // max(1, self.batch_shape.numel())  # -1 fails for no queries
                chosen = draws.gather(0, index.reshape(n, *self.batch_shape))
                return chosen.reshape(value.shape)
            spread = draws[-1] - draws[0]
            low = (draws[0] - 3 * spread).expand(value.shape)
            high = (draws[-1] + 3 * spread).expand(value.shape)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cdf(middle) < value
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def entropy(self) -> Float[Tensor, "batch m"]:
        """Entropy, from draws."""
        return -self.log_prob(self.sample([200])).mean(0)

    def crps(self, value: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m"]:
        """Continuous ranked probability score of a target, from draws; lower is better."""
        draws = self._draws()
        n = len(draws)
        # E|X - X'| from sorted draws, without the n^2 differences.
        weight = (2 * torch.arange(1, n + 1, dtype=draws.dtype) - n - 1).reshape(-1, 1, 1)
        spread = (2 * weight * draws).sum(0) / (n * (n - 1))
        value = as_values(value, "value").to(self.x)
        return (draws - value).abs().mean(0) - spread / 2

    def _draws(self) -> Tensor:
        if self._sorted_draws is None:
            with seeded(0):
                draws = self.sample([_N_DRAWS_FOR_CDF])
            self._sorted_draws = draws.sort(0).values
        return self._sorted_draws


def _singly(function: Callable[..., Any], latents: Any, *data: Tensor) -> Any:
    """The same as the two vmaps, one draw of one dataset at a time."""
    n, n_datasets = len(next(iter(latents.values()))), len(data[0])
    results = [
        function({name: v[i, b] for name, v in latents.items()}, *(each[b] for each in data))
        for i in range(n)
        for b in range(n_datasets)
    ]
    shape = n, n_datasets
    return tree_map(lambda *values: torch.stack(values).unflatten(0, shape), *results)


def _icdf(fn: Any, level: Tensor) -> Tensor:
    """Quantile; for a normal also accurate where torch's own is infinite."""
    if isinstance(fn, Normal):
        return fn.loc + fn.scale * torch.special.ndtri(level)
    return fn.icdf(level)


def _for_each(predictive: Distribution, value: Any) -> Tensor:
    """Expands a value to each row of a predictive, if fewer are given."""
    value = as_values(value, "value")
    return value.expand(torch.broadcast_shapes(value.shape, predictive.batch_shape))


class OneOfBatch(Distribution):
    """The only member of a batch of one dataset: batch shape ``(m,)`` for ``(1, m)``."""

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, batched: Any) -> None:
        self.batched = batched
        super().__init__(batched.batch_shape[1:], validate_args=False)

    @property
    def mean(self) -> Float[Tensor, " m"]:
        return self.batched.mean[0]

    @property
    def variance(self) -> Float[Tensor, " m"]:
        return self.batched.variance[0]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.batched.sample(torch.Size(sample_shape)).squeeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.batched.log_prob(_for_each(self, value).unsqueeze(-2)).squeeze(-2)

    def cdf(self, value: Tensor) -> Tensor:
        return self.batched.cdf(_for_each(self, value).unsqueeze(-2)).squeeze(-2)

    def icdf(self, value: Tensor) -> Tensor:
        return self.batched.icdf(_for_each(self, value).unsqueeze(-2)).squeeze(-2)

    def entropy(self) -> Float[Tensor, " m"]:
        return self.batched.entropy()[0]

    def crps(self, value: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        return self.batched.crps(as_values(value, "value").unsqueeze(0))[0]


class Affine(Distribution):
    """The distribution of ``shift + scale * z`` for z from another predictive, with scale > 0."""

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, base: Any, shift: float, scale: float) -> None:
        self.base, self.shift, self.scale = base, shift, scale
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.shift + self.scale * self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * self.base.variance

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.shift + self.scale * self.base.sample(torch.Size(sample_shape))

    def _standard(self, value: Tensor) -> Tensor:
        return (as_values(value, "value") - self.shift) / self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(self._standard(value)) - math.log(self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        return self.base.cdf(self._standard(value))

    def icdf(self, value: Tensor) -> Tensor:
        return self.shift + self.scale * self.base.icdf(value)

    def entropy(self) -> Tensor:
        return self.base.entropy() + math.log(self.scale)

    def crps(self, value: Tensor) -> Tensor:
        return self.scale * self.base.crps(self._standard(value))
