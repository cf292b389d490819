r"""A lookahead learnt by regression: the expected product of the potentials still to come.

.. math:: \psi_t(x_{1:t}) = E[G_{t+1} \, \psi_{t+1}(x_{1:t+1}) \mid x_{1:t}], \qquad \psi_T = 1

From the last step to the first, sequences that a run has visited are extended by the generator
once, and :math:`G_{t+1} \psi_{t+1}` is regressed on features of the state. Further rounds visit
the sequences of runs with the lookahead so far. A poor fit costs precision but no bias.

References:
    Guarniero, Johansen and Lee, The iterated auxiliary particle filter (2017), arXiv 1511.06286.
    Heng, Bishop, Deligiannidis and Doucet, Controlled sequential Monte Carlo (2020),
    arXiv 1708.08396.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor

from amortized.generators.generator import Generator, Potential, State, checked
from amortized.generators.sequences import Particles, _first, choose, chosen_particles, weighted
from amortized.validation import generator_from, whole_number

__all__ = ["Lookahead", "learn_lookahead"]

Features = Callable[[State, int], Tensor]
_FLOOR = 1e-3  # smallest value of psi, as a share of the largest seen


class Lookahead:
    """A learnt lookahead, called as ``lookahead(state, t) -> (n,)``, the logarithm of psi.

    Attributes:
        models: models of each step but the last, with the scale of what they predict; None where
            the later potentials were the same for all.
    """

    def __init__(self, features: Features, n_steps: int) -> None:
        self._features = features
        self.models: list[tuple[Any, float] | None] = [None] * (n_steps - 1)

    def __call__(self, state: State, t: int) -> Tensor:
        x = _matrix(self._features(state, t))
        fitted = self.models[t] if t < len(self.models) else None
        if fitted is None:
            return torch.zeros(len(x), dtype=torch.float64)
        share = np.clip(fitted[0].predict(x), _FLOOR, None)
        return torch.from_numpy(np.log(share)).double() + fitted[1]


def _matrix(features: Tensor) -> NDArray[Any]:
    return features.double().reshape(len(features), -1).numpy()


@torch.no_grad()
def learn_lookahead(
    generator: Generator,
    potential: Potential,
    features: Features,
    *,
    n_sequences: int = 2000,
    n_rounds: int = 2,
    seed: int = 0,
) -> Lookahead:
    """Learns what to look ahead to, for `sample_sequences`.

    Where the potentials of all visited sequences are equal, all impossible for example, nothing can
    be learned, and the lookahead is 0.

    Args:
        generator: draws sequences step by step.
        potential: as for `sample_sequences`.
        features: ``features(state, t) -> (n, k)``, numbers of the state after step t from which
            the later potentials can be told.
        n_sequences: sequences that are visited in each round.
        n_rounds: rounds; the first visits those of a run without a lookahead.
        seed: equal seeds give equal results.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> class Walk(Generator):  # that must end above 3
        ...     n_steps = 6
        ...     def start(self, n, generator):
        ...         return torch.randn(n, 1, generator=generator, dtype=torch.float64)
        ...     def extend(self, state, t, generator):
        ...         return state + self.start(len(state), generator)
        >>> def high(state, t):
        ...     return torch.where((t < 5) | (state[:, 0] > 3), 0.0, -torch.inf)
        >>> lookahead = learn_lookahead(Walk(), high, lambda state, t: state)
        >>> low, near = lookahead(torch.tensor([[-2.0], [3.0]]), 3)
        >>> bool(low < near)
        True
    """
    n_sequences = whole_number("n_sequences", n_sequences, 100)
    n_rounds = whole_number("n_rounds", n_rounds, 1)
    source = generator_from(seed)
    found: Lookahead | None = None
    for _ in range(n_rounds):
        visited = _visited(generator, potential, found, n_sequences, source)
        found = Lookahead(features, generator.n_steps)
        for t in range(generator.n_steps - 2, -1, -1):
            after = generator.extend(visited[t], t + 1, source)
            target = checked(potential(after, t + 1), n_sequences)
            if t + 1 < generator.n_steps - 1:
                target = target + found(after, t + 1)
            found.models[t] = _fitted(_matrix(features(visited[t], t)), target.numpy())
    assert found is not None
    return found


def _visited(
    generator: Generator,
    potential: Potential,
    lookahead: Potential | None,
    n: int,
    source: torch.Generator,
) -> list[State]:
    """The states of one run after each step but the last, resampled where weights are uneven."""
    particles: Particles = _first(generator.start(n, source), (1, n))
    visited = [particles.state]
    for t in range(generator.n_steps - 2):
        particles = weighted(particles, potential, lookahead, t)
        particles = chosen_particles(particles, choose(particles, 0.5, source), 0.5)
        particles = particles._replace(state=generator.extend(particles.state, t + 1, source))
        visited.append(particles.state)
    return visited


def _fitted(x: NDArray[Any], log_target: NDArray[Any]) -> tuple[Any, float] | None:
    """A regression of the target, with the log of its scale; None if there is nothing to learn."""
    top = float(log_target.max())
    if top == -np.inf or float(log_target.min()) == top:
        return None
    model = HistGradientBoostingRegressor(loss="poisson", max_iter=60, random_state=0)
    return model.fit(x, np.exp(log_target - top)), top
