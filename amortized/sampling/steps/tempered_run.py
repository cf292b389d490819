r"""One run of tempered sequential Monte Carlo, for all datasets of a batch at once.

Each dataset has its own adaptive temperature schedule. The next temperature reduces the effective
sample size to a given share of the particles with positive weight and is found by bisection. The
particles are weighted,

.. math:: \log Z \mathrel{+}= \log \frac{1}{N} \sum_i \exp[(\beta' - \beta) \, g(u_i)],

resampled, and moved by Hamiltonian steps at the *new* temperature until they are nearly
uncorrelated with their positions at the start of the stage. A dataset that has reached temperature
1 leaves the batch, because the slowest datasets need many more stages than the others.

The particles form islands with common temperature, step size and mass matrix. Islands are resampled
separately until the last stage, so that each gives its own estimate of the evidence; in the last
stage they are weighted by these estimates. Every particle keeps the label of its first ancestor.
Descendants of one ancestor are dependent and those of different ancestors nearly independent, so
sums over families give standard errors of means and of the evidence.

References:
    Del Moral, Doucet and Jasra, Sequential Monte Carlo samplers (2006).
    Buchholz, Chopin and Jacob (2021), arXiv 1808.07730.
    Lee and Whiteley, Variance estimation in the particle filter (2018), arXiv 1509.00394.
    Verge, Dubarry, Del Moral and Moulines, On parallel implementation of Sequential Monte Carlo
    methods: the island particle model (2015).
"""

import math
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._pytree import tree_map

from amortized.progress import with_progress
from amortized.sampling.steps.hamiltonian import (
    Tuning,
    crossed_factors,
    hamiltonian_move,
    initial_tuning,
    with_factor,
)
from amortized.sampling.steps.resampling import systematic_resample
from amortized.sampling.steps.tempering import Path, Point

MAX_STAGES = 200
_LOOK_AHEAD = 20  # stages between forecasts of the total number of stages
_HOPELESS = 1.5  # a run is stopped if the forecast exceeds the limit by this factor
_SHORTEST = 5  # a run is stopped after this many steps of the shortest length
_COLDEST = 1e-13  # the shortest temperature step

_T = TypeVar("_T")


class Limits(NamedTuple):
    """Criteria for the end of a stage.

    Attributes:
        ess_target: effective sample size at the end of a stage, as a share of the particles.
        decorrelate: a stage's moves end when the correlation of the particles with their start
            falls below this.
        max_sweeps: largest number of moves in the last stage; earlier stages make a third of them.
    """

    ess_target: float
    decorrelate: float
    max_sweeps: int


class State(NamedTuple):
    """The state of every dataset; the batch is the first dimension of every tensor.

    Attributes:
        point: the particles, one island after another.
        beta: current temperature, ``(batch,)``.
        log_evidence: log evidence of the data tempered by beta, as estimated by each island,
            ``(batch, islands)``.
        family: first ancestor of each particle, ``(batch, n)``.
        influence: influence of each first ancestor's descendants on the log evidence of its island,
            ``(batch, n)``.
        tuning: tuning of the moves.
        n_stages: number of completed stages, ``(batch,)``.
        start_ess: relative effective sample size of the start under full weights, ``(batch,)``.
        correlation: the largest correlation of a feature with itself before the last stage's moves.
    """

    point: Point
    beta: Tensor
    log_evidence: Tensor
    family: Tensor
    influence: Tensor
    tuning: Tuning
    n_stages: Tensor
    start_ess: Tensor
    correlation: Tensor

    @property
    def evidence(self) -> Float[Tensor, " batch"]:
        """Log evidence over all islands: the log of the islands' mean evidence."""
        return self.log_evidence.logsumexp(-1) - math.log(self.log_evidence.shape[-1])

    @property
    def evidence_error(self) -> Float[Tensor, " batch"]:
        """Standard error of the log evidence: by families or by islands, whichever is larger."""
        n_islands = self.log_evidence.shape[-1]
        shares = torch.softmax(self.log_evidence, -1)
        of_family = shares.repeat_interleave(self.influence.shape[-1] // n_islands, -1)
        by_families = (of_family * self.influence).square().sum(-1)
        if n_islands < 2:
            return by_families.sqrt()
        apart = (shares - 1 / n_islands).square().sum(-1)
        by_islands = apart * n_islands / (n_islands - 1)
        return torch.maximum(by_families, by_islands).sqrt()


def take(state: _T, index: Tensor) -> _T:
    """The state of the chosen datasets."""
    return tree_map(lambda value: value[index], state)


def put(state: _T, index: Tensor, part: _T) -> _T:
    """The state with the chosen datasets replaced."""
    return tree_map(lambda value, new: value.index_copy(0, index, new), state, part)


def start_ess(gain: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
    """Relative effective sample size of the start's particles under the posterior."""
    return torch.softmax(gain, -1).square().sum(-1).reciprocal() / gain.shape[-1]


def run(path: Path, n_particles: int, n_islands: int, limits: Limits) -> State:
    """Moves particles of every dataset along the path from its start to its posterior.

    Returns:
        the final state. ``beta`` is below 1 for a dataset that would need far more than
        `MAX_STAGES` stages: its likelihood is extremely narrow relative to the start.

    Raises:
        ValueError: if no particle of a dataset has a positive density.
    """
    state = _initial_state(path, n_particles, n_islands)
    active, before = torch.arange(path.density.n_datasets), state.beta
    # A generator has no length for the bar to show: most runs end after a few stages.
    for stage in with_progress((i + 1 for i in range(MAX_STAGES)), "SMC", "stage"):
        part = _stage(path.take(active), take(state, active), limits)
        state = put(state, active, part)
        active = active[part.beta < 1]
        if stage == _SHORTEST:  # even the shortest steps were too long
            active = active[state.beta[active] > 2 * _SHORTEST * _COLDEST]
        if stage % _LOOK_AHEAD == 0:
            active = active[~_hopeless(state.beta[active], before[active], stage)]
            before = state.beta
        if not len(active):
            break
    return state


def _hopeless(beta: Tensor, before: Tensor, stage: int) -> Bool[Tensor, " batch"]:
    """Datasets that would need far more stages than allowed, at the rate of the last stages.

    The forecast uses that temperatures usually grow by a nearly constant factor per stage.
    """
    growth = (beta / before.clamp(min=_COLDEST)).log() / _LOOK_AHEAD
    return stage - beta.log() / growth.clamp(min=1e-12) > _HOPELESS * MAX_STAGES


def _initial_state(path: Path, n_particles: int, n_islands: int) -> State:
    n_datasets, dim = path.density.n_datasets, path.density.dim
    zero = torch.zeros(n_datasets, dtype=torch.float64)
    u = path.sample_start(n_particles, n_islands)
    gain = path.log_weights(u)
    lost = (gain == -torch.inf).all(-1)
    if lost.any():
        raise ValueError(
            f"Expected a density that is finite somewhere; got none at {n_particles} particles, in "
            f"dataset {int(lost.nonzero()[0])} first. The observations may be impossible under "
            "the program."
        )
    factor = torch.eye(dim, dtype=zero.dtype).expand(n_datasets, 2, dim, dim)
    unknown = torch.full_like(gain, torch.nan)  # the first stage asks for the weights alone
    return State(
        Point(u, unknown, gain, torch.full_like(u, torch.nan)),
        zero,
        zero.new_zeros(n_datasets, n_islands),
        torch.arange(n_particles).expand(n_datasets, -1),
        zero.new_zeros(n_datasets, n_particles),
        initial_tuning(factor),
        zero.long(),
        start_ess(gain),
        zero,
    )


def _stage(path: Path, state: State, limits: Limits) -> State:
    """Raises the temperature, reweights, resamples and moves."""
    point, n_islands = state.point, state.log_evidence.shape[-1]
    beta = next_temperature(point.gain, state.beta, limits.ess_target)
    log_weights = (beta - state.beta).unsqueeze(-1) * point.gain
    of_islands = log_weights.unflatten(1, (n_islands, -1))
    size = of_islands.shape[-1]
    log_mean = of_islands.logsumexp(-1) - math.log(size)
    log_evidence = state.log_evidence + log_mean
    relative = (of_islands - log_mean.unsqueeze(-1)).exp().nan_to_num(1.0).flatten(1)
    influence = state.influence.scatter_add(1, state.family, (relative - 1) / size)
    tuning = with_factor(state.tuning, crossed_factors(point.u, relative))
    chosen = _resample(relative, torch.softmax(log_evidence, -1), beta == 1)
    u = point.u.gather(1, chosen.unsqueeze(-1).expand_as(point.u))
    family = state.family.gather(1, chosen)
    point, tuning, correlation = _move(path, path.at(u, beta), beta, tuning, limits)
    return State(
        point,
        beta,
        log_evidence,
        family,
        influence,
        tuning,
        state.n_stages + 1,
        state.start_ess,
        correlation,
    )


def _resample(
    relative: Float[Tensor, "batch n"],
    shares: Float[Tensor, "batch islands"],
    together: Bool[Tensor, " batch"],
) -> Tensor:
    """Ancestors within each island; when islands are joined, among all particles by weight."""
    batch, n_islands = shares.shape
    of_islands = relative.unflatten(1, (n_islands, -1))
    size = of_islands.shape[-1]
    apart = systematic_resample(of_islands.flatten(0, 1), _uniforms(batch * n_islands))
    offset = size * torch.arange(n_islands).unsqueeze(-1)
    chosen = (apart.unflatten(0, (batch, n_islands)) + offset).flatten(1)
    if not together.any():
        return chosen
    pooled = systematic_resample((of_islands * shares.unsqueeze(-1)).flatten(1), _uniforms(batch))
    return torch.where(together.unsqueeze(-1), pooled, chosen)


def _uniforms(n: int) -> Tensor:
    return 1 - torch.rand(n, 1, dtype=torch.float64)


def next_temperature(
    gain: Float[Tensor, "batch n"], beta: Float[Tensor, " batch"], ess_target: float
) -> Float[Tensor, " batch"]:
    """The highest temperature up to 1 at which the ESS is still on target, by bisection.

    The target is a share of the particles with positive likelihood; otherwise no step would be
    short enough if more than half of the particles had likelihood 0.
    """
    target = ess_target * (gain > -torch.inf).sum(-1)
    shifted = gain - gain.max(-1, keepdim=True).values
    longest = 1 - beta

    def ess(step: Tensor) -> Tensor:
        weights = (step.unsqueeze(-1) * shifted).exp()
        return weights.sum(-1).square() / weights.square().sum(-1)

    low, high = torch.full_like(beta, math.log(_COLDEST)), longest.clamp(min=_COLDEST).log()
    for _ in range(30):  # on the log scale, because steps of 1e-8 occur
        middle = (low + high) / 2
        enough = ess(middle.exp()) >= target
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(ess(longest) >= target, 1.0, (beta + low.exp()).clamp(max=1.0))


def _move(
    path: Path, point: Point, beta: Tensor, tuning: Tuning, limits: Limits
) -> tuple[Point, Tuning, Tensor]:
    """Moves each dataset's particles until they are nearly uncorrelated with their start.

    Before the last stage a third of the moves is enough: later stages make up for the rest.
    """
    centre = point.u.median(1, keepdim=True).values
    origin = _features(point, centre)
    correlation = torch.ones_like(beta)
    pending = torch.arange(len(beta))
    for sweep in range(limits.max_sweeps):
        here, tuned = hamiltonian_move(
            path.take(pending), take(point, pending), beta[pending], take(tuning, pending)
        )
        point, tuning = put(point, pending, here), put(tuning, pending, tuned)
        now = (origin[pending] * _features(here, centre[pending])).mean(1).abs().amax(-1)
        correlation = correlation.index_copy(0, pending, now)
        may_go_on = (beta[pending] == 1) | (sweep + 1 < limits.max_sweeps / 3)
        pending = pending[(now > limits.decorrelate) & may_go_on]
        if not len(pending):
            break
    return point, tuning, correlation


def _features(point: Point, centre: Tensor) -> Float[Tensor, "batch n features"]:
    """Standardised coordinates, their distances to the centre, and the gain.

    The distances reveal a spread that has not converged when the coordinates do not; the gain
    determines the evidence.
    """
    spread = (point.u - centre).abs()
    features = torch.cat([point.u, spread, point.gain.unsqueeze(-1)], -1)
    features = features.nan_to_num(0.0, 0.0, 0.0)  # the gain may be -inf
    centred = features - features.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp(min=1e-30)
