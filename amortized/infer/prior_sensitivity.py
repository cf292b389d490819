r"""Prior sensitivity: the posteriors of one dataset under many priors, as one batch.

A network is conditioned on the prior as well as on the data, so a grid of priors takes one forward
pass. The distance of a posterior :math:`p_i` under the prior :math:`\pi_i` from the base posterior
:math:`p_0` is estimated from draws of both: in the ratio of their densities the likelihood cancels,
and in the symmetric divergence so do the evidences:

.. math:: \tfrac12 (KL(p_i | p_0) + KL(p_0 | p_i)) = \tfrac12 \left(
    E_{p_i} \log \frac{\pi_i}{\pi_0} - E_{p_0} \log \frac{\pi_i}{\pi_0} \right)

References:
    Gelman et al., Bayesian Data Analysis, 3rd edition (2013), section 6.1.
    Kallioinen et al., Detecting and diagnosing prior and likelihood sensitivity with power-scaling
    (2024), arXiv:2107.14054.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer import infer
from amortized.infer.amortised import check_supports, prior_mixture
from amortized.infer.inputs.problem import Data, Problem, make_problem
from amortized.latent_priors.conversion import is_by_name
from amortized.latent_priors.fitting import stacked
from amortized.posterior import Posterior
from amortized.priors.prior import Prior
from amortized.program.vectorised import Program
from amortized.sampling.checks.pareto import smooth_weights

BASE = "base"
LogPrior = Callable[[Tensor], Tensor]
_ROUNDING = 1e-6  # of a log density of the prior
_MOST_K_HAT = 0.7


@dataclass(frozen=True)
class PriorSensitivity:
    """Posteriors of one dataset under several priors of the latents.

    Attributes:
        labels: labels of the priors; the first is the base.
        posterior: posterior of batch shape ``(n_priors,)``, in the order of the labels: ``mean``,
            ``std``, ``quantile``, ``log_evidence`` (None if the method has none) and
            ``diagnostics`` have one value per prior.
        distance: half the symmetric Kullback-Leibler divergence of each posterior from the base
            posterior, in nats.
    """

    labels: tuple[str, ...]
    posterior: Posterior
    distance: Float[Tensor, " n_priors"]

    @property
    def names(self) -> list[str]:
        """Names of the scalar latents, such as ``"weights[0]"``."""
        return [
            f"{name}[{', '.join(map(str, at))}]" if at else name
            for name, value in self.posterior.mean.items()
            for at in np.ndindex(*value.shape[1:])
        ]

    def quantiles(
        self, levels: Sequence[float] = (0.05, 0.5, 0.95)
    ) -> dict[str, Float[Tensor, "n_priors n_levels"]]:
        """Posterior quantiles of every scalar latent."""
        each = torch.stack([self._flat(self.posterior.quantile(level)) for level in levels], -1)
        return dict(zip(self.names, each.unbind(1), strict=True))

    def table(self) -> str:
        """One line per prior: distance, log evidence if known, and mean and sd of the latents."""
        mean, std = self._flat(self.posterior.mean), self._flat(self.posterior.std)
        columns = {"distance": [f"{value:.3f}" for value in self.distance.tolist()]}
        if self.posterior.log_evidence is not None:
            evidence = self.posterior.log_evidence.tolist()
            columns["log evidence"] = [f"{value:.3f}" for value in evidence]
        for name, means, stds in zip(self.names, mean.T.tolist(), std.T.tolist(), strict=True):
            columns[name] = [f"{m:.4g} +- {s:.2g}" for m, s in zip(means, stds, strict=True)]
        lines = [f"{'prior':>20}" + "".join(f"{name:>20}" for name in columns)]
        for label, *cells in zip(self.labels, *columns.values(), strict=True):
            lines.append(f"{label:>20}" + "".join(f"{cell:>20}" for cell in cells))
        return "\n".join(lines)

    def _flat(self, latents: Mapping[str, Tensor]) -> Float[Tensor, "n_priors n_scalars"]:
        return torch.cat([value.reshape(len(self.labels), -1) for value in latents.values()], -1)


def prior_sensitivity(
    model: Program | Prior,
    x: Data,
    y: Data | None = None,
    *,
    latent_priors: Mapping[str, Any] | Sequence[Any],
    base: Any = None,
    method: str = "auto",
    n_components: int = 5,
    n_draws: int = 1000,
    seed: int = 0,
    **options: Any,
) -> PriorSensitivity:
    """Computes the posteriors of one dataset under several priors, in one batch.

    Every prior is represented by a Gaussian mixture over unconstrained space, as networks require.
    For a family that is not normal there it is a fit, and the draws are weighted by the ratio of
    the prior to it, but for "dt", whose answers are those under the fit.

    Args:
        model: as for `amortized.infer.infer`.
        x: inputs ``(n, n_features)`` of one dataset; or its observations if ``y`` is not given.
        y: observations ``(n,)``.
        latent_priors: the priors, each as ``latent_prior`` of `amortized.infer.infer`, in a
            dictionary by label or in a list. Latents not named in a prior keep the model's own
            prior.
        base: the prior to compare with; None for the model's own.
        method: "dt" for unweighted network answers, "auto" for answers weighted by the exact
            density with an estimated evidence; or a sampler.
        n_components: components of the mixture fitted to a family.
        n_draws: draws for each prior.
        seed: equal seeds give equal draws.
        **options: options of the method.

    Raises:
        ValueError: if there is no prior, not exactly one dataset, or a prior does not fit the
            model.

    Warns:
        UserWarning: if the fit to a prior is too far from it where the data point.

    Example:
        >>> from torch.distributions import Normal
        >>> from amortized.priors.regression.linear_model import LinearModelPrior
        >>> grid = {f"sd {sd}": {"coefficients": Normal(0.0, sd)} for sd in (0.1, 3.0)}
        >>> found = prior_sensitivity(LinearModelPrior(0), [1.0, 2.0, 3.0], latent_priors=grid)
        >>> found.labels, found.posterior.mean["coefficients"].shape
        (('base', 'sd 0.1', 'sd 3.0'), torch.Size([3, 1]))
        >>> bool(found.distance[1] > found.distance[2] > found.distance[0])
        True
    """
    priors = _labelled(latent_priors)
    problems = [make_problem(model, x, y, prior) for prior in (base, *priors.values())]
    one = problems[0]
    if one.batch_shape:
        raise ValueError(
            f"Expected one dataset, y of shape (n,); got a batch of {one.batch_shape[0]}. Call "
            "once for each."
        )
    told = stacked([_mixture(problem, n_components) for problem in problems])
    n = len(problems)
    posterior = infer(
        model,
        one.x.expand(n, -1, -1),
        one.y.expand(n, *one.y.shape[1:]),
        method=method,
        latent_prior=told,
        n_draws=n_draws,
        seed=seed,
        **options,
    )
    labels = (BASE, *priors)
    if not one.density(allow_simulator=True).is_simulator:
        log_priors = [_log_prior(problem) for problem in problems]
        if method != "dt":
            posterior = _under_exact_priors(posterior, told, log_priors, problems[0], labels)
    else:
        log_priors = [told[i].log_prob for i in range(n)]
    return PriorSensitivity(labels, posterior, _distance(posterior, log_priors, one))


def _labelled(latent_priors: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """The priors by label; numbered if they have none."""
    alone = isinstance(latent_priors, Distribution | Posterior | Tensor | str)
    if alone or is_by_name(latent_priors) or not latent_priors:
        raise ValueError(
            "Expected latent_priors to be several, {label: latent_prior} or a list; got "
            f"{latent_priors!r}. Put a single one into a list."
        )
    if isinstance(latent_priors, Mapping):
        return {str(label): prior for label, prior in latent_priors.items()}
    return {str(i): prior for i, prior in enumerate(latent_priors, 1)}


def _mixture(problem: Problem, n_components: int) -> GaussianMixture:
    """The prior of a problem of one dataset as a mixture over u, without a batch."""
    density = problem.density(allow_simulator=True)
    check_supports(problem, density)
    return prior_mixture(density, n_components).to(problem.y.dtype).expand((1,))[0]


def _log_prior(problem: Problem) -> LogPrior:
    """The log density of a problem's own prior over u."""
    density = problem.density()
    return lambda u: density.log_prior(u[None])[0]


def _under_exact_priors(
    posterior: Posterior,
    told: GaussianMixture,
    log_priors: Sequence[LogPrior],
    one: Problem,
    labels: Sequence[str],
) -> Posterior:
    """Weighs the draws by the ratio of each prior to the mixture that stood for it.

    A mixture may miss the tail of a family, where an unexpected likelihood puts the posterior.
    """
    u, log_weights = _unconstrained(posterior, one)
    ratio = torch.stack(
        [
            log_prior(at) - told[i].log_prob(at)
            for i, (log_prior, at) in enumerate(zip(log_priors, u, strict=True))
        ]
    )
    if bool((ratio.abs() < _ROUNDING).all()):
        return posterior
    n = u.shape[1]
    smoothed = smooth_weights(log_weights.T + ratio)
    evidence, error = posterior.log_evidence, posterior.log_evidence_error
    if evidence is not None:
        evidence = evidence + smoothed.log_mean + math.log(n)
    if error is not None:
        error = torch.hypot(error, (1 / smoothed.ess - 1 / n).clamp(min=0.0).sqrt())
    poor = [
        label for label, k in zip(labels, smoothed.k_hat.tolist(), strict=True) if k >= _MOST_K_HAT
    ]
    if poor:
        warnings.warn(
            f"The answers for the priors {poor} are in doubt: the mixtures of normals that stand "
            "for them are too far from them where the data point. Give a larger n_components, or "
            "call infer with each of these priors.",
            UserWarning,
            stacklevel=3,
        )
    draws, _ = posterior.weighted_draws()
    weights = smoothed.log_weights.T
    return Posterior(
        draws,
        log_weights=weights,
        log_evidence=evidence,
        log_evidence_error=error,
        predictive=replace(posterior._predictive, log_weights=weights),  # type: ignore[type-var]
        diagnostics=posterior.diagnostics | {"k_hat_of_priors": smoothed.k_hat},
        batch_shape=posterior.batch_shape,
    )


def _unconstrained(
    posterior: Posterior, one: Problem
) -> tuple[Float[Tensor, "n_priors n dim"], Float[Tensor, "n n_priors"]]:
    """The draws under each prior in unconstrained space, and their log weights."""
    draws, log_weights = posterior.weighted_draws()
    n_priors = posterior.batch_shape[0]
    density = one.density(allow_simulator=True).take(torch.zeros(n_priors, dtype=torch.long))
    u = density.unconstrain({name: value.movedim(1, 0) for name, value in draws.items()})
    return u, log_weights


def _distance(
    posterior: Posterior, log_priors: Sequence[LogPrior], one: Problem
) -> Float[Tensor, " n_priors"]:
    """Distance of each posterior from the first, estimated from draws by the formula above."""
    u, log_weights = _unconstrained(posterior, one)
    weights, base = log_weights.exp().T, log_priors[0]

    def log_ratio(log_prior: LogPrior, i: int) -> Tensor:
        """The mean of the log ratio of a prior to the base, under the posterior of number i."""
        there = weights[i] > 0
        at = u[i][there]
        return (weights[i][there] * (log_prior(at) - base(at))).sum()

    return torch.stack(
        [(log_ratio(own, i) - log_ratio(own, 0)) / 2 for i, own in enumerate(log_priors)]
    )
