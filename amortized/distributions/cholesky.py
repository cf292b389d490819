"""Cholesky factors of covariances: computed in float64, and solved against; squared lengths."""

import torch
from jaxtyping import Float
from torch import Tensor

_FEW = 8


def solve_lower(
    factor: Float[Tensor, "*f dim dim"], vector: Float[Tensor, "*v dim"]
) -> Float[Tensor, "*shape dim"]:
    """L^-1 v for lower triangular L; in one dimension a division, which is much faster."""
    if factor.shape[-1] == 1:
        return vector / factor[..., 0]
    return torch.linalg.solve_triangular(factor, vector.unsqueeze(-1), upper=False).squeeze(-1)


def squared_length(vector: Float[Tensor, "*v dim"]) -> Float[Tensor, "*v"]:
    """Sum of squares of each vector; of few entries one by one, as torch's sum of few is slow."""
    if not 0 < vector.shape[-1] <= _FEW:
        return vector.square().sum(-1)
    first, *others = vector.unbind(-1)
    total = first.square()
    for entry in others:
        total = total + entry.square()
    return total


def cholesky_factor(covariance: Float[Tensor, "*batch dim dim"]) -> Float[Tensor, "*batch dim dim"]:
    """The lower Cholesky factor, computed in float64.

    Raises:
        ValueError: if a covariance is not positive definite.
    """
    exact = covariance.double()
    if exact.shape[-1] == 1:
        factor, failed = exact.sqrt(), ~(exact > 0)
    else:
        factor, info = torch.linalg.cholesky_ex(exact)
        failed = info > 0
    if bool(failed.any()):
        raise ValueError(
            f"Expected positive definite covariances; got {int(failed.sum())} that are not."
        )
    return factor.to(covariance.dtype)
