"""The predictive of several programs, averaged with their posterior probabilities."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints

from amortized.arrays import as_values


class AveragedPredictive(Distribution):
    """Predictive of each new row, averaged over programs.

    Args:
        parts: predictive of each program, of equal batch shape ``(*batch, m)``.
        log_weights: log probabilities of the programs, ``(*batch, n_models)``.

    Draws of one sample share one program over the rows of a dataset.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self, parts: Sequence[Distribution], log_weights: Float[Tensor, "*batch n_models"]
    ) -> None:
        self.parts, self.log_weights = list(parts), log_weights
        super().__init__(parts[0].batch_shape, validate_args=False)

    def _average(self, values: Sequence[Tensor]) -> Tensor:
        weights = self.log_weights.exp().unsqueeze(-2).to(values[0])
        return (torch.stack(list(values), -1) * weights).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log of the mixture's density or probability."""
        each = torch.stack([part.log_prob(value) for part in self.parts], -1)
        return (each + self.log_weights.unsqueeze(-2)).logsumexp(-1).to(each)

    @property
    def mean(self) -> Float[Tensor, "*batch m"]:
        """Mean of the mixture."""
        return self._average([part.mean for part in self.parts])

    @property
    def variance(self) -> Float[Tensor, "*batch m"]:
        """Variance of the mixture: the mean variance and the variance of the means."""
        centre = self.mean
        return self._average([p.variance + (p.mean - centre).square() for p in self.parts])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch, m)``."""
        shape = torch.Size(sample_shape)
        chosen = torch.distributions.Categorical(logits=self.log_weights).sample(shape)
        draws = torch.stack([part.sample(shape) for part in self.parts], -1)
        index = chosen[..., None, None].expand(*draws.shape[:-1], 1)
        return draws.gather(-1, index).squeeze(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """Distribution function."""
        return self._average([part.cdf(value) for part in self.parts])

    def icdf(self, value: Tensor) -> Tensor:
        """Quantiles, by bisection between those of the programs."""
        value = as_values(value, "value").expand(
            torch.broadcast_shapes(torch.as_tensor(value).shape, self.batch_shape)
        )
        each = torch.stack([part.icdf(value) for part in self.parts])
        low, high = each.amin(0), each.amax(0)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cdf(middle) < value
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high
