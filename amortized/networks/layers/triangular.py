r"""Triangular matrices as network inputs and outputs.

With up to ten latents every entry is a number. Beyond that, where the number of entries grows with
the square of the dimension, a matrix is output as a diagonal and r = 4 directions,
:math:`D + \mathrm{tril}(U (V_0 + V)^\top)` below the diagonal with a fixed :math:`V_0`, so that an
output of zero leaves the off-diagonal part zero but still has a gradient. As an input, a matrix is
represented by its diagonal and its products with the same directions.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

_MOST_FULL = 10
_RANK = 4


def n_answered(dim: int) -> int:
    """Number of outputs from which `triangular` builds a matrix.

    Example:
        >>> [n_answered(dim) for dim in (2, 10, 11, 50)]
        [3, 55, 99, 450]
    """
    return dim * (dim + 1) // 2 if dim <= _MOST_FULL else dim + 2 * _RANK * dim


def n_read(dim: int) -> int:
    """Number of inputs with which `described` represents a matrix."""
    return dim * (dim + 1) // 2 if dim <= _MOST_FULL else dim + _RANK * dim


def triangular(entries: Float[Tensor, "*batch n"], dim: int) -> Float[Tensor, "*batch dim dim"]:
    """Builds a lower triangular matrix; inputs of zero give zero.

    Args:
        entries: `n_answered` numbers: those of a full matrix row by row.
        dim: rows of the matrix.

    Example:
        >>> triangular(torch.tensor([1.0, 2.0, 3.0]), 2)
        tensor([[1., 0.],
                [2., 3.]])
    """
    if dim > _MOST_FULL:
        diagonal, left, right = entries.split((dim, _RANK * dim, _RANK * dim), -1)
        turned = _directions(dim).to(entries) + right.unflatten(-1, (dim, _RANK))
        below = left.unflatten(-1, (dim, _RANK)) @ turned.mT
        return torch.diag_embed(diagonal) + below.tril(-1)
    matrix = entries.new_zeros(*entries.shape[:-1], dim, dim)
    i, j = torch.tril_indices(dim, dim, device=entries.device)
    matrix[..., i, j] = entries
    return matrix


def described(factor: Float[Tensor, "*batch dim dim"]) -> Float[Tensor, "*batch n"]:
    """Log diagonal of a Cholesky factor, and the rows below it in units of their diagonal."""
    dim = factor.shape[-1]
    diagonal = factor.diagonal(dim1=-1, dim2=-2)
    below = factor / diagonal.unsqueeze(-1)
    if dim > _MOST_FULL:
        seen = (below.tril(-1) @ _directions(dim).to(factor)).flatten(-2)
    else:
        i, j = torch.tril_indices(dim, dim, -1, device=factor.device)
        seen = below[..., i, j]
    return torch.cat((diagonal.log(), seen.asinh()), -1)


@lru_cache(maxsize=32)
def _directions(dim: int) -> Float[Tensor, "dim rank"]:
    """Orthonormal columns that are the same in every process."""
    draws = torch.randn(dim, _RANK, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(draws).Q.float()
