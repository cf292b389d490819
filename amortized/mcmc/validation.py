r"""Tests of Markov kernels and weighted samplers, with a stated chance of a false alarm.

*Invariance*: independent exact draws u from the target are moved to u'. Whatever the number of
moves, f(u') - f(u) has mean zero for every f. *Joint distribution*: the same for latents and data
together. Both are drawn from the model; then, in turn, the kernel moves the latents given the
data, and new data are drawn given the latents. A kernel that ignores the data, or targets a wrong
posterior, changes the joint distribution. *Proper weights*: over independent runs, the mean over a
run of w f(u) / Z has the mean of f over exact draws, f = 1 included.

The functions f are polynomials of ranks, and one test judges all of them
(`amortized.mcmc.mean_test`). Chains are independent, so that no autocorrelation is estimated.

References:
    Geweke, Getting it right: joint distribution tests of posterior simulators (2004).
    Gandy and Scott, Unit testing for MCMC and other Monte Carlo methods (2020), arXiv 2001.06465.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.mcmc.annealing import WeightedSampler
from amortized.mcmc.combinations import refuse_other_targets
from amortized.mcmc.joint import Joint
from amortized.mcmc.kernel import Kernel
from amortized.mcmc.mean_test import RankFeatures, means_are_zero
from amortized.validation import generator_from, number_between, whole_number

__all__ = ["Check", "Validation", "validate"]

_N_REFERENCE = 20_000  # exact draws that define ranks
_MOST_UNEVEN = 0.05  # effective share of runs below which the mean weight cannot be judged


@dataclass(frozen=True)
class Check:
    """One property of a kernel or sampler.

    Attributes:
        name: name of the property.
        passed: whether it holds, as far as can be seen; None where it cannot be judged.
        p_value: p-value of a test; None for properties that hold or not without chance.
        detail: what deviates most, or was seen.
    """

    name: str
    passed: bool | None
    p_value: float | None
    detail: str


@dataclass(frozen=True)
class Validation:
    """The outcome of `validate`.

    Attributes:
        checks: checks of each property.
        level: chance of a false alarm of all tests together.
    """

    level: float
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every property holds; False where one could not be judged."""
        return all(check.passed for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """The check of this name."""
        return next(check for check in self.checks if check.name == name)

    def __str__(self) -> str:
        words = {True: "holds", False: "FAILS", None: "unclear"}
        lines = [
            f"{check.name:<16} {words[check.passed]:<8} "
            f"{'' if check.p_value is None else f'p = {check.p_value:<9.3g}'} {check.detail}"
            for check in self.checks
        ]
        return "\n".join([*lines, f"chance of a false alarm: {self.level:g}"])


def validate(
    subject: Kernel | WeightedSampler,
    *,
    joint: Joint | None = None,
    log_evidence: float | None = None,
    n_chains: int = 2000,
    n_steps: int = 5,
    level: float = 0.01,
    seed: int = 0,
) -> Validation:
    """Tests whether a kernel keeps its target, or a sampler is properly weighted.

    Args:
        subject: a kernel, whose target must have exact draws (``Target(..., sample=...)``) if
            there is no ``joint``; or a weighted sampler, whose target must have them.
        joint: the model of latents and data for the test of the joint distribution, such as a
            `ProgramJoint`. The kernel is tried on the model's posteriors by its method ``on``.
        log_evidence: log of the integral of a sampler's target.
        n_chains: independent chains, or runs of the sampler. More find smaller faults.
        n_steps: moves of each chain; with a joint, rounds of a move and new data.
        level: chance that a right subject fails.
        seed: equal seeds give equal results.

    Raises:
        ValueError: if there is nothing to compare with, or an argument is out of range.

    Example:
        >>> import torch
        >>> from amortized.mcmc import RandomWalk, Target
        >>> def draw(n, generator):
        ...     return torch.randn(n, 1, generator=generator, dtype=torch.float64)
        >>> normal = Target(lambda u: -0.5 * u[..., 0].square(), 1, sample=draw)
        >>> validate(RandomWalk(normal, 2.0)).passed
        True
        >>> class Wrong(RandomWalk):
        ...     def step(self, state, generator):
        ...         return super().step(state, generator) + 0.1
        >>> validate(Wrong(normal, 2.0))["invariance"].passed
        False
    """
    n_chains = whole_number("n_chains", n_chains, 100)
    n_steps = whole_number("n_steps", n_steps, 1)
    level = number_between("level", level, 0, 1)
    generator = generator_from(seed)
    if isinstance(subject, WeightedSampler):
        checks = [_weights(subject, log_evidence, n_chains, level, generator)]
        return Validation(level, checks)
    known = getattr(subject.target, "sample", None) is not None
    if not known and joint is None:
        raise ValueError(
            "Expected something to compare with; got a target without exact draws and no joint. "
            "Give Target(..., sample=...) or joint=ProgramJoint(program, x)."
        )
    checks = [_composition(subject)] if subject.parts else []
    each = level / (known + (joint is not None))
    if known:
        checks += _invariance(subject, n_chains, n_steps, each, generator)
    if joint is not None:
        checks += _joint(subject, joint, n_chains, n_steps, each, generator)
    return Validation(level, checks)


def _composition(kernel: Kernel) -> Check:
    try:
        refuse_other_targets(kernel)
    except ValueError as reason:
        return Check("composition", False, None, str(reason))
    return Check("composition", True, None, f"{len(kernel.parts)} parts of one target")


def _mechanics(kernel: Kernel, state: Tensor) -> Check:
    """Whether a step depends on the state and the generator only, and moves."""

    def once() -> Tensor:
        return kernel.step(state.clone(), torch.Generator().manual_seed(1))

    before = torch.random.get_rng_state()
    first, second = once(), once()
    same_shape = first.shape == state.shape and first.dtype == state.dtype
    faults = {
        "another shape or dtype": not same_shape,
        "not finite": not bool(first.isfinite().all()),
        "other results from the same generator": not torch.equal(first, second),
        "draws from torch's global generator": not torch.equal(before, torch.get_rng_state()),
        "no point moved": same_shape and torch.equal(first, state),
    }
    found = [fault for fault, present in faults.items() if present]
    moved = float((first != state).any(-1).double().mean()) if same_shape else 0.0
    return Check("step", not found, None, "; ".join(found) or f"{moved:.0%} of the points moved")


def _test(
    name: str, features: Tensor, columns: list[str], level: float, generator: torch.Generator
) -> Check:
    result = means_are_zero(features, generator)
    detail = f"largest deviation {result.deviation:.1f} standard errors: {columns[result.column]}"
    return Check(name, result.p_value >= level, result.p_value, detail)


def _scalars(target: Any, u: Float[Tensor, "n dim"], log_density: Tensor) -> Tensor:
    return torch.cat([u.double(), log_density.double().unsqueeze(-1)], -1)


def _invariance(
    kernel: Kernel, n: int, n_steps: int, level: float, generator: torch.Generator
) -> list[Check]:
    target = kernel.target
    names = [*(f"u[{i}]" for i in range(target.dim)), "log density"]

    def scalars(u: Tensor) -> Tensor:
        return _scalars(target, u, target.log_density(u))

    features = RankFeatures(scalars(target.sample(_N_REFERENCE, generator)), names)
    start = target.sample(n, generator)
    mechanics = _mechanics(kernel, start)
    if not mechanics.passed and "no point moved" not in mechanics.detail:
        return [mechanics]
    state = start
    for _ in range(n_steps):
        state = kernel.step(state, generator)
    difference = features(scalars(state)) - features(scalars(start))
    return [mechanics, _test("invariance", difference, features.names, level, generator)]


def _joint(
    kernel: Kernel, joint: Joint, n: int, n_steps: int, level: float, generator: torch.Generator
) -> list[Check]:
    def draw(n: int) -> tuple[Tensor, Tensor]:
        u = joint.sample_latents(n, generator)
        return u, joint.sample_data(u, generator)

    def scalars(u: Tensor, data: Tensor) -> Tensor:
        density = joint.target(data).log_density(u)
        of_data = data.double().flatten(1)
        summary = (
            torch.stack([of_data.mean(-1), of_data.std(-1)], -1)
            if of_data.shape[1] > 1
            else of_data
        )
        return torch.cat([_scalars(None, u[:, 0], density[:, 0]), summary], -1)

    start, data = draw(n)
    names = [*(f"u[{i}]" for i in range(start.shape[-1])), "log density", "mean of data"]
    names += ["sd of data"] if data[0].numel() > 1 else []
    features = RankFeatures(scalars(*draw(min(_N_REFERENCE, 5 * n))), names)
    first = features(scalars(start, data))
    mechanics = _mechanics(kernel.on(joint.target(data)), start)
    if not mechanics.passed and "no point moved" not in mechanics.detail:
        return [mechanics]
    state = start
    for i in range(n_steps):
        # The last move is not followed by new data: latents and data must fit as they are.
        data = data if i == 0 else joint.sample_data(state, generator)
        state = kernel.on(joint.target(data)).step(state, generator)
    difference = features(scalars(state, data)) - first
    return [mechanics, _test("joint", difference, features.names, level, generator)]


def _weights(
    sampler: WeightedSampler,
    log_evidence: float | None,
    n_runs: int,
    level: float,
    generator: torch.Generator,
) -> Check:
    target = sampler.target
    if log_evidence is None or getattr(target, "sample", None) is None:
        raise ValueError(
            "Expected log_evidence and a target with exact draws to compare with; give "
            "validate(..., log_evidence=...) and Target(..., sample=...)."
        )
    u, log_weights = sampler.sample(n_runs, generator)
    weights = (log_weights.double() - log_evidence).exp()  # of mean 1
    names = [f"u[{i}]" for i in range(u.shape[-1])]
    features = RankFeatures(target.sample(_N_REFERENCE, generator), names)

    def of_runs(u: Tensor) -> Tensor:
        return features(u).unflatten(0, weights.shape)

    exact = of_runs(target.sample(weights.numel(), generator)).mean(1)
    means = (weights.unsqueeze(-1) * of_runs(u.flatten(0, 1))).mean(1) - exact
    evidence = weights.mean(1)
    error = float(evidence.std() / n_runs**0.5)
    bias = float(evidence.mean())
    each = torch.cat([evidence.unsqueeze(-1) - 1, means], -1)
    check = _test("proper weights", each, ["evidence", *features.names], level, generator)
    effective = float(evidence.sum().square() / evidence.square().sum() / n_runs)
    detail = f"mean of Z / exact {bias:.4f} +- {error:.4f}; {check.detail}"
    if not effective >= _MOST_UNEVEN:
        return Check(check.name, None, check.p_value, f"a few runs have all the weight; {detail}")
    return Check(check.name, check.passed, check.p_value, detail)
