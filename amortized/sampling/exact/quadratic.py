"""Coefficients of a quadratic function from its gradients."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def quadratic_terms(
    function: Callable[[Tensor], Tensor], like: Float[Tensor, "batch ..."], dim: int
) -> tuple[Float[Tensor, "batch dim dim"], Float[Tensor, "batch dim"]]:
    r"""P and :math:`\eta` of :math:`-w^T P w / 2 + \eta^T w + c`, exact for a quadratic function.

    Args:
        function: maps ``(batch, n, dim)`` to ``(batch, n)``.
        like: a tensor with the desired batch size and dtype.
        dim: dimension of w.
    """
    points = torch.cat([like.new_zeros(1, dim), torch.eye(dim, dtype=like.dtype)])
    points = points.expand(len(like), -1, -1).clone().requires_grad_()
    gradient = torch.autograd.grad(function(points).sum(), points)[0]
    precision = gradient[:, :1] - gradient[:, 1:]
    return (precision + precision.mT) / 2, gradient[:, 0]
