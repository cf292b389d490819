"""One call for every inference method: `infer(model, x, y, method=...)` gives a `Posterior`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortized.posterior import Posterior
from amortized.predictive import OneOfBatch, ProgramPredictive
from amortized.priors.density import ProgramDensity
from amortized.priors.latent_prior import with_latent_prior
from amortized.priors.prior import Prior
from amortized.priors.vectorised import Program
from amortized.sampling.draws import Draws
from amortized.sampling.exact import exact
from amortized.sampling.hmc import hmc
from amortized.sampling.importance import importance
from amortized.sampling.laplace import laplace
from amortized.sampling.normal_mixture import FromDistribution, normal_of_draws
from amortized.sampling.nuts import nuts
from amortized.sampling.smc import smc
from amortized.sampling.vi import vi

Data = Tensor | np.ndarray | list[Any]


@dataclass(frozen=True)
class Problem:
    """What a method is given: a program, its prior if it has one, and the data as a batch.

    Attributes:
        model: the Pyro program, or a prior whose ``model`` is one.
        x: ``(batch, n, n_features)``.
        y: ``(batch, n)``.
        batch_shape: ``(batch,)``, or empty where the user gave one dataset.
    """

    model: Program | Prior
    x: Tensor
    y: Tensor
    batch_shape: torch.Size

    @property
    def program(self) -> Program:
        """The bare Pyro program."""
        program = self.model.model if hasattr(self.model, "model") else self.model
        if not callable(program) or isinstance(program, Prior):
            raise ValueError(
                "Expected a Pyro program, or a prior with one as its method 'model'; got "
                f"{type(self.model).__name__}."
            )
        return program

    def density(self) -> ProgramDensity:
        """The program's log density given the data."""
        return ProgramDensity(self.program, self.x, self.y)


def infer(
    model: Program | Prior,
    x: Data,
    y: Data | None = None,
    *,
    method: str = "auto",
    latent_prior: Mapping[str, Distribution] | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Posterior:
    """The posterior of a model's latents given one dataset, or given each of many.

    Args:
        model: a prior with a program (`ProgramPrior`), or a Pyro program ``model(x, y=None)``
            for one dataset that observes ``y`` at site "y".
        x: inputs ``(n, n_features)`` of one dataset, or ``(batch, n, n_features)`` of many. If
            ``y`` is not given, ``x`` is taken for ``y``: the model has no inputs.
        y: observations ``(n,)`` or ``(batch, n)``.
        method: one of `METHODS`, or "auto": "exact" where there is an exact answer, otherwise
            "smc". ``diagnostics["method"]`` says which.
        latent_prior: distributions that replace those of the program, by name of the latent.
        n_draws: draws for each dataset.
        seed: equal seeds give equal draws.
        **options: for the method; see its function in `amortized.sampling`. ``start``, where a
            method has it, may be an earlier posterior, a torch distribution over unconstrained
            space, or a mixture of normals.

    Raises:
        ValueError: if the data do not fit together or to the model, or no method has that name.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def coin(x, y=None):
        ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
        ...     return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)
        >>> posterior = infer(coin, [1.0, 1.0, 0.0, 1.0])
        >>> posterior.diagnostics["method"], round(posterior.log_evidence.item(), 3)
        ('exact', -2.996)
    """
    if method != "auto" and method not in METHODS:
        raise ValueError(f"Expected a method among {['auto', *METHODS]}; got {method!r}.")
    if int(n_draws) != n_draws or n_draws < 1:
        raise ValueError(f"Expected n_draws to be an integer >= 1; got {n_draws!r}.")
    problem = _problem(model, x, y, latent_prior)
    began = time.perf_counter()
    cuda = [problem.x.device] if problem.x.is_cuda else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        posterior = (_auto if method == "auto" else METHODS[method])(
            problem, int(n_draws), **options
        )
    posterior.diagnostics["seconds"] = time.perf_counter() - began
    return posterior


def _problem(
    model: Program | Prior,
    x: Data,
    y: Data | None,
    latent_prior: Mapping[str, Distribution] | None,
) -> Problem:
    answers = _tensor(x if y is None else y, "y")
    inputs = answers.new_zeros(*answers.shape, 0) if y is None else _tensor(x, "x")
    if answers.ndim not in (1, 2) or inputs.shape[:-1] != answers.shape or 0 in answers.shape:
        raise ValueError(
            "Expected x of shape (n, n_features) and y of shape (n,), or both with a batch in "
            f"front, and at least one row; got {tuple(inputs.shape)} and {tuple(answers.shape)}."
        )
    if latent_prior is not None:
        model = with_latent_prior(
            Problem(model, inputs, answers, torch.Size()).program, latent_prior
        )
    if answers.ndim == 1:
        return Problem(model, inputs.unsqueeze(0), answers.unsqueeze(0), torch.Size())
    return Problem(model, inputs, answers, answers.shape[:1])


def _tensor(data: Data, name: str) -> Tensor:
    """Data as float64: the accuracy of gradients and evidence is worth more than the time."""
    try:
        tensor = data if isinstance(data, Tensor) else torch.as_tensor(np.asarray(data))
        tensor = tensor.to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise ValueError(f"Expected {name} to be an array of numbers; got {reason}.") from reason
    if not torch.isfinite(tensor).all():
        raise ValueError(
            f"Expected {name} to be finite; got {int((~torch.isfinite(tensor)).sum())} values that "
            "are NaN or infinite. Leave such rows out."
        )
    return tensor


def posterior_from_draws(
    problem: Problem, density: ProgramDensity, draws: Draws, method: str
) -> Posterior:
    """Puts what a sampler returned into the latents' own units and into a `Posterior`."""
    many = bool(problem.batch_shape)

    def shaped(per_dataset: Tensor) -> Tensor:
        """``(batch, n, ...)`` to ``(n, *batch_shape, ...)``."""
        moved = per_dataset.movedim(1, 0)
        return moved if many else moved[:, 0]

    latents = {name: shaped(value) for name, value in density.constrain(draws.u).items()}
    log_weights = None if draws.log_weights is None else shaped(draws.log_weights)
    diagnostics = {
        name: _plain(value) if isinstance(value, Tensor) and not many else value
        for name, value in draws.diagnostics.items()
    }
    evidence = draws.log_evidence
    log_prob = None
    if evidence is not None:
        log_prob = _LogProb(density, evidence, many)
        evidence = evidence if many else evidence[0]
    return Posterior(
        latents,
        log_weights=log_weights,
        n_chains=draws.n_chains,
        log_evidence=evidence,
        log_prob=log_prob,
        predictive=_Predictive(problem, latents, log_weights),
        diagnostics={"method": method, **diagnostics},
        batch_shape=problem.batch_shape,
    )


def _plain(value: Tensor) -> Any:
    return value[0].item() if value.ndim == 1 else value[0]


@dataclass(frozen=True)
class _LogProb:
    """Normalised log density of latents ``(n, *batch, *event)``; a class, so that it pickles."""

    density: ProgramDensity
    evidence: Tensor
    many: bool

    def __call__(self, latents: Mapping[str, Tensor]) -> Tensor:
        density = self.density
        ours = {
            name: (value if self.many else value.unsqueeze(1)).to(density.y.dtype).movedim(0, 1)
            for name, value in latents.items()
        }
        u = density.unconstrain(ours)
        result = density.log_density(u) - density.log_jacobian(u) - self.evidence[:, None]
        return result.T if self.many else result[0]


@dataclass(frozen=True)
class _Predictive:
    """Makes the predictive of a program's new rows from draws of its latents."""

    problem: Problem
    latents: Mapping[str, Tensor]
    log_weights: Tensor | None

    def __call__(self, x: Tensor) -> Distribution:
        problem, x = self.problem, _tensor(x, "x")
        many = bool(problem.batch_shape)
        wanted = (*problem.batch_shape, "m", problem.x.shape[-1])
        if x.ndim != len(wanted) or x.shape[-1] != wanted[-1] or (many and x.shape[0] != wanted[0]):
            raise ValueError(f"Expected x of shape {wanted}; got {tuple(x.shape)}.")
        n = len(next(iter(self.latents.values())))
        weights = torch.zeros(n, len(problem.x), dtype=x.dtype)
        if self.log_weights is not None:
            weights = self.log_weights.reshape(n, -1)
        mixture = ProgramPredictive(
            problem.program,
            {name: v if many else v.unsqueeze(1) for name, v in self.latents.items()},
            weights - weights.logsumexp(0),
            x if many else x.unsqueeze(0),
            problem.x,
            problem.y,
        )
        return mixture if many else OneOfBatch(mixture)


@dataclass(frozen=True)
class _Exact:
    """The density and the predictive of a closed form, for one dataset or many."""

    answer: Any
    many: bool

    def log_prob(self, latents: Mapping[str, Tensor]) -> Tensor:
        if self.many:
            return self.answer.log_prob(latents)
        return self.answer.log_prob({k: v.unsqueeze(1) for k, v in latents.items()})[:, 0]

    def predictive(self, x: Tensor) -> Distribution:
        x = _tensor(x, "x")
        if self.many:
            return self.answer.predictive(x)
        return OneOfBatch(self.answer.predictive(x.unsqueeze(0)))


def _exact(problem: Problem, n_draws: int) -> Posterior:
    """The closed form, declared by the prior or found in the density."""
    many = bool(problem.batch_shape)
    if hasattr(problem.model, "posterior"):
        answer, family = problem.model.posterior(problem.x, problem.y), "declared by the prior"
    else:
        answer = exact(problem.density())
        family = answer.family
    latents = answer.sample(n_draws)
    latents = latents if many else {name: value[:, 0] for name, value in latents.items()}
    closed = _Exact(answer, many)
    has_predictive = hasattr(answer, "predictive")
    predictive = closed.predictive if has_predictive else _Predictive(problem, latents, None)
    return Posterior(
        latents,
        log_evidence=answer.log_evidence if many else answer.log_evidence[0],
        log_prob=closed.log_prob,
        predictive=predictive,
        diagnostics={"method": "exact", "family": family},
        batch_shape=problem.batch_shape,
    )


def _by(sampler: Callable[..., Draws], name: str) -> Callable[..., Posterior]:
    def method(problem: Problem, n_draws: int, **options: Any) -> Posterior:
        density = problem.density()
        if "start" in options:
            options["start"] = _start(options["start"], density, problem)
        return posterior_from_draws(problem, density, sampler(density, n_draws, **options), name)

    return method


def _start(start: Any, density: ProgramDensity, problem: Problem) -> Any:
    """What the user gives as a start, as a density over u for each dataset."""
    if isinstance(start, Posterior):
        if start.batch_shape != problem.batch_shape:
            raise ValueError(
                f"Expected a start for datasets of shape {tuple(problem.batch_shape)}; got a "
                f"posterior of {tuple(start.batch_shape)}."
            )
        many = bool(problem.batch_shape)
        draws = {
            name: (value if many else value.unsqueeze(1)).movedim(0, 1).to(density.y.dtype)
            for name, value in start.sample(start.n_draws, seed=0).items()
        }
        return normal_of_draws(density.unconstrain(draws))
    if not isinstance(start, Distribution):
        return start
    if not start.batch_shape and start.event_shape:
        start = start.expand([density.n_datasets])
    if (start.batch_shape, start.event_shape) != ((density.n_datasets,), (density.dim,)):
        raise ValueError(
            f"Expected a start over u with batch shape ({density.n_datasets},) and event shape "
            f"({density.dim},); got {tuple(start.batch_shape)} and {tuple(start.event_shape)}."
        )
    return FromDistribution(start)


def _auto(problem: Problem, n_draws: int, **options: Any) -> Posterior:
    """The exact answer where there is one, otherwise the default sampler."""
    try:
        return _exact(problem, n_draws)
    except ValueError:  # no closed form; a program that is wrong is wrong again below
        return METHODS["smc"](problem, n_draws, **options)


METHODS: dict[str, Callable[..., Posterior]] = {
    "exact": _exact,
    "nuts": _by(nuts, "nuts"),
    "smc": _by(smc, "smc"),
    "hmc": _by(hmc, "hmc"),
    "laplace": _by(laplace, "laplace"),
    "importance": _by(importance, "importance"),
    "vi": _by(vi, "vi"),
}
"""Every method by its name; each takes a problem, a number of draws and its own options."""
