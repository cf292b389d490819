"""The distribution of a row with its own discrete latents summed out: a finite mixture."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution, constraints

from amortized.program.support import cdf, log_prob
from amortized.program.vectorised import draw, draw_index


class RowMixture(Distribution):
    """A mixture whose components lie along all batch dimensions except the last, the rows.

    Args:
        logits: unnormalised log probabilities of the components, ``(*components, rows)``.
        components: component distributions with the same batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real

    def __init__(self, logits: Tensor, components: Any) -> None:
        self._n = logits.ndim - 1
        shares = logits.flatten(0, -2).log_softmax(0)
        self.log_shares, self.components = shares.reshape(logits.shape), components
        super().__init__(logits.shape[-1:], validate_args=False)

    def _spread(self, value: Tensor) -> Tensor:
        return value.reshape(*value.shape[:-1], *(1 for _ in range(self._n)), value.shape[-1])

    def _average(self, values: Tensor) -> Tensor:
        return (values * self.log_shares.exp()).flatten(-self._n - 1, -2).sum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        each = log_prob(self.components, self._spread(value)) + self.log_shares
        return each.flatten(-self._n - 1, -2).logsumexp(-2)

    @property
    def mean(self) -> Tensor:
        return self._average(self.components.mean)

    @property
    def variance(self) -> Tensor:
        spread = self.components.mean - self.mean
        return self._average(self.components.variance + spread.square())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        each = draw(self.components, sample_shape).flatten(-self._n - 1, -2)
        chosen = draw_index(self.log_shares.flatten(0, -2).expand(each.shape), -2)
        return each.gather(-2, chosen.unsqueeze(-2)).squeeze(-2)

    def cdf(self, value: Tensor) -> Tensor:
        return self._average(cdf(self.components, self._spread(value)))


class EnumerateRows(Messenger):
    """Sets discrete latents of rows to all of their values, each along a separate dimension.

    Args:
        names: names of the latents.
        first_dim: the first unused dimension, from the right.
    """

    def __init__(self, names: frozenset[str], first_dim: int) -> None:
        super().__init__()
        self._names, self._next = names, first_dim
        self._log_probs: list[Tensor] = []

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] not in self._names:
            return
        fn = message["fn"]
        values = fn.enumerate_support(expand=False)
        ones = (1 for _ in range(-self._next - 1))
        values = message["value"] = values.reshape(len(values), *ones, *fn.event_shape)
        self._next -= 1
        self._log_probs.append(fn.log_prob(values))

    def summed_out(self, fn: Any, n_rows: int) -> Any:
        """The distribution of the rows, given one that depends on the enumerated values."""
        if not self._log_probs:
            return fn
        shapes = [each.shape for each in self._log_probs]
        shape = torch.broadcast_shapes(*shapes, fn.batch_shape, (n_rows,))
        logits = sum(each.expand(shape) for each in self._log_probs) + torch.zeros(shape)
        return RowMixture(logits, fn.expand(shape))
