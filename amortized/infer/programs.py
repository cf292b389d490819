"""The methods of `infer` for programs: converts results of samplers to a `Posterior`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortized.arrays import as_tensor, as_values
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer.discrete import DiscreteMarginals, all_values, averaged_probabilities
from amortized.infer.inputs.groups import ProgramGroups, named_program
from amortized.infer.inputs.problem import Data, Problem
from amortized.posterior.posterior import Latents, Posterior
from amortized.predictive import OneOfBatch, ProgramPredictive
from amortized.program.density import ProgramDensity
from amortized.program.discrete.stored_factors import StoredFactors
from amortized.program.observations.possible import check_possible
from amortized.program.rounding import warn_of_rounding
from amortized.sampling.checks.unbounded import warn_of_unbounded
from amortized.sampling.checks.verdict import judged
from amortized.sampling.draws import Draws, first_draws
from amortized.sampling.exact.closed_form import exact
from amortized.sampling.exact.proof import proved_evidence
from amortized.sampling.start import FromMixture, Start, normal_of_draws

Check = Callable[[ProgramDensity, Draws], Draws]

_NotPositiveDefinite = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def posterior_from_draws(
    problem: Problem,
    density: ProgramDensity,
    draws: Draws,
    method: str,
    mixture: GaussianMixture | None = None,
    flow: Start | None = None,
) -> Posterior:
    """Converts a sampler's draws to the latents' own units and to a `Posterior`.

    A mixture over u, or another normalised density, if given, is the answer itself, and the draws
    are from it.
    """
    many = bool(problem.batch_shape)

    def shaped(per_dataset: Tensor) -> Tensor:
        """``(batch, n, ...)`` to ``(n, *batch_shape, ...)``."""
        moved = per_dataset.movedim(1, 0)
        return moved if many else moved[:, 0]

    values, functions = all_values(density, draws.u)
    latents = {name: shaped(value) for name, value in values.items()}
    deterministic = {name: shaped(value) for name, value in functions.items()}
    log_weights = None if draws.log_weights is None else shaped(draws.log_weights)
    diagnostics = {
        name: value if many else _plain(value) for name, value in draws.diagnostics.items()
    }
    cluster = None if draws.cluster is None else shaped(draws.cluster)
    evidence, error = draws.log_evidence, draws.log_evidence_error
    error = error if many or error is None else error[0]
    log_prob: Callable[[Latents], Tensor] | None = None
    if mixture is not None:
        log_prob = LogProb(density, many, mixture)
        mixture = mixture if many else mixture[0]
    if flow is not None:
        log_prob = LogProb(density, many, flow)
    if evidence is not None:
        log_prob = LogProb(density, many, evidence)
        evidence = evidence if many else evidence[0]
    if problem.improper:
        evidence = error = None
        warn_of_unbounded(density, draws.u)
    if evidence is not None:
        warn_of_rounding(density.priors, density.supports)
    return Posterior(
        latents | deterministic,
        log_weights=log_weights,
        n_chains=draws.n_chains,
        cluster=cluster,
        log_evidence=evidence,
        log_evidence_error=error,
        log_prob=log_prob,
        mixture=mixture,
        predictive=_Predictive(problem, latents, log_weights, _of_rows(density)),
        discrete=_marginals(density, many, draws.u, draws.log_weights),
        groups=ProgramGroups(problem, density),
        diagnostics={"method": method, **diagnostics},
        batch_shape=problem.batch_shape,
    )


def _marginals(
    density: ProgramDensity, many: bool, u: Tensor, log_weights: Tensor | None = None
) -> DiscreteMarginals | None:
    if density.discrete is None:
        return None
    compute = partial(averaged_probabilities, density, u, log_weights)
    return DiscreteMarginals(density.discrete.names, many, compute)


def _of_rows(density: ProgramDensity) -> frozenset[str]:
    return density.discrete.of_rows if density.discrete else frozenset()


def _plain(value: Any) -> Any:
    """The value of a diagnostic for the only dataset."""
    if isinstance(value, Tensor):
        return value[0].item() if value.ndim == 1 else value[0]
    return value[0] if isinstance(value, list) else value


@dataclass(frozen=True)
class LogProb:
    """Normalised log density of latents in their own units, -inf outside their support.

    A class, so that it can be pickled.

    Args:
        density: density of the program.
        many: whether latents have a batch dimension.
        answer: a mixture over u or another normalised density, or the log evidence, ``(batch,)``,
            which normalises the program's.
    """

    density: ProgramDensity
    many: bool
    answer: GaussianMixture | Start | Tensor

    def __call__(self, latents: Latents) -> Tensor:
        """Log density of ``{name: (*sample, *batch, *event)}``, of shape ``(*sample, *batch)``.

        It is the joint density of the latents that are given; discrete ones that are not are summed
        out. Values of deterministic sites, which follow from the latents, are not read.
        """
        ours, shape = self._by_dataset(latents)
        discrete = {name: ours.pop(name) for name in set(ours) - set(self.density.layout)}
        u, inside = self.density.unconstrain_and_check(ours)
        if isinstance(self.answer, GaussianMixture):
            log_prob = FromMixture(self.answer).log_prob(u)
        elif isinstance(self.answer, Tensor):
            log_prob = self.density.log_density(u) - self.answer[:, None]
        else:
            log_prob = self.answer.log_prob(u)
        log_prob = log_prob - self.density.log_jacobian(u)
        if discrete:
            log_prob = log_prob + self.density.log_probability_of(discrete, u)
        return torch.where(inside, log_prob, -torch.inf).T.reshape(shape)

    def _shapes(self) -> dict[str, torch.Size]:
        """The shape of one value of each latent."""
        shapes = {name: fn.shape() for name, fn in self.density.priors.items()}
        if self.density.discrete is None:
            return shapes
        values = self.density.discrete.values
        return shapes | {
            name: torch.Size([*shape, *values[name].shape[1:]])
            for name, shape in self.density.discrete.shapes.items()
        }

    def _by_dataset(self, latents: Latents) -> tuple[dict[str, Tensor], torch.Size]:
        """Latents as ``{name: (batch, n, *event)}``, and the shape of the result."""
        batch, of_all = self.density.n_datasets, self._shapes()
        unknown = set(latents) - set(of_all) - set(self.density.deterministic)
        if unknown:
            raise ValueError(
                f"Expected values of the latents {sorted(of_all)}; got {sorted(unknown)}, which "
                "the program does not draw."
            )
        values: dict[str, Tensor] = {}
        leads: list[torch.Size] = []
        for name, event in of_all.items():
            if name not in latents:
                continue  # the density reports missing latents
            value = as_values(latents[name], f"latent {name!r}").to(self.density.y)
            lead = value.shape[: max(value.ndim - len(event), 0)]
            wanted = f"(..., {batch}, *{tuple(event)})" if self.many else f"(..., *{tuple(event)})"
            if value.shape[len(lead) :] != event or (self.many and lead[-1:] != (batch,)):
                raise ValueError(f"Expected '{name}' of shape {wanted}; got {tuple(value.shape)}.")
            values[name], leads = value, [*leads, lead]
        shape = torch.broadcast_shapes(*leads)
        return {
            name: value.expand(shape + of_all[name]).reshape(-1, batch, *of_all[name]).movedim(0, 1)
            for name, value in values.items()
        }, shape


@dataclass(frozen=True)
class _Predictive:
    """Computes the predictive of a program's new rows from draws of its latents."""

    problem: Problem
    latents: Mapping[str, Tensor]
    log_weights: Tensor | None
    of_rows: frozenset[str] = frozenset()

    def __call__(self, x: Data) -> Distribution:
        problem, x = self.problem, as_tensor(x, "x")
        if named_program(problem.program) is not None:
            raise ValueError(
                "Expected a program model(x, y) for a predictive at new inputs; got data by names. "
                "Draws of the observations at their own inputs are in "
                "to_inference_data().posterior_predictive."
            )
        if problem.y.ndim != 2:
            raise ValueError(
                "Expected a program of one number per row for a predictive; its rows have shape "
                f"{tuple(problem.y.shape[2:])}. Draw y from the program at draws of its latents."
            )
        many = bool(problem.batch_shape)
        wanted = (*problem.batch_shape, "m", problem.x.shape[-1])
        if x.ndim != len(wanted) or x.shape[-1] != wanted[-1] or (many and x.shape[0] != wanted[0]):
            raise ValueError(f"Expected x of shape {wanted}; got {tuple(x.shape)}.")
        n = len(next(iter(self.latents.values())))
        latents = {name: v for name, v in self.latents.items() if name not in self.of_rows}
        if not latents:  # all draws are alike
            n, latents = 1, {"": problem.y.new_zeros(1, *problem.batch_shape)}
        weights = torch.zeros(n, len(problem.x), dtype=x.dtype)
        if self.log_weights is not None:
            weights = self.log_weights.reshape(n, -1)
        mixture = ProgramPredictive(
            problem.program,
            {name: v if many else v.unsqueeze(1) for name, v in latents.items()},
            weights - weights.logsumexp(0),
            x if many else x.unsqueeze(0),
            problem.x,
            problem.y,
            self.of_rows,
        )
        return mixture if many else OneOfBatch(mixture)


@dataclass(frozen=True)
class _Declared:
    """The predictive that belongs to a closed form, for one dataset or many."""

    answer: Any
    many: bool

    def __call__(self, x: Data) -> Distribution:
        x = as_tensor(x, "x")
        if self.many:
            return self.answer.predictive(x)
        return OneOfBatch(self.answer.predictive(x.unsqueeze(0)))


def exactly(problem: Problem, n_draws: int) -> Posterior:
    """The closed form, either declared by the prior or recognised from the density."""
    many = bool(problem.batch_shape)
    if problem.latent_prior is not None:
        raise ValueError(
            "Expected a latent prior by distributions for method='exact'; got a mixture. Use "
            "'auto', 'dt' or a sampler."
        )
    density = problem.density(allow_no_latents=True)
    if density.dim == 0:
        return _without_latents(problem, density, n_draws)
    answer, family = _closed_form(problem, density)
    values = {name: value.movedim(1, 0) for name, value in answer.sample(n_draws).items()}
    functions: dict[str, Tensor] = {}
    u = None
    if density.discrete or density.deterministic:
        u = density.unconstrain(values)
        drawn, functions = all_values(density, u)
        values |= {name: value for name, value in drawn.items() if name not in values}
    latents, deterministic = _by_draw(values, many), _by_draw(functions, many)
    has_predictive = hasattr(answer, "predictive")
    evidence = answer.log_evidence
    shown = None if problem.improper else evidence if many else evidence[0]
    return Posterior(
        latents | deterministic,
        log_evidence=shown,
        log_evidence_error=None if shown is None else torch.zeros_like(shown),
        log_prob=LogProb(density, many, evidence),
        predictive=_Declared(answer, many)
        if has_predictive
        else _Predictive(problem, latents, None, _of_rows(density)),
        discrete=None if u is None else _marginals(density, many, u),
        groups=ProgramGroups(problem, density),
        diagnostics={"method": "exact", "family": family},
        batch_shape=problem.batch_shape,
    )


def _by_draw(values: Mapping[str, Tensor], many: bool) -> dict[str, Tensor]:
    """``(batch, n, ...)`` to ``(n, *batch_shape, ...)``."""
    return {name: v.movedim(1, 0) if many else v[0] for name, v in values.items()}


def _closed_form(problem: Problem, density: ProgramDensity) -> tuple[Any, str]:
    """A closed form that was checked to be the posterior, and its family."""
    try:
        if not hasattr(problem.model, "posterior"):
            answer = exact(density)
            return answer, answer.family
        answer = problem.model.posterior(problem.x, problem.y)
        evidence = proved_evidence(density, answer)
        torch.testing.assert_close(answer.log_evidence, evidence, rtol=1e-6, atol=1e-6)
        return answer, "declared by the prior"
    except (AssertionError, ValueError, _NotPositiveDefinite) as reason:
        check_possible(density)
        if isinstance(reason, ValueError) and not hasattr(problem.model, "posterior"):
            raise
        raise ValueError(
            f"Expected {type(problem.model).__name__}.posterior to be the posterior of its "
            f"program; got one that is not: {reason}. Use method='smc' or 'nuts'."
        ) from reason


def _without_latents(problem: Problem, density: ProgramDensity, n_draws: int) -> Posterior:
    """The posterior of a program without continuous latents.

    Such is Gaussian-process regression with known hyperparameters, its function integrated out; or
    a program of discrete latents only, whose joint draws are independent.
    """
    many, nowhere = bool(problem.batch_shape), density.y.new_zeros(density.n_datasets, 1, 0)
    stored = StoredFactors(density) if density.discrete else None
    evidence = stored.log_evidence() if stored else density.log_density(nowhere)[:, 0]
    if not (evidence > -torch.inf).all():
        raise ValueError(
            f"Expected data that the program can produce; got log evidence {evidence.tolist()}: "
            "they are impossible under it."
        )
    evidence = evidence if many else evidence[0]
    latents: dict[str, Tensor] = {}
    deterministic: dict[str, Tensor] = {}
    family, marginals = "no latents", None
    if density.discrete and stored:
        family = "discrete"
        marginals = DiscreteMarginals(density.discrete.names, many, stored.probabilities)
        values = stored.draws(n_draws)
        functions = density.deterministic_values(nowhere.expand(-1, n_draws, -1), values)
        latents, deterministic = _by_draw(values, many), _by_draw(functions, many)
    no_latent = {"": density.y.new_zeros(1, *problem.batch_shape)}  # one draw, of no site
    return Posterior(
        latents | deterministic,
        log_evidence=evidence,
        log_evidence_error=torch.zeros_like(evidence),
        predictive=_Predictive(problem, latents or no_latent, None, _of_rows(density)),
        discrete=marginals,
        groups=ProgramGroups(problem, density),
        diagnostics={"method": "exact", "family": family},
        batch_shape=problem.batch_shape,
    )


def by_sampler(
    sampler: Callable[..., Draws], name: str, check: Check | None = None, n_judged: int = 1
) -> Callable[..., Posterior]:
    """Makes a method of `infer` from a sampler in unconstrained space.

    Args:
        sampler: returns draws given a density, their number and its own options.
        name: name of the method.
        check: adds diagnostics that may put the draws in doubt; None if the sampler does so itself.
        n_judged: least number of draws that are checked, for a sampler whose draws are independent;
            a few alone would hide a difference in their standard errors.
    """

    def method(problem: Problem, n_draws: int, **options: Any) -> Posterior:
        density = problem.density()
        check_possible(density)
        if "start" in options:
            options["start"] = start_for(options["start"], density, problem)
        draws = sampler(density, max(n_draws, n_judged), **options)
        draws = judged(draws if check is None else check(density, draws))
        if n_draws < n_judged:
            draws = first_draws(draws, n_draws)
        return posterior_from_draws(problem, density, draws, name)

    method.__wrapped__ = sampler  # type: ignore[attr-defined]  # whose signature has the options
    return method


def start_for(start: Any, density: ProgramDensity, problem: Problem) -> Any:
    """The user's start as a density over u for each dataset."""
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
    return start.to(density.y.dtype) if isinstance(start, GaussianMixture) else start
