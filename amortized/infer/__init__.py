"""One call for every inference method: `infer(model, x, y, method=...)` gives a `Posterior`."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer.amortised import by_network
from amortized.infer.cascade import automatically
from amortized.infer.inputs.groups import named_program
from amortized.infer.inputs.problem import Data, make_problem
from amortized.infer.inputs.ragged import infer_ragged, is_ragged
from amortized.infer.programs import by_sampler, exactly
from amortized.infer.sequential import Origin
from amortized.infer.simulated import by_learned_likelihood, by_posterior_flow
from amortized.infer.states import StateModel, infer_states
from amortized.latent_priors.conversion import Draws
from amortized.one_at_a_time import gradients
from amortized.posterior.posterior import Posterior
from amortized.priors.prior import Prior
from amortized.program.vectorised import Program, precision
from amortized.sampling.checks.cross_check import checked_approximation, checked_chains
from amortized.sampling.checks.verdict import measured, warn_of_doubt
from amortized.sampling.hmc import hmc
from amortized.sampling.importance import importance
from amortized.sampling.laplace import laplace
from amortized.sampling.nested import nested
from amortized.sampling.nuts import nuts
from amortized.sampling.smc import smc
from amortized.sampling.surrogate import surrogate
from amortized.sampling.vi import vi
from amortized.seeding import seeded
from amortized.validation import check_options, whole_number

LatentPrior = Mapping[str, Distribution] | Mapping[str, Tensor] | GaussianMixture | Draws | Tensor
METHODS: dict[str, Callable[..., Posterior]] = {
    "exact": exactly,
    "nuts": by_sampler(nuts, "nuts", checked_chains),
    "smc": by_sampler(smc, "smc"),
    "hmc": by_sampler(hmc, "hmc", checked_chains),
    "laplace": by_sampler(laplace, "laplace", checked_approximation, n_judged=512),
    "importance": by_sampler(importance, "importance", measured),
    "nested": by_sampler(nested, "nested"),
    "surrogate": by_sampler(surrogate, "surrogate"),
    "vi": by_sampler(vi, "vi", checked_approximation, n_judged=512),
    "dt": by_network,
    "npe": by_posterior_flow,
    "snl": by_learned_likelihood,
}
"""Every method by name; each takes a problem, a number of draws and its own options."""


def infer(
    model: Program | Prior | StateModel,
    x: Data | Mapping[str, Any] | None = None,
    y: Data | None = None,
    *,
    data: Mapping[str, Any] | None = None,
    method: str = "auto",
    latent_prior: LatentPrior | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Posterior:
    """Computes the posterior of a model's latents given one dataset, or given each of many.

    Programs run one at a time: a call from another thread waits. The data are copied.

    Args:
        model: a prior with a program (`ProgramPrior`), or a Pyro program ``model(x, y=None)`` for
            one dataset that observes ``y`` at site "y". For a state-space model the posterior is
            that of its states: see `amortized.infer.states.infer_states` for ``y`` and the methods.
        x: inputs ``(n, n_features)`` of one dataset, or ``(batch, n, n_features)`` of many. If
            ``y`` is not given, ``x`` is taken for ``y``: the model has no inputs.
        y: observations ``(n,)`` or ``(batch, n)``, or ``(n, *event)`` or ``(batch, n, *event)`` of
            a program whose rows are arrays. Without inputs the program's own observation decides
            whether the first dimension is the rows or the batch. NaN stands for a missing
            observation, which is integrated out. For datasets of different sizes, x and y are lists
            with an entry for each; those of equal size are processed together.
        data: instead of x and y, one dataset by the names of the program's arguments, for a program
            with arguments and observed sites of any names. Arrays of numbers are passed on as
            tensors, other arguments unchanged. A mapping as ``x`` has the same meaning.
        method: one of `METHODS`, or "auto": "exact" if there is a closed form; otherwise the
            posterior of a network for the program, if there is one, importance-weighted, and
            replaced if the weights are unreliable (see `amortized.infer.cascade`); otherwise "smc".
            ``diagnostics["stage"]`` states which was used.
        latent_prior: replaces the program's own prior: distributions by name of the latent; or for
            all latents a `GaussianMixture` over unconstrained space, an earlier posterior, draws,
            or the result of `amortized.hierarchy.learn_latent_prior`.
        n_draws: number of draws for each dataset.
        seed: equal seeds give equal draws.
        **options: options of the method; see its function in `amortized.sampling`, or, for "npe"
            and "snl", in `amortized.infer.simulated`. ``start`` may be
            an earlier posterior, a torch distribution over unconstrained space, or a mixture of
            normals.

    Raises:
        ValueError: if the data are inconsistent or do not fit the model, or the method is unknown.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def coin(x, y=None):
        ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
        ...     return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)
        >>> posterior = infer(coin, [1.0, 1.0, 0.0, 1.0])
        >>> posterior.diagnostics["method"], round(posterior.log_evidence.item(), 3)
        ('exact', -2.996)
    """
    n_draws = whole_number("n_draws", n_draws)
    if data is not None:
        if x is not None or y is not None:
            raise ValueError("Expected all data in data={...}, or x and y; got both.")
        x = data
    if isinstance(model, StateModel):
        if y is not None or latent_prior is not None or x is None or isinstance(x, Mapping):
            raise ValueError(
                "Expected only observations with a state-space model: infer(model, y)."
            )
        began = time.perf_counter()
        posterior = infer_states(model, x, method, n_draws, seed, options)
        posterior.diagnostics["seconds"] = time.perf_counter() - began
        return posterior
    if not isinstance(method, str) or (method != "auto" and method not in METHODS):
        raise ValueError(f"Expected a method among {['auto', *METHODS]}; got {method!r}.")
    functions = (automatically, METHODS["smc"]) if method == "auto" else (METHODS[method],)
    options = check_options(method, *functions, given=options)
    if is_ragged(x, y):
        return _of_list(model, x, y, latent_prior, seed, method=method, n_draws=n_draws, **options)
    with precision(torch.float32), gradients():
        began = time.perf_counter()  # excludes waiting for other threads
        problem = make_problem(model, x, y, latent_prior)
        with seeded(seed):
            posterior = (automatically if method == "auto" else METHODS[method])(
                problem, n_draws, **options
            )
    posterior.diagnostics["seconds"] = time.perf_counter() - began
    if named_program(problem.program) is None:  # data by names are not rows
        posterior.origin = Origin(problem, model, latent_prior, options)
    warn_of_doubt(posterior.diagnostics.get("doubt"))
    return posterior


def _of_list(model: Any, x: Any, y: Any, latent_prior: Any, seed: int, **options: Any) -> Posterior:
    """The answer to a list of datasets of different sizes."""
    if "start" in options:
        raise ValueError("Expected no start with a list of datasets; got one. Give a latent prior.")
    began = time.perf_counter()

    def of_equal_size(x: Tensor, y: Tensor, latent_prior: Any, seed: int) -> Posterior:
        return infer(model, x, y, latent_prior=latent_prior, seed=seed, **options)

    inputs, answers = (None, x) if y is None else (x, y)
    posterior = infer_ragged(of_equal_size, inputs, answers, latent_prior, seed)
    posterior.diagnostics["seconds"] = time.perf_counter() - began
    return posterior
