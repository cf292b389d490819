r"""Neural likelihood estimation: a flow over the data given the latents, and the program with it.

Trained on pairs (u, y), whatever distribution the u come from, the maximiser of the mean of
:math:`\log q(y \mid u)` is the likelihood. So the simulations of several rounds add up, the prior
may be replaced afterwards, and rows that are independent given the latents are learned one by one.

Counts and other numbers on a lattice are spread over its cells by uniform noise before they are
learned, and the probability of one is the density at its centre times the width of the cell.

References:
    | Sequential neural likelihood (Papamakarios, Sterratt and Murray, 2019), arXiv 1805.07226
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

from amortized.networks.calibration import Calibration
from amortized.program.simulation import ProgramSimulator
from amortized.program.sites import LatentSpace
from amortized.program.support import bijection_to, support_of
from amortized.program.vectorised import Program
from amortized.simulation_based.config import FlowConfig
from amortized.simulation_based.flows.conditional_flow import (
    Ensemble,
    FlowMember,
    LinearStart,
    new_flow,
)
from amortized.simulation_based.flows.embedding import Flat
from amortized.simulation_based.flows.standardising import Standardised

_MOST_VALUES = 0.6  # different values of a lattice, as a share of the simulations


class LikelihoodFlow(nn.Module):
    """The density of the data given the latents, as an ensemble of flows."""

    calibration: Calibration | None  # as measured after training
    cell: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config, self.calibration = config, None
        self.alike = config.rows == "exchangeable"
        n_rows = 1 if self.alike else config.n_rows
        n_y = (config.width - config.n_features) * n_rows
        n_given = config.dim + config.n_features * n_rows
        self.values, self.given = Standardised(n_y), Standardised(n_given)
        self.register_buffer("cell", torch.zeros(n_y))  # width of a lattice's cell; 0 of none
        self.start = LinearStart(n_y, n_given)
        sizes = n_y, n_given, config.n_transforms, config.n_bins, config.d_hidden
        members = [FlowMember(Flat(), new_flow(*sizes)) for _ in range(config.n_members)]
        self.ensemble = Ensemble(members)

    def prepare(self, u: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the units from simulations; returns residuals and inputs to train on."""
        value, given = self._split(u, x, y)
        columns = value.reshape(-1, value.shape[-1]).T
        self.cell.copy_(torch.tensor([_cell(column) for column in columns]))
        value = value + (torch.rand_like(value) - 0.5) * self.cell
        self.values.fit(value.reshape(-1, value.shape[-1]))
        self.given.fit(given.reshape(-1, given.shape[-1]))
        value = self.values(value).flatten(0, -2)
        given = self.given(given).flatten(0, -2)
        self.start.fit(value, given)
        return self.start.residual(value, given), given

    def _split(self, u: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Data and what they depend on, a row for each row or for each dataset."""
        u, x, y = u.float(), x.float(), y.float()
        n_lead = u.ndim - 1
        y = y.flatten(n_lead + 1) if y.ndim > n_lead + 1 else y.unsqueeze(-1)
        if not self.alike:
            return y.flatten(n_lead), torch.cat([u, x.flatten(n_lead)], -1)
        each = u.unsqueeze(-2).expand(*y.shape[:-1], u.shape[-1])
        return y, torch.cat([each, x.expand(*y.shape[:-1], x.shape[-1])], -1)

    def log_prob(self, u: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Log density of the data.

        Args:
            u: latents in unconstrained space, ``(*batch, dim)``.
            x: inputs, ``(*batch, rows, features)``.
            y: data, ``(*batch, rows, *event)``.
        """
        value, given = self._split(u, x, y)
        log_det, value, given = self.values.log_det(value), self.values(value), self.given(given)
        residual = self.start.residual(value, given)
        cells = torch.where(self.cell > 0, self.cell, 1.0).log().sum()
        each = self.ensemble.log_prob(residual, given) + self.start.log_det + log_det + cells
        return each.sum(-1) if self.alike else each

    def draw(self, u: Tensor, x: Tensor) -> Tensor:
        """Data of one dataset, with torch's generator, ``(rows, *event)``."""
        rows, event = len(x), self.config.event
        empty = x.new_zeros(rows, *event)
        value, given = self._split(u, x, empty)
        given = self.given(given)
        noise = torch.randn(value.shape)
        member: Any = self.ensemble.members[0]
        value = self.values.inverse(self.start.inverse(member.inverse(noise, given), given))
        width = torch.where(self.cell > 0, self.cell, 1.0)
        value = torch.where(self.cell > 0, (value / width).round() * width, value)
        return value.reshape(rows, *event)


def _cell(column: Float[Tensor, " n"]) -> float:
    """The distance of neighbours on the lattice that numbers lie on; 0 where they lie on none."""
    found = column.double().unique()
    if not 1 < len(found) < _MOST_VALUES * len(column):
        return 0.0
    gaps = found.diff()
    steps = gaps / gaps.min()
    even = (steps - steps.round()).abs() < 0.01 + 1e-4 * steps  # single precision
    return float(gaps.min()) if bool(even.all()) else 0.0


@dataclass(frozen=True)
class LearnedProgram:
    """A program whose observation has the density that a `LikelihoodFlow` learned.

    It is answered by every method of `amortized.infer`, and so compared and given other priors.

    Attributes:
        program: the simulator, whose latents and their prior are kept.
        network: trained.
        layout: where each latent lies in u.
    """

    program: Program
    network: LikelihoodFlow
    layout: LatentSpace

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Any:
        latents = _Latents(self.layout)
        with suppress(_AllDrawn), latents:  # the simulator itself, which may be slow, is not run
            self.program(x, y)
        u = self.layout.pack(latents.placed)
        return pyro.sample("y", LearnedRows(self.network, u, x), obs=y)


def learned_program(program: Program, network: LikelihoodFlow) -> LearnedProgram:
    """The program with a learned likelihood in place of its simulator.

    Args:
        program: the Pyro program ``model(x, y=None)`` that the network was trained on.
        network: as ``train(prior, "nle")`` returns it.

    Raises:
        ValueError: if the program has other latents.
    """
    config = network.config
    layout = ProgramSimulator(program, torch.zeros(config.n_rows, config.n_features)).layout
    if layout.dim != config.dim:
        raise ValueError(
            f"Expected a program with {config.dim} latents, {list(config.names)}; got one with "
            f"{layout.dim}, {list(layout)}."
        )
    return LearnedProgram(program, network, layout)


class _AllDrawn(Exception):
    """Stops a program after its last latent."""


class _Latents(Messenger):
    """Collects the latents in unconstrained space."""

    def __init__(self, layout: LatentSpace) -> None:
        super().__init__()
        self.layout = layout
        self.placed: dict[str, Tensor] = {}

    def _pyro_post_sample(self, message: Any) -> None:
        if message["name"] in self.layout:
            bijection = bijection_to(support_of(message["fn"]))
            self.placed[message["name"]] = bijection.inv(message["value"])
        if len(self.placed) == len(self.layout):
            raise _AllDrawn


class LearnedRows(dist.TorchDistribution):
    """The learned distribution of all rows of one dataset.

    Args:
        network: trained.
        u: the latents in unconstrained space.
        x: inputs.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own way

    def __init__(
        self, network: LikelihoodFlow, u: Float[Tensor, " dim"], x: Float[Tensor, "rows features"]
    ) -> None:
        self.network, self.u, self.x = network, u, x
        shape = torch.Size([len(x), *network.config.event])
        super().__init__(torch.Size(), shape, validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LearnedRows":
        if tuple(batch_shape):
            raise NotImplementedError
        return self

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            draws = [
                self.network.draw(self.u, self.x) for _ in range(torch.Size(sample_shape).numel())
            ]
        return torch.stack(draws).reshape(*sample_shape, *self.event_shape).to(self.u.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the rows together."""
        return self.network.log_prob(self.u, self.x, value).to(self.u.dtype)
