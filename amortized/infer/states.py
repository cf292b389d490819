"""The methods of `infer` for state-space models: the hidden states given the observations."""

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.infer.inputs.problem import Data
from amortized.posterior import Posterior
from amortized.priors.state_space.state_space_model import LinearGaussianModel, StateSpaceModel
from amortized.sampling.filters.extended_kalman import (
    NonlinearGaussianModel,
    extended_kalman_filter,
)
from amortized.sampling.filters.kalman_smoother import kalman_smoother
from amortized.sampling.filters.particle_filter import Proposal, particle_filter
from amortized.validation import check_options, generator_from

StateModel = StateSpaceModel | NonlinearGaussianModel


def infer_states(
    model: StateModel, y: Data, method: str, n_draws: int, seed: int, options: dict[str, Any]
) -> Posterior:
    """Computes the posterior of a state-space model's states, for one series or a batch of them.

    Args:
        model: a `LinearGaussianModel`, another `StateSpaceModel`, or a `NonlinearGaussianModel`.
        y: one series ``(time,)`` or ``(time, observed)``, or a batch ``(batch, time, observed)``;
            NaN marks missing values.
        method: one of `STATE_METHODS`, or "auto" for the first one that applies to the model.
        n_draws: draws, or particles, per series.
        seed: equal seeds give equal draws.
        options: options of the filter.
    """
    if not isinstance(method, str) or (method != "auto" and method not in STATE_METHODS):
        raise ValueError(
            f"Expected a method for states among {['auto', *STATE_METHODS]}; got {method!r}. "
            "Static parameters are for smc_squared of amortized.sampling.filters.particle_mcmc."
        )
    if method == "auto":
        method = next(name for name, (kind, _) in STATE_METHODS.items() if isinstance(model, kind))
    kind, run = STATE_METHODS[method]
    if not isinstance(model, kind):
        raise ValueError(
            f"Expected a {kind.__name__} for method {method!r}; got {type(model).__name__}."
        )
    options = check_options(method, run, given=options, skipped=4)
    series = as_tensor(y, "y", allow_nan=True).detach()
    if series.ndim not in (1, 2, 3) or 0 in series.shape:
        raise ValueError(
            "Expected y of shape (time,), (time, observed) or (batch, time, observed) with at "
            f"least one step; got {tuple(series.shape)}."
        )
    many = series.ndim == 3
    series = series.unsqueeze(-1) if series.ndim == 1 else series
    answer = run(model, series if many else series.unsqueeze(0), n_draws, seed, **options)
    one_model_a_series = not many and len(answer["log_evidence"]) > 1
    return _posterior(answer, method, many or one_model_a_series)


def _posterior(answer: dict[str, Any], method: str, many: bool) -> Posterior:
    """Builds the posterior from a method's result, without the batch dimension for one series."""

    def shaped(value: Tensor, dim: int) -> Tensor:
        return value if many else value.select(dim, 0)

    batch_shape = answer["log_evidence"].shape if many else ()
    log_weights = answer.get("log_weights")
    error = answer.get("log_evidence_error")
    return Posterior(
        {name: shaped(value, 1) for name, value in answer["draws"].items()},
        log_weights=None if log_weights is None else shaped(log_weights, 1),
        log_evidence=shaped(answer["log_evidence"], 0),
        log_evidence_error=None if error is None else shaped(error, 0),
        diagnostics={"method": method}
        | {name: shaped(value, 0) for name, value in answer["diagnostics"].items()},
        batch_shape=batch_shape,
    )


def _smoothed_paths(
    model: LinearGaussianModel, y: Tensor, n_draws: int, seed: int
) -> dict[str, Any]:
    r"""Independent draws of whole paths, and the exact evidence.

    A path :math:`x^+` and observations :math:`y^+` are simulated together; then
    :math:`x^+ + E(x \mid y) - E(x \mid y^+)` is a draw given y, because the error of the
    conditional mean does not depend on the data (Durbin and Koopman, 2002).
    """
    smoothed = kalman_smoother(model, y.to(model.observation.dtype))
    batch, n_steps = smoothed.mean.shape[:2]
    model = _repeat(model, n_draws)
    paths, twins = model.simulate(n_draws * batch, n_steps, seed=seed)
    gone = y.isnan().expand(batch, -1, -1).repeat(n_draws, 1, 1)
    errors = paths - kalman_smoother(model, twins.masked_fill(gone, torch.nan)).mean
    _admit(~smoothed.valid, "have no density under the model")
    return {
        "draws": {"states": smoothed.mean + errors.unflatten(0, (n_draws, batch))},
        "log_evidence": smoothed.log_evidence,
        "log_evidence_error": torch.zeros_like(smoothed.log_evidence),
        "diagnostics": {"valid": smoothed.valid},
    }


def _repeat(model: LinearGaussianModel, n: int) -> LinearGaussianModel:
    """Repeats the model for n batches of the same series; a shared one is returned unchanged."""
    if model.n_models is None:
        return model
    repeated = {}
    for field in fields(model):
        value = getattr(model, field.name)
        plain = 1 if field.name.endswith(("_mean", "_offset")) else 2
        shared = value is None or value.ndim == plain or len(value) < model.n_models
        if not shared:
            repeated[field.name] = value.repeat(n, *[1] * (value.ndim - 1))
    return replace(model, **repeated)


def _normal_of_last_state(
    model: NonlinearGaussianModel, y: Tensor, n_draws: int, seed: int
) -> dict[str, Any]:
    """Draws of the last state from the normal of the extended Kalman filter."""
    filtered = extended_kalman_filter(model, y.to(model.initial_mean.dtype))
    mean, cov = filtered.mean[:, -1], filtered.cov[:, -1]
    root, _ = torch.linalg.cholesky_ex(cov)
    generator = generator_from(seed)
    noise = torch.randn(n_draws, *mean.shape, generator=generator, dtype=mean.dtype)
    _admit(~filtered.valid, "have no density under the model")
    return {
        "draws": {"state": mean + (root @ noise.unsqueeze(-1)).squeeze(-1)},
        "log_evidence": filtered.log_evidence,
        "diagnostics": {"valid": filtered.valid},
    }


def _particles_of_last_state(
    model: StateSpaceModel,
    y: Tensor,
    n_draws: int,
    seed: int,
    proposal: Proposal | None = None,
    ess_threshold: float = 0.5,
) -> dict[str, Any]:
    """Weighted particles of the last state, and an unbiased estimate of the evidence."""
    shape = (1, 1)
    dtype = model.sample_initial(shape, torch.Generator().manual_seed(0)).dtype
    result = particle_filter(
        model,
        y.to(dtype),
        n_draws,
        proposal=proposal,
        ess_threshold=ess_threshold,
        moments=False,
        seed=seed,
    )
    _admit(result.collapsed_at >= 0, "killed all particles")
    return {
        "draws": {"state": result.particles.state.transpose(0, 1)},
        "log_weights": result.particles.weights.log().T,
        "log_evidence": result.log_evidence,
        "diagnostics": {"ess": result.ess, "collapsed_at": result.collapsed_at},
    }


def _admit(failed: Tensor, what: str) -> None:
    if failed.any():
        warnings.warn(
            f"The observations of {int(failed.sum())} series {what}: do not trust their states.",
            UserWarning,
            stacklevel=4,
        )


STATE_METHODS: dict[str, tuple[type, Callable[..., dict[str, Any]]]] = {
    "exact": (LinearGaussianModel, _smoothed_paths),
    "extended_kalman": (NonlinearGaussianModel, _normal_of_last_state),
    "particle_filter": (StateSpaceModel, _particles_of_last_state),
}
"""Every method for states, with the models to which it applies."""
