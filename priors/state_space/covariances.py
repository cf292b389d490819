r"""Checks and factors of covariances whose entries have different units.

With standard deviations :math:`d_i`, the scale of entry (i, j) is :math:`d_i d_j`. An entry that is
small relative to the largest variance, such as a temperature's next to a pressure's, need not be
negligible on its own scale.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def own_scale(cov: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The product of the two standard deviations, for each entry.

    Example:
        >>> own_scale(torch.tensor([[1.0, 0.0], [0.0, 1e6]]))
        tensor([[1.0000e+00, 1.0000e+03],
                [1.0000e+03, 1.0000e+06]])
    """
    sd = cov.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    return sd.unsqueeze(-1) * sd.unsqueeze(-2)


def correlations(cov: Float[Tensor, "*batch n n"]) -> tuple[Tensor, Tensor]:
    """Standard deviations (1 for zero variances), and the covariance divided by both of them.

    Args:
        cov: covariances with non-negative variances.
    """
    sd = cov.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    sd = torch.where(sd > 0, sd, 1.0)
    return sd, cov / sd.unsqueeze(-1) / sd.unsqueeze(-2)


def is_covariance(cov: Float[Tensor, "*batch n n"]) -> Bool[Tensor, "*batch"]:
    """Whether a matrix is finite, symmetric and positive semi-definite, up to rounding.

    Example:
        >>> is_covariance(torch.diag(torch.tensor([1e10, -1e-3])))
        tensor(False)
    """
    cov = cov.detach()
    slack = 100 * torch.finfo(cov.dtype).eps
    scale = own_scale(cov)
    asymmetric = ((cov - cov.mT).abs() > slack * scale).any(-1).any(-1)
    negative = (cov.diagonal(dim1=-2, dim2=-1) < 0).any(-1)
    # A variable with zero variance must have zero covariances.
    beyond = (cov.abs() > (1 + slack) * scale).any(-1).any(-1)
    correlation = correlations(cov)[1].double()
    ridge = slack * torch.eye(cov.shape[-1], dtype=correlation.dtype, device=cov.device)
    indefinite = torch.linalg.cholesky_ex(correlation + ridge).info > 0
    finite = cov.isfinite().all(-1).all(-1)
    return finite & ~(asymmetric | negative | beyond | indefinite)


def check_covariance(name: str, cov: Float[Tensor, "*batch n n"]) -> None:
    """Raises an error for an invalid covariance, such as a factor passed in its place.

    Args:
        name: name of the matrix in the message.
        cov: one matrix or a batch.

    Raises:
        ValueError: if it is not finite, symmetric and positive semi-definite.
    """
    try:
        right = bool(is_covariance(cov).all())
    except RuntimeError:  # values cannot be inspected under torch.func.vmap
        return
    if not right:
        raise ValueError(
            f"Expected {name} to be finite, symmetric and positive semi-definite; got "
            f"{cov.tolist() if cov.ndim == 2 else 'a batch with one that is not'}. Give the "
            "covariance itself, not its Cholesky factor or standard deviations."
        )


def covariance_root(cov: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """A matrix with ``root @ root.mT == cov``, for a covariance that may be singular."""
    # Eigenvectors, because Cholesky fails for singular matrices such as noise of rank 2 in 4
    # dimensions; of the correlations, because rounding is relative to the largest eigenvalue.
    sd, correlation = correlations(cov.double())
    values, vectors = torch.linalg.eigh(correlation)
    root = sd.unsqueeze(-1) * vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    return root.to(cov.dtype)


def covariance_inverse(cov: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """A generalised inverse of a covariance that may be singular: ``cov @ it @ cov == cov``."""
    sd, correlation = correlations(cov)
    inverse = torch.linalg.pinv(correlation, hermitian=True)
    return inverse / sd.unsqueeze(-1) / sd.unsqueeze(-2)
