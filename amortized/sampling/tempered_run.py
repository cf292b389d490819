r"""One run of tempered Sequential Monte Carlo, for all datasets of a batch at once.

For each dataset with its own schedule: the next temperature is the one that leaves the effective
sample size at half of the living particles, found by bisection; the particles are weighted,

.. math:: \log Z \mathrel{+}= \log \frac{1}{N} \sum_i \exp[(\beta' - \beta) \, g(u_i)],

resampled, and moved by Hamiltonian steps at the *new* temperature until they are nearly
uncorrelated with where they were. A dataset that has reached 1 is retired, for a batch drawn from a
prior has stragglers.

The particles form islands that share temperature, step and mass but are resampled apart until the
last stage, so that each island estimates the evidence by itself; there islands are weighted by
their evidence. Every particle keeps the name of its first ancestor. Descendants of one ancestor are
dependent, those of different ones nearly independent, so sums over families give the standard error
of any mean, and of the evidence.

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

from amortized.sampling.hamiltonian import (
    Tuning,
    crossed_factors,
    hamiltonian_move,
    initial_tuning,
)
from amortized.sampling.resampling import systematic_resample
from amortized.sampling.tempering import Path, Point

MAX_STAGES = 200
_LOOK_AHEAD = 20  # stages between estimates of how many are needed
_HOPELESS = 1.5  # times the limit, at which a run ends
_SHORTEST = 5  # steps of the shortest length after which a run ends
_COLDEST = 1e-13  # the shortest step of a temperature

_T = TypeVar("_T")


class Limits(NamedTuple):
    """When a stage ends.

    Attributes:
        ess_target: effective sample size that a stage may fall to, as a share of the particles.
        decorrelate: correlation of the particles with where the stage began that ends its moves.
        max_sweeps: most moves in the last stage; a third of them in those before.
    """

    ess_target: float
    decorrelate: float
    max_sweeps: int


class State(NamedTuple):
    """Where every dataset stands; the batch comes first in every tensor.

    Attributes:
        point: the particles, island after island.
        beta: temperature reached, ``(batch,)``.
        log_evidence: of the data tempered by beta, as each island estimates it,
            ``(batch, islands)``.
        family: first ancestor of each particle, ``(batch, n)``.
        influence: of each first ancestor's descendants on the log evidence of its island,
            ``(batch, n)``.
        tuning: of the moves.
        n_stages: stages done, ``(batch,)``.
        start_ess: share of the start's particles that their full weights are worth, ``(batch,)``.
        correlation: the largest of a feature with itself over the last stage's moves.
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
        """Log evidence from all islands, of which the evidence itself is averaged."""
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
    """The chosen datasets of a state."""
    return tree_map(lambda value: value[index], state)


def put(state: _T, index: Tensor, part: _T) -> _T:
    """A state with the chosen datasets replaced."""
    return tree_map(lambda value, new: value.index_copy(0, index, new), state, part)


def start_ess(gain: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
    """What particles of the start are worth under the posterior, as a share of their number."""
    return torch.softmax(gain, -1).square().sum(-1).reciprocal() / gain.shape[-1]


def run(path: Path, n_particles: int, n_islands: int, limits: Limits) -> State:
    """Takes particles of every dataset from the start of its path to its posterior.

    Returns:
        where they are, at ``beta`` below 1 if a dataset would need far more than `MAX_STAGES`: the
        likelihood is extremely narrow beside the start.

    Raises:
        ValueError: if no particle of a dataset has a positive density.
    """
    state = _initial_state(path, n_particles, n_islands)
    active, before = torch.arange(path.density.n_datasets), state.beta
    for stage in range(1, MAX_STAGES + 1):
        part = _stage(path.take(active), take(state, active), limits)
        state = put(state, active, part)
        active = active[part.beta < 1]
        if stage == _SHORTEST:  # all steps were the shortest, and that was too long
            active = active[state.beta[active] > 2 * _SHORTEST * _COLDEST]
        if stage % _LOOK_AHEAD == 0:
            active = active[~_hopeless(state.beta[active], before[active], stage)]
            before = state.beta
        if not len(active):
            break
    return state


def _hopeless(beta: Tensor, before: Tensor, stage: int) -> Bool[Tensor, " batch"]:
    """Which datasets at the rate of the last stages need many more stages than are allowed.

    Most often temperatures grow by a nearly constant factor a stage.
    """
    growth = (beta / before.clamp(min=_COLDEST)).log() / _LOOK_AHEAD
    return stage - beta.log() / growth.clamp(min=1e-12) > _HOPELESS * MAX_STAGES


def _initial_state(path: Path, n_particles: int, n_islands: int) -> State:
    n_datasets, dim = path.density.n_datasets, path.density.dim
    zero = torch.zeros(n_datasets, dtype=torch.float64)
    point = path.at(path.sample_start(n_particles, n_islands), zero)
    lost = (point.gain == -torch.inf).all(-1)
    if lost.any():
        raise ValueError(
            f"Expected a density that is finite somewhere; got none at {n_particles} particles, in "
            f"dataset {int(lost.nonzero()[0])} first. The observations may be impossible under "
            "the program."
        )
    factor = torch.eye(dim, dtype=zero.dtype).expand(n_datasets, 2, dim, dim)
    return State(
        point,
        zero,
        zero.new_zeros(n_datasets, n_islands),
        torch.arange(n_particles).expand(n_datasets, -1),
        zero.new_zeros(n_datasets, n_particles),
        initial_tuning(factor),
        zero.long(),
        start_ess(point.gain),
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
    tuning = state.tuning._replace(factor=crossed_factors(point.u, relative))
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
    """Ancestors within each island; where islands come together, among all by their shares."""
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
    """The highest temperature up to 1 that leaves the ESS at its target, by bisection.

    The target is a share of the particles whose likelihood is not 0: otherwise, with more than
    half of them in such a region, no step at all would be short enough.
    """
    target = ess_target * (gain > -torch.inf).sum(-1)
    shifted = gain - gain.max(-1, keepdim=True).values
    longest = 1 - beta

    def ess(step: Tensor) -> Tensor:
        weights = (step.unsqueeze(-1) * shifted).exp()
        return weights.sum(-1).square() / weights.square().sum(-1)

    low, high = torch.full_like(beta, math.log(_COLDEST)), longest.clamp(min=_COLDEST).log()
    for _ in range(30):  # in log steps, for steps of 1e-8 occur
        middle = (low + high) / 2
        enough = ess(middle.exp()) >= target
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(ess(longest) >= target, 1.0, (beta + low.exp()).clamp(max=1.0))


def _move(
    path: Path, point: Point, beta: Tensor, tuning: Tuning, limits: Limits
) -> tuple[Point, Tuning, Tensor]:
    """Moves each dataset's particles until they are nearly uncorrelated with where they were.

    On the way a third of the moves must do: later stages make good what one leaves undone.
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
    """Coordinates, their distances to the centre and the gain, of mean 0 and variance 1.

    The distances see a spread that has not settled where the coordinates do not; the gain is what
    the evidence is made of.
    """
    spread = (point.u - centre).abs()
    features = torch.cat([point.u, spread, point.gain.unsqueeze(-1)], -1)
    features = features.nan_to_num(0.0, 0.0, 0.0)  # a gain of minus infinity
    centred = features - features.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp(min=1e-30)
