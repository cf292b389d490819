r"""Model comparison: posterior probabilities of programs, their Bayes factors, and their average.

With the evidence :math:`Z_m = p(y \mid x, m)` of each program m and its prior probability
:math:`\pi_m`,

.. math::
    p(m \mid y) = \frac{\pi_m Z_m}{\sum_k \pi_k Z_k}, \qquad
    \mathrm{BF}_{ab} = Z_a / Z_b, \qquad
    p(y^* \mid y) = \sum_m p(m \mid y) \, p(y^* \mid y, m).

An evidence that is estimated comes with its Monte Carlo standard error, and so do probabilities and
Bayes factors: their intervals take the errors of the log evidences as independent and normal. The
intervals do not cover the choice of priors, to whose width evidences remain sensitive for any
number of rows. Leave-one-out predictive densities, which hardly are, stand beside them (see
`amortized.infer.comparison.leave_one_out`).

References:
    | Bayes factors (Kass and Raftery, 1995)
    | Bayesian model averaging: a tutorial (Hoeting, Madigan, Raftery and Volinsky, 1999)
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.infer import infer
from amortized.infer.comparison.averaged_predictive import AveragedPredictive
from amortized.infer.comparison.leave_one_out import LeaveOneOut, leave_one_out
from amortized.infer.inputs.problem import Data
from amortized.plotting import COLOURS, label_axes, new_axes, new_figure
from amortized.posterior import Posterior
from amortized.priors.prior import Prior
from amortized.program.vectorised import Program
from amortized.seeding import seeded
from amortized.validation import number_between

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # checked at run time in the tests; Matplotlib loads when something is drawn
    Axes = Any

_N_ERRORS = 4000  # draws of the evidences' errors, for intervals of probabilities
_SURE = 4.0  # standard errors beyond which evidences of two methods disagree


class Interval(NamedTuple):
    """An estimate with the bounds that its Monte Carlo error gives it, each ``(*batch,)``."""

    estimate: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, repr=False)
class ModelComparison:
    """Programs compared on one dataset, or on each dataset of a batch.

    Attributes:
        posteriors: posteriors of each program, by name.
        prior: prior probabilities, ``(n_models,)``, in the same order.
        log_evidence: ``(*batch, n_models)``.
        log_evidence_error: its Monte Carlo standard error, 0 where the evidence is exact.
        in_doubt: whether the checks of the method doubt this posterior and so its evidence,
            ``(*batch, n_models)``; also where a second method finds another evidence.
        check: the same comparison by a second method; None if there is none.
    """

    posteriors: dict[str, Posterior]
    prior: Float[Tensor, " n_models"]
    log_evidence: Float[Tensor, "*batch n_models"]
    log_evidence_error: Float[Tensor, "*batch n_models"]
    in_doubt: Tensor
    check: "ModelComparison | None" = None

    @property
    def apart(self) -> Float[Tensor, "*batch n_models"]:
        """Differences from the log evidences of the check, in their joint standard errors."""
        if self.check is None:
            raise ValueError(
                "Expected a comparison with check='nested' or another method; got one "
                "without a check."
            )
        difference = self.log_evidence - self.check.log_evidence
        error = torch.hypot(self.log_evidence_error, self.check.log_evidence_error)
        return difference / error.clamp(min=1e-6 * (1 + self.log_evidence.abs()))

    @cached_property
    def loo(self) -> LeaveOneOut:
        """Leave-one-out predictive densities of the programs, by PSIS, computed when asked for.

        Raises:
            ValueError: if a program has no log likelihood of single observations, or another number
                of them.
        """
        return leave_one_out(self.posteriors)

    def _loo_of_one(self) -> LeaveOneOut | None:
        """What is shown for a single dataset; None if there is none to show."""
        try:
            return self.loo if self.log_evidence.ndim == 1 else None
        except ValueError:
            return None

    @property
    def names(self) -> list[str]:
        """Names of the programs."""
        return list(self.posteriors)

    @property
    def probabilities(self) -> dict[str, Float[Tensor, "*batch"]]:
        """Posterior probability of each program."""
        return dict(zip(self.names, self._log_probability().exp().unbind(-1), strict=True))

    def probability_intervals(self, level: float = 0.95) -> dict[str, Interval]:
        """The probabilities with the interval that the errors of the evidences give them."""
        _check_level(level)
        with seeded(0):
            noise = torch.randn(_N_ERRORS, *self.log_evidence.shape, dtype=torch.float64)
        shifted = self._log_joint() + self.log_evidence_error * noise
        share = shifted.softmax(-1)
        low = share.quantile((1 - level) / 2, 0).unbind(-1)
        high = share.quantile((1 + level) / 2, 0).unbind(-1)
        estimates = self.probabilities
        return {
            name: Interval(estimates[name], torch.minimum(a, estimates[name]), b)
            for name, a, b in zip(self.names, low, high, strict=True)
        }

    def log_bayes_factor(self, numerator: str, denominator: str, level: float = 0.95) -> Interval:
        """How much the data favour one program over another, in nats.

        The prior probabilities of the programs do not enter.
        """
        _check_level(level)
        a, b = (self._index(name) for name in (numerator, denominator))
        estimate = self.log_evidence[..., a] - self.log_evidence[..., b]
        error = torch.hypot(self.log_evidence_error[..., a], self.log_evidence_error[..., b])
        reach = math.sqrt(2) * torch.special.erfinv(torch.tensor(level, dtype=torch.float64))
        return Interval(estimate, estimate - reach * error, estimate + reach * error)

    def bayes_factor(self, numerator: str, denominator: str, level: float = 0.95) -> Interval:
        """Ratio of two evidences; infinite if it overflows."""
        return Interval(*(v.exp() for v in self.log_bayes_factor(numerator, denominator, level)))

    def predictive(self, x: Data) -> "AveragedPredictive":
        """The average of the programs' predictives at new inputs, weighted by probability.

        Args:
            x: as for `amortized.posterior.Posterior.predictive`.
        """
        parts = [posterior.predictive(x) for posterior in self.posteriors.values()]
        return AveragedPredictive(parts, self._log_probability())

    def summary(self) -> dict[str, dict[str, float]]:
        """For each program its evidence with its error, its probability and interval.

        With a check: its evidence and error, and how many joint errors the two are apart.

        Over a batch: means over the datasets, ``apart`` at its largest, and ``best``, the share of
        datasets in which the program is the most probable one.
        """
        intervals = self.probability_intervals()
        best = self._log_joint().argmax(-1)
        rows = {}
        for i, name in enumerate(self.names):
            row = {
                "log_evidence": self.log_evidence[..., i].mean().item(),
                "error": self.log_evidence_error[..., i].square().mean().sqrt().item(),
                "prior": self.prior[i].item(),
                "probability": intervals[name].estimate.mean().item(),
                "low": intervals[name].low.mean().item(),
                "high": intervals[name].high.mean().item(),
            }
            if self.check is not None:
                row["check"] = self.check.log_evidence[..., i].mean().item()
                row["check_error"] = (
                    self.check.log_evidence_error[..., i].square().mean().sqrt().item()
                )
                row["apart"] = self.apart[..., i].abs().amax().item()
            if best.ndim:
                row["best"] = (best == i).double().mean().item()
            rows[name] = row
        return rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """Bars of the probabilities, with intervals of the Monte Carlo error.

        In a figure of its own, the elpd of a single dataset's programs stands beside them. Over a
        batch: bars of the mean, and lines from the 5% to the 95% quantile over datasets.
        """
        height, loo = max(2.0, 0.8 + 0.35 * len(self.names)), self._loo_of_one()
        if ax is None and loo is not None:
            ax, beside = new_figure(9.0, height).subplots(1, 2)
            loo.plot(beside).set_yticks([])
        ax = new_axes(5.0, height) if ax is None else ax
        intervals = self.probability_intervals()
        many = bool(self.log_evidence.ndim > 1)
        for at, interval in enumerate(intervals.values()):
            estimate = interval.estimate
            low, high = (interval.low, interval.high)
            if many:
                low, high = estimate.quantile(0.05, 0), estimate.quantile(0.95, 0)
            ax.barh(at, estimate.mean().item(), color=COLOURS[2], height=0.6)
            ax.plot([low.item(), high.item()], [at, at], color=COLOURS[0])
            if bool(self.in_doubt[..., at].any()):
                ax.text(1.0, at, " in doubt", va="center", fontsize=8)
        ax.set_yticks(range(len(self.names)), self.names)
        ax.set_xlim(0, 1)
        ax.invert_yaxis()
        title = f"{len(self.log_evidence)} datasets" if many else ""
        return label_axes(ax, "posterior probability", "", title)

    def __repr__(self) -> str:
        rows = self.summary()
        n = f", {len(self.log_evidence)} datasets" if self.log_evidence.ndim > 1 else ""
        columns = list(next(iter(rows.values())))
        order = sorted(rows, key=lambda name: -rows[name]["probability"])
        width = max(12, *(len(name) for name in rows))
        lines = [f"ModelComparison({len(rows)} models{n})"]
        lines.append(" " * width + "".join(f"{column:>14}" for column in columns))
        for name in order:
            doubt = "  in doubt" if self.in_doubt[..., self._index(name)].any() else ""
            cells = "".join(f"{rows[name][column]:>14.4g}" for column in columns)
            lines.append(f"{name:>{width}}{cells}{doubt}")
        loo = self._loo_of_one()
        return "\n".join(lines if loo is None else [*lines, repr(loo)])

    def _log_joint(self) -> Tensor:
        return self.log_evidence + self.prior.log()

    def _log_probability(self) -> Tensor:
        return self._log_joint().log_softmax(-1)

    def _index(self, name: str) -> int:
        if name not in self.posteriors:
            raise ValueError(f"Expected a model among {self.names}; got {name!r}.")
        return self.names.index(name)


def compare(
    models: Mapping[str, Program | Prior],
    x: Data,
    y: Data | None = None,
    *,
    prior: Mapping[str, float] | None = None,
    method: str = "auto",
    check: str | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    **options: Any,
) -> ModelComparison:
    """Posterior probabilities of programs for the same observations.

    The programs must give the density of the same ``y``: one of the logarithm of y is not
    comparable with one of y.

    Args:
        models: two programs or more by name, each as for `amortized.infer.infer`.
        x: inputs of one dataset or of many, as for `amortized.infer.infer`.
        y: observations.
        prior: probability of each program before the data, up to a factor; None for equal ones.
        method: one that estimates the evidence: "exact", "smc", "nested", "surrogate", "importance"
            or "auto", which takes "smc" where the first choice of "auto" for a program has no
            evidence.
        check: a second such method, with its default options, whose evidences are given beside
            those of the first: "nested" has nothing in common with "smc".
        n_draws: draws of each posterior.
        seed: equal seeds give equal results.
        **options: of the method.

    Raises:
        ValueError: if there are fewer than two programs, the method has no evidence, or the data
            are impossible under one of the programs.

    Warns:
        UserWarning: for each program whose posterior, and with it the evidence, is in doubt, and
            for each whose two evidences are more than four joint standard errors apart.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def coin(a):
        ...     def program(x, y=None):
        ...         p = pyro.sample("p", dist.Beta(a, a))
        ...         with pyro.plate("rows", len(x)):
        ...             return pyro.sample("y", dist.Bernoulli(p), obs=y)
        ...     return program
        >>> found = compare({"fair": coin(100.0), "any": coin(1.0)}, [1.0] * 8)
        >>> round(found.probabilities["any"].item(), 3), round(found.log_evidence[1].item(), 3)
        (0.961, -2.197)
    """
    if not isinstance(models, Mapping) or len(models) < 2:
        raise ValueError(f"Expected two models or more, {{name: program}}; got {models!r}.")
    shares = _prior(list(models), prior)
    data = {"x": x, "y": y, "n_draws": n_draws, "seed": seed}
    found = _compared(models, shares, method, data | options)
    if check is None:
        return found
    found = replace(found, check=_compared(models, shares, check, data))
    differs = found.apart.abs() > _SURE
    for i, name in enumerate(found.names):
        if bool(differs[..., i].any()):
            at = found.apart[..., i].abs().flatten().argmax()
            warnings.warn(
                f"Model {name!r}: {method!r} and {check!r} disagree on the log evidence, "
                f"{found.log_evidence[..., i].flatten()[at]:.2f} and "
                f"{found.check.log_evidence[..., i].flatten()[at]:.2f}: do not rely on either. "  # type: ignore[union-attr]
                "Give both more particles or live points, or reparametrise the program.",
                UserWarning,
                stacklevel=2,
            )
    return replace(found, in_doubt=found.in_doubt | differs)


def _compared(
    models: Mapping[str, Program | Prior], shares: Tensor, method: str, arguments: dict[str, Any]
) -> ModelComparison:
    """The comparison by one method, with the other arguments of `infer`."""
    posteriors = {
        name: _with_evidence(name, model, method, arguments) for name, model in models.items()
    }
    evidence = torch.stack([_double(p.log_evidence) for p in posteriors.values()], -1)
    error = torch.stack([_double(p.log_evidence_error) for p in posteriors.values()], -1)
    doubt = torch.stack([_doubted(p) for p in posteriors.values()], -1)
    return ModelComparison(posteriors, shares, evidence, error, doubt)


def _with_evidence(
    name: str, model: Program | Prior, method: str, arguments: dict[str, Any]
) -> Posterior:
    """The posterior of one program, whose warnings name it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            posterior = infer(model, method=method, **arguments)
            if method == "auto" and not _has_evidence(posterior):
                posterior = infer(model, method="smc", **arguments)
        except ValueError as reason:
            raise ValueError(f"Model {name!r}: {reason}") from reason
    for each in caught:
        if issubclass(each.category, UserWarning):
            warnings.warn(f"Model {name!r}: {each.message}", each.category, stacklevel=4)
    if not _has_evidence(posterior):
        raise ValueError(
            f"Expected a method that estimates the evidence and its error; {method!r} does not for "
            f"model {name!r}. Use 'auto', 'exact', 'smc', 'nested' or 'importance'."
        )
    return posterior


def _has_evidence(posterior: Posterior) -> bool:
    known = posterior.log_evidence, posterior.log_evidence_error
    return all(v is not None and bool(torch.as_tensor(v).isfinite().all()) for v in known)


def _double(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach()


def _doubted(posterior: Posterior) -> Tensor:
    """Whether each dataset's posterior is in doubt, ``(*batch,)``."""
    doubt = posterior.diagnostics.get("doubt") or []
    if not posterior.batch_shape:
        return torch.tensor(bool(doubt))
    each = doubt or [[]] * posterior.batch_shape.numel()
    return torch.tensor([bool(reasons) for reasons in each]).reshape(posterior.batch_shape)


def _prior(names: list[str], given: Mapping[str, float] | None) -> Float[Tensor, " n_models"]:
    shares = {name: 1.0 for name in names} if given is None else dict(given)
    good = set(shares) == set(names) and all(0 < p < math.inf for p in shares.values())
    if not good:
        raise ValueError(f"Expected positive prior probabilities of {names}; got {given!r}.")
    values = torch.tensor([float(shares[name]) for name in names], dtype=torch.float64)
    return values / values.sum()


def _check_level(level: float) -> None:
    number_between("level", level, 0, 1)
