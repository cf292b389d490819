r"""Invertible standardisation of numbers whose unit and tails are not known.

Each column is centred and divided by its spread, :math:`z = (y - m) / s`. A column with heavy tails
is then replaced by :math:`\mathrm{asinh}(z)`, so that its outliers do not dominate a network's
input, and all columns are brought to mean 0 and standard deviation 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_HEAVY = 8.0  # kurtosis; 3 is a normal column's, 9 a logistic's to the fourth


class Standardised(nn.Module):
    """Columns in units of their own spread.

    Args:
        n_columns: numbers in a row.

    Example:
        >>> columns = Standardised(1)
        >>> columns.fit(torch.tensor([[1.0], [3.0]]))
        >>> columns(torch.tensor([[2.0]])), columns.inverse(torch.tensor([[0.0]]))
        (tensor([[0.]]), tensor([[2.]]))
    """

    numbers: Tensor

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        start = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])  # m, s, heavy, then mean and spread
        self.register_buffer("numbers", start.unsqueeze(-1).repeat(1, n_columns))

    def fit(self, rows: Float[Tensor, "rows columns"]) -> None:
        """Takes centre, spread and tails from rows; constant columns become zero."""
        rows = rows.double()
        middle = rows.median(0).values
        deviation = (rows - middle).abs().median(0).values * 1.4826
        spread = rows.std(0, correction=0)
        centred = rows - rows.mean(0)
        heavy = centred.pow(4).mean(0) > _HEAVY * centred.square().mean(0).square()
        unit = torch.where(heavy & (deviation > 0), deviation, spread)
        unit = torch.where(unit > 1e-12 * (1 + middle.abs()), unit, 1.0)
        centre = torch.where(heavy, middle, rows.mean(0))
        z = (rows - centre) / unit
        z = torch.where(heavy, z.asinh(), z)
        again = z.std(0, correction=0)
        again = torch.where(again > 1e-9, again, 1.0)
        found = torch.stack([centre, unit, heavy.double(), z.mean(0), again])
        self.numbers.copy_(found.to(self.numbers))

    def forward(self, y: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch columns"]:
        """The standardised numbers."""
        centre, unit, heavy, mean, spread = self.numbers
        z = (y - centre) / unit
        return (torch.where(heavy > 0, z.asinh(), z) - mean) / spread

    def inverse(self, z: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch columns"]:
        """The numbers in their own units."""
        centre, unit, heavy, mean, spread = self.numbers
        z = z * spread + mean
        return torch.where(heavy > 0, z.clamp(-80.0, 80.0).sinh(), z) * unit + centre

    def log_det(self, y: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch"]:
        """Log of the derivative of the standardised numbers, summed over columns."""
        centre, unit, heavy, _, spread = self.numbers
        bent = -0.5 * ((y - centre) / unit).square().log1p()
        return (torch.where(heavy > 0, bent, 0.0) - (unit * spread).log()).sum(-1)
