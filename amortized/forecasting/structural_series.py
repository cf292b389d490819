r"""Structural time series: a prior over sums of components, with exact inference.

.. math:: y_i = \sum_k f_k(t_i) + \sigma \epsilon_i, \qquad \epsilon_i \sim N(0, 1)

Each component is a Gaussian process with a Markov state, so a Kalman filter integrates the
functions out, for arbitrary times. Hyperparameters with a prior are the latents of a Pyro program
whose likelihood is the evidence of the filter; `infer` estimates them, and forecasts are mixtures
over their posterior draws.

References:
    Forecasting, structural time series models and the Kalman filter (Harvey, 1989).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import pyro
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from amortized.arrays import as_tensor
from amortized.forecasting.series_law import SeriesLaw
from amortized.posterior.posterior import Posterior
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.state_space.components import Component, Number, Sum
from amortized.priors.task import TaskBatch
from amortized.sampling.filters.kalman import kalman_filter
from amortized.sampling.filters.kalman_smoother import kalman_smoother
from amortized.validation import number_between


class StructuralSeries(ProgramPrior):
    """A sum of named components with observation noise; rows are times and values.

    A hyperparameter given as a distribution is a latent, named after component and hyperparameter,
    such as "trend_bend". Without latents, predictive and evidence are exact, in time linear in the
    number of rows.

    Args:
        noise: standard deviation of each observation.
        inputs: ``(n_tasks, n_rows) -> (n_tasks, n_rows, 1)``, times of the simulated tasks, in any
            order; None uses 0, 1, 2, ..., where the query follows the context.
        parts: components by name, such as ``trend=LocalTrend(0.1, 1.0)``.

    Raises:
        ValueError: if there is no component, or a hyperparameter is out of range.

    Example:
        >>> from torch.distributions import HalfNormal
        >>> from amortized.priors.state_space.periodic import Seasonal
        >>> from amortized.priors.state_space.trends import LocalLevel
        >>> series = StructuralSeries(
        ...     level=LocalLevel(HalfNormal(0.3), 1.0), season=Seasonal(12, 2, 1.0), noise=0.1)
        >>> batch = series.sample(4, 36, 12, seed=0)
        >>> tuple(batch.y_query.shape), list(batch.latents)
        ((4, 12), ['level_drift'])
    """

    def __init__(
        self,
        *,
        noise: Number,
        inputs: Callable[[int, int], Tensor] | None = None,
        **parts: Component,
    ) -> None:
        if not parts:
            raise ValueError("Expected at least one named part; got none.")
        if not isinstance(noise, Distribution):
            number_between("noise", noise, 0, math.inf)
        super().__init__(inputs=_one_by_one if inputs is None else inputs)
        self.noise, self.parts = noise, parts
        self.hyperpriors: dict[str, Any] = {
            name: _for_pyro(law)
            for part, at in parts.items()
            for name, law in _distributions(part, at)
        }
        if isinstance(noise, Distribution):
            self.hyperpriors["noise"] = _for_pyro(noise)

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor | None:
        """The series as a Pyro program; the column of x is time."""
        values = {name: pyro.sample(name, law) for name, law in self.hyperpriors.items()}
        values = {name: value.double() for name, value in values.items()}
        t, order = _only_column(x, "x").double().sort()
        law = SeriesLaw(self.state_space(t, values), order, x.dtype)
        return pyro.sample("y", law, obs=y)

    def state_space(self, t: Tensor, hyperparameters: Mapping[str, Tensor]) -> Any:
        """The state-space model for `kalman_filter` at times in ascending order.

        Args:
            t: times, ``(n,)``.
            hyperparameters: values of the latents, each ``(*batch,)``.
        """
        missing = sorted(set(self.hyperpriors) - set(hyperparameters))
        if missing:
            raise ValueError(
                f"Expected a value of every latent; got none for {missing}. Give their values, or "
                "infer them with infer(series, t, y, method='smc')."
            )
        if unknown := sorted(set(hyperparameters) - set(self.hyperpriors)):
            raise ValueError(
                f"Expected values of the latents {sorted(self.hyperpriors)} only; got {unknown}, "
                "which this series does not have. Check the spelling."
            )
        parts = [_filled(part, at, hyperparameters) for part, at in self.parts.items()]
        noise = hyperparameters.get("noise", self.noise)
        return Sum(parts).model(t, noise)

    def log_evidence(
        self,
        x: Float[Tensor, "n 1"],
        y: Float[Tensor, " n"],
        hyperparameters: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Exact log density of one series, for each of a batch of hyperparameters.

        Args:
            x: times.
            y: values; NaN marks a missing one.
            hyperparameters: values of the latents, each ``(*batch,)``; None if there are none.
        """
        x, y = _rows(x, y)
        t, order = x[:, 0].sort()
        model = self.state_space(t, _doubles(hyperparameters))
        evidence = kalman_filter(model, y[order][None, :, None]).log_evidence
        return evidence.squeeze(0) if model.n_models is None else evidence

    def posterior_predictive(
        self, batch: TaskBatch, hyperparameters: Mapping[str, Tensor] | None = None
    ) -> Normal:
        """The exact predictive of each query's noisy target, ``(batch, query)``.

        Args:
            batch: tasks whose contexts are conditioned on.
            hyperparameters: values of the latents, each ``(batch,)``; None if there are none.
        """
        given = _doubles(hyperparameters)
        laws = [
            self._predictive(
                batch.x_context[i], batch.y_context[i], batch.x_query[i],
                {name: value[i] for name, value in given.items()},
            )
            for i in range(batch.n_tasks)
        ]  # fmt: skip
        mean, sd = (torch.cat([law[k] for law in laws]) for k in (0, 1))
        return Normal(mean.to(batch.y_context), sd.to(batch.y_context))

    def predictive(
        self, posterior: Posterior, x: Tensor, y: Tensor, x_new: Tensor, n_draws: int = 200
    ) -> Distribution:
        """The predictive at new times, a mixture over draws of the hyperparameters.

        Densities, means and quantiles are marginal; draws are paths over all times.

        Args:
            posterior: posterior from ``infer(series, x, y)``.
            x: times of the data, ``(n, 1)``.
            y: values of the data, ``(n,)``; NaN marks a missing one.
            x_new: new times, between or after the data, ``(m, 1)``; also before them if every part
                is stationary.
            n_draws: number of draws of the hyperparameters.

        Raises:
            ValueError: if a new time is before the data, where a part such as a trend has its
                prior at their first time.
        """
        x, y = _rows(x, y)
        x_new = as_tensor(x_new, "x_new")
        _only_column(x_new, "x_new")
        joint = posterior.sample(n_draws)
        draws = {name: joint[name].double() for name in self.hyperpriors}
        self._check_not_before(x, x_new, draws)
        return SeriesPredictive(self, x, y, x_new, draws)

    def _check_not_before(self, x: Tensor, x_new: Tensor, values: Mapping[str, Tensor]) -> None:
        """Refuses earlier times, unless the state has the same law at both times."""
        if not len(x_new) or x_new.min() >= x.min():
            return
        ends = torch.stack((x_new.min(), x.min())).double()
        model = self.state_space(ends, values)
        a, start = model.transition[..., 1, :, :], model.initial_cov
        later = a @ start @ a.mT + model.transition_cov[..., 1, :, :]
        if not torch.allclose(later, start, rtol=1e-6, atol=1e-9 * float(start.abs().max())):
            raise ValueError(
                f"Expected new times from {float(ends[1]):g} on, the first of the data, where the "
                f"prior of a trend, a level or a changing season begins; got {float(ends[0]):g}."
            )

    def _predictive(
        self, x: Tensor, y: Tensor, x_new: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, ``(hyperparameters, m)``."""
        t, known, new = _in_time(x, y, x_new)
        model = self.state_space(t, values)
        smoothed = kalman_smoother(model, known)
        h = model.observation[0]
        mean = smoothed.mean @ h
        function = ((smoothed.cov @ h) * h).sum(-1).clamp_min(0)
        sd = (function + model.observation_cov[..., 0]).sqrt()
        return mean[:, new], sd[:, new]

    def _paths(
        self, x: Tensor, y: Tensor, x_new: Tensor, values: Mapping[str, Tensor], n: int, seed: int
    ) -> Float[Tensor, "n m"]:
        """Joint draws at new times, one for each value of the hyperparameters.

        A series simulated from the prior is shifted by the difference between the smoothed mean of
        the data and its own (Durbin and Koopman, 2002).
        """
        t, known, new = _in_time(x, y, x_new)
        model = self.state_space(t, values)
        drawn = model.simulate(n, len(t), seed=seed)[1]
        seen = torch.where(known.isnan(), torch.nan, drawn)
        shift = kalman_smoother(model, known).mean - kalman_smoother(model, seen).mean
        return (drawn[..., 0] + shift @ model.observation[0])[:, new]


class SeriesPredictive(MixtureSameFamily):
    """The predictive of each new time; draws are paths over all of them.

    Args:
        series: the prior.
        x: times of the data, ``(n, 1)``.
        y: their values, ``(n,)``.
        x_new: new times, ``(m, 1)``.
        values: draws of the hyperparameters, each ``(draws,)``; empty where there are none.
    """

    def __init__(
        self,
        series: StructuralSeries,
        x: Tensor,
        y: Tensor,
        x_new: Tensor,
        values: Mapping[str, Tensor],
    ) -> None:
        self.series, self.data, self.values = series, (x, y, x_new), values
        mean, sd = series._predictive(x, y, x_new, values)
        equal = Categorical(torch.ones(len(mean), dtype=mean.dtype).expand(mean.shape[1], -1))
        super().__init__(equal, Normal(mean.mT, sd.mT))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Joint draws at the new times, ``(*sample_shape, m)``; each has its own hyperparameters.

        Args:
            sample_shape: shape of the draws.
        """
        shape = torch.Size(sample_shape)
        chosen = torch.randint(self.component_distribution.batch_shape[-1], (shape.numel(),))
        values = {name: value[chosen] for name, value in self.values.items()}
        seed = int(torch.randint(2**62, ()))
        paths = self.series._paths(*self.data, values, len(chosen), seed)
        return paths.reshape(*shape, -1)


def _only_column(x: Tensor, name: str) -> Tensor:
    """The times in the column of x."""
    if x.ndim != 2 or x.shape[1] != 1:
        raise ValueError(
            f"Expected {name} of shape (n, 1), one time a row; got {tuple(x.shape)}. Covariates "
            "have no place in it, and t[:, None] makes a column of times."
        )
    return x[:, 0]


def _rows(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Times ``(n, 1)`` and values ``(n,)`` of a series."""
    x, y = as_tensor(x, "x"), as_tensor(y, "y", allow_nan=True)
    if y.shape != _only_column(x, "x").shape:
        raise ValueError(
            f"Expected a value for each of {len(x)} times, y of shape ({len(x)},); got "
            f"{tuple(y.shape)}."
        )
    return x, y


def _in_time(x: Tensor, y: Tensor, x_new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Times of data and new rows in ascending order, their values, and indices of the new ones.

    The values are ``(1, n + m, 1)``, NaN at new times.
    """
    t, order = torch.cat((x[:, 0], x_new[:, 0])).double().sort(stable=True)
    unknown = y.new_full((len(x_new),), torch.nan)
    known = torch.cat((y, unknown)).double()[order]
    return t, known[None, :, None], order.argsort()[len(x) :]


def _one_by_one(n_tasks: int, n_rows: int) -> Tensor:
    return torch.arange(n_rows, dtype=torch.get_default_dtype())[None, :, None].repeat(
        n_tasks, 1, 1
    )


def _for_pyro(law: Any) -> Any:
    """Pyro's distribution of the same name, because programs cannot draw from torch's own."""
    if callable(law):
        return law
    return getattr(pyro.distributions, type(law).__name__)(
        **{name: getattr(law, name) for name in law.arg_constraints}
    )


def _doubles(values: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    return {name: as_tensor(value, name) for name, value in (values or {}).items()}


def _members(part: Component) -> Iterator[tuple[str, Any]]:
    """The hyperparameters and sub-components of a component, by name."""
    if isinstance(part, Sum):
        yield from ((str(i), member) for i, member in enumerate(part.parts))
    elif is_dataclass(part):
        yield from ((field.name, getattr(part, field.name)) for field in fields(part))


def _distributions(name: str, part: Component) -> Iterator[tuple[str, Distribution]]:
    for own, value in _members(part):
        if isinstance(value, Distribution):
            yield f"{name}_{own}", value
        elif isinstance(value, Component):
            yield from _distributions(f"{name}_{own}", value)


def _filled(name: str, part: Component, values: Mapping[str, Tensor]) -> Component:
    """The component with its distributions replaced by values."""
    given = {
        own: values[f"{name}_{own}"]
        if isinstance(value, Distribution)
        else _filled(f"{name}_{own}", value, values)
        for own, value in _members(part)
        if isinstance(value, Distribution | Component)
    }
    if isinstance(part, Sum):
        return Sum([cast(Component, given[str(i)]) for i in range(len(part.parts))])
    return replace(part, **given) if is_dataclass(part) else part
