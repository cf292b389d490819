r"""Neural posterior estimation: a flow over the latents given the data, under the program's prior.

Trained on pairs (u, y) drawn from prior and simulator, the maximiser of the mean of
:math:`\log q(u \mid y)` is the posterior. u are the latents in unconstrained space, so the answer
never leaves their support.

References:
    | Fast epsilon-free inference of simulation models with Bayesian conditional density estimation
    | (Papamakarios and Murray, 2016), arXiv 1605.06376
    | Automatic posterior transformation for likelihood-free inference (Greenberg et al., 2019),
    | arXiv 1905.07488
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from amortized.networks.calibration import Calibration
from amortized.simulation_based.config import FlowConfig
from amortized.simulation_based.flows.conditional_flow import (
    Ensemble,
    FlowMember,
    LinearStart,
    new_flow,
)
from amortized.simulation_based.flows.embedding import new_embedding
from amortized.simulation_based.flows.standardising import Standardised

_REACH = 1.5  # times the largest standardised number in training is still in range


class PosteriorFlow(nn.Module):
    """The posterior of the latents given a dataset, as an ensemble of flows."""

    calibration: Calibration | None  # as measured after training
    largest: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config, self.calibration = config, None
        self.alike = config.rows == "exchangeable"
        n_columns = config.width if self.alike else config.width * config.n_rows
        self.columns = Standardised(n_columns)
        n_linear = 2 * config.width if self.alike else n_columns
        self.start = LinearStart(config.dim, n_linear)
        self.register_buffer("largest", torch.full((n_columns,), 1e30))
        self.ensemble = Ensemble([_new_member(config) for _ in range(config.n_members)])

    def prepare(self, u: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the units from simulations; returns residuals and inputs to train on."""
        rows = self._rows(x, y)
        self.columns.fit(rows.reshape(-1, rows.shape[-1]))
        standard = self.columns(rows)
        self.largest.copy_(standard.abs().flatten(0, -2).amax(0))
        inputs = self.inputs(x, y)
        self.start.fit(u, self._linear(inputs))
        return self.start.residual(u, self._linear(inputs)), inputs

    def _rows(self, x: Tensor, y: Tensor) -> Tensor:
        """``(batch, rows, width)`` of alike rows, otherwise ``(batch, rows * width)``."""
        rows = torch.cat(
            [x.float(), y.float().flatten(2) if y.ndim > 2 else y.float()[..., None]], -1
        )
        return rows if self.alike else rows.flatten(1)

    def inputs(
        self, x: Float[Tensor, "batch rows features"], y: Tensor
    ) -> Float[Tensor, "batch numbers"]:
        """Standardised numbers of each dataset, its rows end to end."""
        return self.columns(self._rows(x, y)).flatten(1)

    def _linear(self, inputs: Tensor) -> Tensor:
        """What the latents are regressed on: all numbers, or moments of alike rows."""
        if not self.alike:
            return inputs
        rows = inputs.unflatten(-1, (-1, self.config.width))
        return torch.cat([rows.mean(-2), rows.square().mean(-2)], -1)

    def inside(self, inputs: Float[Tensor, "batch numbers"]) -> Bool[Tensor, " batch"]:
        """Whether datasets lie in the range of the simulations."""
        n = len(inputs)
        rows = inputs.reshape(n, -1, len(self.largest))
        return (rows.abs() <= _REACH * self.largest + 1e-3).flatten(1).all(-1)

    def log_prob(
        self, u: Float[Tensor, "... batch dim"], inputs: Float[Tensor, "batch numbers"]
    ) -> Float[Tensor, "... batch"]:
        """Log density of latents in unconstrained space."""
        residual = self.start.residual(u, self._linear(inputs))
        return self.ensemble.log_prob(residual, inputs) + self.start.log_det

    def sample(
        self, n: int, inputs: Float[Tensor, "batch numbers"]
    ) -> Float[Tensor, "draws batch dim"]:
        """Draws of the latents in unconstrained space, with torch's generator."""
        noise = torch.randn(n, len(inputs), self.config.dim)
        residual = self.ensemble.draw(noise, inputs)
        return self.start.inverse(residual, self._linear(inputs))


def _new_member(config: FlowConfig) -> FlowMember:
    embedding, n_given = new_embedding(config.rows, config.n_rows, config.width, config.d_embedding)
    flow = new_flow(config.dim, n_given, config.n_transforms, config.n_bins, config.d_hidden)
    return FlowMember(embedding, flow)


@dataclass(frozen=True)
class FromFlow:
    """A flow's answers to datasets, as the start of a sampler; in float64.

    Attributes:
        network: trained.
        inputs: inputs of each dataset, as `PosteriorFlow.inputs` makes them.
    """

    network: PosteriorFlow
    inputs: Float[Tensor, "batch numbers"]

    def sample(self, n: int) -> Float[Tensor, "batch n dim"]:
        """Draws, in random order."""
        with torch.no_grad():
            draws = self.network.sample(n, self.inputs)[torch.randperm(n)]
        return draws.transpose(0, 1).double()

    def log_prob(self, u: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n"]:
        """Log density."""
        return self.network.log_prob(u.float().transpose(0, 1), self.inputs).T.double()

    def take(self, index: Tensor) -> "FromFlow":
        """The answers to the chosen datasets."""
        return FromFlow(self.network, self.inputs[index])
