"""Embedding of the rows of a dataset as the context of a flow."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_LONG = 100  # rows from which an ordered dataset is read by convolutions


class Flat(nn.Module):
    """Leaves the numbers of an ordered dataset, or of one row, as they are."""

    def forward(self, numbers: Float[Tensor, "... numbers"]) -> Float[Tensor, "... numbers"]:
        """The same numbers."""
        return numbers


class RowSet(nn.Module):
    """Summarises rows whose order does not matter, by means over their embeddings.

    Args:
        n_rows: rows of a dataset.
        width: numbers in a row.
        n_out: numbers in the summary.

    References:
        Deep sets (Zaheer et al., 2017), arXiv 1703.06114.

    Example:
        >>> rows = torch.randn(1, 6)
        >>> summary = RowSet(3, 2, 4)
        >>> flipped = rows.reshape(3, 2).flip(0).reshape(1, 6)
        >>> torch.allclose(summary(rows), summary(flipped), atol=1e-5)
        True
    """

    def __init__(self, n_rows: int, width: int, n_out: int) -> None:
        super().__init__()
        d = max(2 * n_out, 32)
        self.shape = n_rows, width
        self.of_row = nn.Sequential(nn.Linear(width, d), nn.ELU(), nn.Linear(d, d), nn.ELU())
        self.of_all = nn.Sequential(
            nn.Linear(d + 2 * width, d), nn.ELU(), nn.Linear(d, n_out), nn.ELU()
        )

    def forward(self, numbers: Float[Tensor, "... numbers"]) -> Float[Tensor, "... out"]:
        """The summary of the rows, which lie end to end."""
        rows = numbers.unflatten(-1, self.shape)
        spread = (rows.var(-2, correction=0) + 1e-6).log()
        about = torch.cat([rows.mean(-2), spread, self.of_row(rows).mean(-2)], -1)
        return self.of_all(about)


class Series(nn.Module):
    """Summarises a long ordered dataset by convolutions over its rows, each halving their number.

    Args:
        n_rows: rows of a dataset.
        width: numbers in a row.
        n_out: numbers in the summary.
    """

    def __init__(self, n_rows: int, width: int, n_out: int) -> None:
        super().__init__()
        self.shape = n_rows, width
        layers: list[nn.Module] = []
        n, d = n_rows, width
        while n > 12:
            layers += [nn.Conv1d(d, n_out, 5, stride=2, padding=2), nn.ELU()]
            n, d = (n + 1) // 2, n_out
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(n * d, 2 * n_out), nn.ELU(), nn.Linear(2 * n_out, n_out)
        )

    def forward(self, numbers: Float[Tensor, "... numbers"]) -> Float[Tensor, "... out"]:
        """The summary of the rows, which lie end to end."""
        rows = numbers.unflatten(-1, self.shape).mT
        lead = rows.shape[:-2]
        return self.head(self.layers(rows.flatten(0, -3)).flatten(-2)).unflatten(0, lead)


def new_embedding(rows: str, n_rows: int, width: int, n_out: int) -> tuple[nn.Module, int]:
    """The embedding of a dataset, and how many numbers it gives."""
    if rows == "exchangeable" and n_rows > 1:
        return RowSet(n_rows, width, n_out), n_out
    if n_rows >= _LONG:
        return Series(n_rows, width, n_out), n_out
    return Flat(), n_rows * width
