r"""Conditional normalising flows: flexible densities of a vector given other numbers.

A flow maps a vector r to a standard normal one by autoregressive transforms
:math:`z_i = t(r_i; h(r_{<i}, c))`, each an affine map followed by a monotonic rational-quadratic
spline whose parameters a masked network h computes, so

.. math:: \log q(r \mid c) = \log N(z; 0, I) + \log |\det \partial z / \partial r|.

Before it stands a linear regression: :math:`r = L^{-1} (v - A c - b)`, with the residuals'
covariance :math:`L L^T`. A new flow is nearly the identity, so training starts at the best linear
Gaussian density, which is exact for a linear Gaussian program.

References:
    | Masked autoregressive flow for density estimation (Papamakarios et al., 2017),
    | arXiv 1705.07057
    | Neural spline flows (Durkan et al., 2019), arXiv 1906.04032
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

_START = 0.05  # factor on the last layer's first weights
_MOST_FITTED = 20_000  # rows that the linear regression reads
_WIDEST = 2000  # more numbers than this are not regressed on
_REACH = 5.0  # splines bend within this many standard deviations


def flow_library() -> Any:
    """The module ``zuko``.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        return import_module("zuko")
    except ModuleNotFoundError as reason:
        raise ModuleNotFoundError(
            "Expected zuko for flows over simulations; it is not installed. Install it with "
            "pip install 'amortized[simulators]'."
        ) from reason


def _affine_then_spline(shift: Tensor, scale: Tensor, *spline: Tensor) -> Any:
    """One coordinate's transform from its parameters."""
    transforms = flow_library().transforms
    affine = transforms.MonotonicAffineTransform(shift, scale)
    if not spline:
        return affine
    bent = transforms.MonotonicRQSTransform(*spline, bound=_REACH)
    return transforms.ComposedTransform(affine, bent)


def new_flow(dim: int, n_given: int, n_transforms: int, n_bins: int, d_hidden: int) -> Any:
    """An autoregressive flow of zuko that is nearly the identity.

    Args:
        dim: length of the vector.
        n_given: numbers that it depends on.
        n_transforms: transforms, in alternating order of the coordinates.
        n_bins: bins of their splines; 0 for affine transforms.
        d_hidden: width of the two hidden layers.
    """
    shapes: list[tuple[int, ...]] = [(), ()]
    if n_bins:
        shapes += [(n_bins,), (n_bins,), (n_bins - 1,)]
    with torch.device("cpu"):  # masks are computed, which needs memory
        flow = flow_library().flows.MAF(
            dim,
            n_given,
            transforms=n_transforms,
            univariate=_affine_then_spline,
            shapes=shapes,
            hidden_features=(d_hidden, d_hidden),
            activation=nn.ELU,
        )
    for module in flow.modules():  # masks follow from the sizes: not stored with the weights
        for name, value in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, value, persistent=False)
    with torch.no_grad():
        for transform in flow.transform.transforms:
            for value in transform.hyper[-1].parameters():
                value.mul_(_START)
    return flow


Given = Float[Tensor, "... given"]
Points = Float[Tensor, "... dim"]


class LinearStart(nn.Module):
    """Residuals of a linear regression, in units of their covariance's Cholesky factor.

    Args:
        dim: length of the vector.
        n_given: numbers that it is regressed on.
    """

    weight: Tensor
    bias: Tensor
    tril: Tensor

    def __init__(self, dim: int, n_given: int) -> None:
        super().__init__()
        self.n_read = n_given if n_given <= _WIDEST else 0
        self.register_buffer("weight", torch.zeros(dim, self.n_read))
        self.register_buffer("bias", torch.zeros(dim))
        self.register_buffer("tril", torch.eye(dim))

    def fit(self, value: Float[Tensor, "n dim"], given: Float[Tensor, "n given"]) -> None:
        """Fits by ridge regression, its penalty chosen by leaving one row out at a time."""
        value, given = value.double(), given.double()
        expected = value.mean(0).expand_as(value)
        if self.n_read and len(value) > 2:
            rows = slice(0, _MOST_FITTED)
            model = RidgeCV(alphas=(1e-3, 1.0, 1e2, 1e4), alpha_per_target=value.shape[1] > 1)
            model.fit(given[rows].numpy(), value[rows].numpy())
            coefficient = torch.as_tensor(model.coef_).reshape(value.shape[1], -1)
            intercept = torch.as_tensor(model.intercept_).reshape(-1)
            self.weight.copy_(coefficient)
            self.bias.copy_(intercept)
            expected = given @ coefficient.T + intercept
        else:
            self.bias.copy_(value.mean(0))
        residual = value - expected
        covariance = residual.T @ residual / len(value)
        floor = 1e-6 * value.var(0, correction=0).mean().clamp(min=1e-12)
        covariance = covariance + floor * torch.eye(len(covariance), dtype=torch.float64)
        self.tril.copy_(torch.linalg.cholesky(covariance))

    def expected(self, given: Given) -> Points:
        """The regression's prediction."""
        return given[..., : self.n_read] @ self.weight.T + self.bias

    def residual(self, value: Points, given: Given) -> Points:
        """The standardised residual r."""
        off = (value - self.expected(given)).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.tril, off, upper=False)[..., 0]

    def inverse(self, residual: Points, given: Given) -> Points:
        """The vector with this residual."""
        return residual @ self.tril.T + self.expected(given)

    @property
    def log_det(self) -> Float[Tensor, ""]:
        """Log determinant of the map from the vector to its residual."""
        return -self.tril.diagonal().log().sum()


class Ensemble(nn.Module):
    """Flows of one residual, each with its own embedding; their densities are averaged.

    Args:
        members: each with ``log_prob(residual, inputs)`` and ``inverse(noise, inputs)``.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)

    def log_prob(
        self, residual: Points, inputs: Float[Tensor, "... numbers"]
    ) -> Float[Tensor, "..."]:
        """Log of the mean density."""
        each: list[Any] = [member.log_prob(residual, inputs) for member in self.members]
        if len(each) == 1:
            return each[0]
        return torch.stack(each).logsumexp(0) - torch.tensor(float(len(each))).log()

    def draw(
        self, noise: Float[Tensor, "draws batch dim"], inputs: Float[Tensor, "batch numbers"]
    ) -> Float[Tensor, "draws batch dim"]:
        """Residuals from standard normal noise, an equal share of the draws from each member."""
        members: list[Any] = list(self.members)
        pairs = zip(members, noise.tensor_split(len(members)), strict=True)
        return torch.cat([member.inverse(part, inputs) for member, part in pairs if len(part)])


class FlowMember(nn.Module):
    """A flow over a residual, given embedded inputs.

    Args:
        embedding: from inputs to numbers.
        flow: flow of zuko, given these numbers.
    """

    def __init__(self, embedding: nn.Module, flow: Any) -> None:
        super().__init__()
        self.embedding, self.flow = embedding, flow

    def log_prob(
        self, residual: Points, inputs: Float[Tensor, "... numbers"]
    ) -> Float[Tensor, "..."]:
        """Log density of the residual."""
        return self.flow(self.embedding(inputs)).log_prob(residual)

    def to_noise(self, residual: Points, inputs: Float[Tensor, "... numbers"]) -> Points:
        """The standard normal vector that the flow maps the residual to."""
        return self.flow(self.embedding(inputs)).transform(residual)

    def inverse(self, noise: Points, inputs: Float[Tensor, "... numbers"]) -> Points:
        """The residual that the flow maps to this noise."""
        given = self.embedding(inputs)
        given = given.expand(*noise.shape[:-1], given.shape[-1])
        return self.flow(given).transform.inv(noise)
