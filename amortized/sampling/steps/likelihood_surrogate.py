r"""A Gaussian process that stands in for the log likelihood of one dataset.

From points :math:`u_i` with log likelihoods :math:`\ell_i` it predicts

.. math:: \hat \ell(u) = b(u)^\top c + k(u, U) \, \alpha,

a quadratic polynomial plus the posterior mean of a Gaussian process of its residuals. Only values
near the largest one matter, so those far below it are compressed, which leaves their order:
:math:`\ell` becomes :math:`h - \Delta \log(1 + (h - \ell) / \Delta)` below a level h.

Reference:
    Rasmussen and Williams, Gaussian processes for machine learning (2006), sections 2.2 and 2.7.
"""

import warnings

import torch
from jaxtyping import Float
from scipy import optimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch import Tensor

from amortized.program.density import ProgramDensity

_MOST_POINTS = 1500  # of the fit, those with the largest likelihoods
_OF_KERNEL = 300  # points from which the kernel's lengths are estimated
_N_STEPS = 20  # of their optimisation
_DEPTH = (
    20.0,
    5.0,
)  # nats below the largest value from which on values are compressed; per dimension
_ABOVE = 3.0  # nats by which a prediction may exceed the largest known value


class LikelihoodSurrogate:
    """The fit; `__call__` predicts.

    Args:
        u: points.
        log_likelihood: of the points; -inf is allowed.

    Example:
        >>> u = torch.randn(200, 2, dtype=torch.float64)
        >>> fitted = LikelihoodSurrogate(u, -(u**2).sum(-1) + 0.1 * u[:, 0] ** 3)
        >>> new = 0.5 * torch.randn(50, 2, dtype=torch.float64)
        >>> error = fitted(new) + (new**2).sum(-1) - 0.1 * new[:, 0] ** 3
        >>> bool(error.abs().max() < 0.05)
        True
    """

    def __init__(
        self, u: Float[Tensor, "points dim"], log_likelihood: Float[Tensor, " points"]
    ) -> None:
        best = log_likelihood.argsort(descending=True)[:_MOST_POINTS]
        u, value = u[best], log_likelihood[best]
        self._top = value[0]
        value = _compressed(value, self._top, u.shape[1])
        self._centre, self._scale = u.mean(0), u.std(0).clamp(min=1e-6)
        z = self._standardised(u)
        basis = _basis(z)
        # Points with little likelihood only pin the polynomial loosely.
        weight = ((value - self._top) / (_DEPTH[0] + _DEPTH[1] * u.shape[1])).exp().sqrt()
        ridge = 1e-4 * torch.eye(basis.shape[1], dtype=basis.dtype)
        rows, answers = torch.cat([weight[:, None] * basis, ridge]), weight * value
        self._coefficients = torch.linalg.lstsq(
            rows, torch.cat([answers, answers.new_zeros(len(ridge))])[:, None]
        ).solution[:, 0]
        rest = value - basis @ self._coefficients
        self._size = rest.std().clamp(min=1e-8)
        self._fit(z, rest / self._size)

    def _fit(self, z: Tensor, rest: Tensor) -> None:
        """Estimates the kernel from some of the points, and then the weights of all."""
        some = torch.linspace(0, len(z) - 1, min(_OF_KERNEL, len(z))).long()
        kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF([2.0] * z.shape[1], (0.1, 1e3))
        regressor = GaussianProcessRegressor(
            kernel + WhiteKernel(1e-4, (1e-9, 1.0)), alpha=1e-9, optimizer=_minimised
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regressor.fit(z[some].numpy(), rest[some].numpy())
        product, noise = regressor.kernel_.k1, regressor.kernel_.k2
        variance = float(product.k1.constant_value)
        self._length = torch.as_tensor(product.k2.length_scale, dtype=z.dtype)
        self._points = z / self._length
        covariance = variance * self._correlation(self._points)
        jitter = max(float(noise.noise_level), 1e-9) + 1e-8 * variance
        covariance.diagonal().add_(jitter)
        factor = torch.linalg.cholesky_ex(covariance).L
        self._weights = variance * torch.cholesky_solve(rest[:, None], factor)[:, 0]

    def __call__(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Predicted log likelihoods, at most a little above the largest known one."""
        z = self._standardised(u)
        rest = self._correlation((z / self._length).flatten(0, -2)) @ self._weights
        mean = (_basis(z) @ self._coefficients).flatten() + self._size * rest
        return mean.reshape(u.shape[:-1]).clamp(max=self._top + _ABOVE)

    def level(self, log_likelihood: Tensor) -> Tensor:
        """Log likelihoods on the scale of the predictions, compressed where they are low."""
        return _compressed(log_likelihood, self._top, len(self._centre))

    @property
    def n_points(self) -> int:
        """Number of points in the fit."""
        return len(self._points)

    def _standardised(self, u: Tensor) -> Tensor:
        return (u - self._centre) / self._scale

    def _correlation(self, z: Float[Tensor, "n dim"]) -> Float[Tensor, "n points"]:
        # One product gives the exponents: each further matrix of this size costs as much.
        one, squares = torch.ones_like(z[:, :1]), -0.5 * z.square().sum(-1, keepdim=True)
        known = self._points
        ones, heights = torch.ones_like(known[:, :1]), -0.5 * known.square().sum(-1, keepdim=True)
        return torch.exp(torch.cat([z, squares, one], 1) @ torch.cat([known, ones, heights], 1).T)


def _minimised(
    objective: object, start: object, bounds: object
) -> tuple[object, float]:  # the form that scikit-learn asks for
    found = optimize.minimize(
        objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": _N_STEPS}
    )
    return found.x, found.fun


def _basis(z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch terms"]:
    """1, the coordinates and their products."""
    dim = z.shape[-1]
    first, second = torch.triu_indices(dim, dim)
    return torch.cat([torch.ones_like(z[..., :1]), z, z[..., first] * z[..., second]], -1)


def _compressed(value: Tensor, top: Tensor, dim: int) -> Tensor:
    depth = _DEPTH[0] + _DEPTH[1] * dim
    below = (top - depth - value).clamp(min=0.0, max=1e30)
    return torch.maximum(value, top - depth) - depth * torch.log1p(below / depth)


class SurrogateDensity(ProgramDensity):
    """A program's density for one dataset with a surrogate of its likelihood, to a power.

    Args:
        density: the program's own density; its prior is kept.
        surrogate: stands in for the log likelihood.
        power: exponent of the likelihood.
    """

    def __init__(
        self, density: ProgramDensity, surrogate: LikelihoodSurrogate, power: float = 1.0
    ) -> None:
        self.__dict__.update(density.__dict__)
        self.own, self.surrogate, self.power = density, surrogate, power
        self._n_calls = [0]  # those of the surrogate are not calls

    def take(self, index: Tensor) -> "SurrogateDensity":
        """The density of the chosen datasets, all with this surrogate."""
        return SurrogateDensity(self.own.take(index), self.surrogate, self.power)

    def log_prior_and_likelihood(
        self, u: Float[Tensor, "batch particles dim"]
    ) -> tuple[Float[Tensor, "batch particles"], Float[Tensor, "batch particles"]]:
        """Log prior of the program, and the surrogate's log likelihood."""
        return self.log_prior(u), self.power * self.surrogate(u)

    def log_prior(
        self, u: Float[Tensor, "batch particles dim"]
    ) -> Float[Tensor, "batch particles"]:
        """Log prior of the program."""
        return self.own.log_prior(u)

    def sample_prior(self, n_particles: int) -> Float[Tensor, "batch particles dim"]:
        """Draws u from the program's prior."""
        return self.own.sample_prior(n_particles)

    def prior_lots(self, n_lots: int, n_each: int) -> Float[Tensor, "batch lots each dim"]:
        """Groups of draws from the program's prior."""
        return self.own.prior_lots(n_lots, n_each)

    def bytes_per_particle(self) -> int:
        """Memory of the kernel and its gradient."""
        return 4 * 8 * (self.surrogate.n_points + self.dim)
