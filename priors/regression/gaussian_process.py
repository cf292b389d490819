r"""Gaussian-process regression with fixed or random hyperparameters.

.. math::
    y_i = s f(x_i) + \sigma \epsilon_i, \qquad f \sim GP(0, k_\ell), \quad \epsilon_i \sim N(0, 1)

The function is integrated out, so only the hyperparameters are latents.
"""

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution, Normal

from amortized.priors.program_prior import ProgramPrior
from amortized.priors.regression.kernels import KERNELS
from amortized.priors.regression.network_kernels import NETWORK_KERNELS
from amortized.priors.state_space.matern import Matern
from amortized.priors.state_space.one_series import Smoothed, smoothed
from amortized.priors.task import TaskBatch
from amortized.validation import number_between, whole_number

# Share of the function's variance that is added to that of the noise, because rounding may leave
# the covariance of nearly equal inputs not positive definite; at most as much as the noise itself.
_JITTER = {torch.float32: 1e-6, torch.float64: 1e-12}
SOLVERS = ("auto", "dense", "state-space")
MARKOV = ("matern12", "matern32", "matern52")
_MOST_DENSE = 200  # rows, above which the filter is faster


def uniform_inputs(low: float, high: float) -> Callable[..., Tensor]:
    """Inputs uniform over ``[low, high]`` in every feature.

    Example:
        >>> uniform_inputs(0.0, 1.0)(2, 5, 3).shape
        torch.Size([2, 5, 3])
    """
    return lambda *shape: low + (high - low) * torch.rand(shape)


def standardised_inputs(*shape: int) -> Tensor:
    """Features with mean 0 and variance 1, each uniform or normal with equal probability.

    Example:
        >>> standardised_inputs(2, 5, 3).shape
        torch.Size([2, 5, 3])
    """
    uniform = math.sqrt(3) * (2 * torch.rand(shape) - 1)
    is_uniform = torch.rand(shape[0], 1, shape[2]) < 0.5
    return torch.where(is_uniform, uniform, torch.randn(shape))


class GaussianProcessPrior(ProgramPrior):
    r"""Gaussian-process regression as a prior over tasks, and as a Pyro program.

    A hyperparameter given as a number is fixed; one given as a distribution is a latent. If all are
    fixed, the exact posterior predictive and evidence are available.

    Args:
        kernel: "rbf", "matern12", "matern32", "matern52" or "periodic"; or "relu" or "erf", the
            limit of wide networks with this activation.
        lengthscale: lengthscale of each feature (automatic relevance determination), in units of x.
        outputscale: standard deviation s of the function, or factor on that of a network.
        noise: standard deviation of the noise.
        period: period of each feature; required by the periodic kernel and rejected by the others.
        depth: number of hidden layers of a network kernel.
        n_features: number of features, or (fewest, most), drawn log-uniformly once per batch,
            because functions of few features vary most and need most of the training.
        inputs: ``(n_tasks, n_rows, n_features) -> x``.
        solver: solver of the exact answers: "dense" is cubic in the rows; "state-space", for one
            feature and a Matern kernel, is linear, by a Kalman filter; "auto" takes it above 200
            rows.
        scale_by_dimension: whether lengthscales grow with the root of the number of features, so
            that functions of many features are no rougher than those of one.

    Raises:
        ValueError: if the kernel is unknown or an argument does not fit it.

    References:
        | Gaussian Processes for Machine Learning (Rasmussen and Williams, 2006), chapters 2, 5
        | Vanilla Bayesian Optimization Performs Great in High Dimensions
        | (Hvarfner et al., 2024), arXiv:2402.02229: lengthscales and dimension

    Example:
        >>> prior = GaussianProcessPrior(lengthscale=0.5, outputscale=1.0, noise=0.1)
        >>> batch = prior.sample(4, 10, 3, seed=0)
        >>> prior.posterior_predictive(batch).mean.shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        kernel: str = "rbf",
        *,
        lengthscale: Distribution | float,
        outputscale: Distribution | float,
        noise: Distribution | float,
        period: Distribution | float | None = None,
        depth: int = 1,
        n_features: int | tuple[int, int] = 1,
        inputs: Callable[..., Tensor] = standardised_inputs,
        scale_by_dimension: bool = False,
        solver: str = "auto",
    ) -> None:
        known = [*KERNELS, *NETWORK_KERNELS]
        if kernel not in known:
            raise ValueError(f"Expected kernel to be one of {sorted(known)}; got {kernel!r}.")
        depth = whole_number("depth", depth, 1)
        if depth != 1 and kernel not in NETWORK_KERNELS:
            raise ValueError(
                f"Expected a depth >= 1 with a network kernel, {list(NETWORK_KERNELS)}, and none "
                f"with others; got {depth!r} with {kernel!r}."
            )
        if (kernel == "periodic") != (period is not None):
            raise ValueError(
                f"Expected a period with the periodic kernel and with no other; got kernel "
                f"{kernel!r} and period {period!r}."
            )
        pair = n_features if isinstance(n_features, tuple | list) else (n_features, n_features)
        if len(pair) != 2:
            raise ValueError(f"Expected n_features, or (fewest, most); got {n_features!r}.")
        fewest, most = (whole_number("n_features", n, 1) for n in pair)
        if fewest > most:
            raise ValueError(f"Expected 1 <= fewest <= most features; got {n_features!r}.")
        if solver not in SOLVERS:
            raise ValueError(f"Expected solver among {SOLVERS}; got {solver!r}.")
        if solver == "state-space" and (kernel not in MARKOV or most > 1):
            raise ValueError(
                f"Expected one feature and a kernel among {MARKOV} with solver='state-space'; got "
                f"{kernel!r} and n_features={n_features!r}. Take solver='auto'."
            )
        self.solver = solver
        self.kernel, self.depth = kernel, depth
        self.n_features = (fewest, most)
        self.inputs = inputs
        self.scale_by_dimension = scale_by_dimension
        self.hyperparameters: dict[str, Distribution | float] = {
            "lengthscale": lengthscale,
            "outputscale": outputscale,
            "noise": noise,
        } | ({} if period is None else {"period": period})
        for name, value in self.hyperparameters.items():
            if not isinstance(value, Distribution):
                number_between(name, value, 0, math.inf)

    @property
    def is_fixed(self) -> bool:
        """Whether no hyperparameter is a latent."""
        return not any(isinstance(h, Distribution) for h in self.hyperparameters.values())

    def _inputs(self, n_tasks: int, n_rows: int) -> Tensor:
        fewest, most = self.n_features
        n_features = int(fewest * ((most + 1) / fewest) ** torch.rand((), device="cpu").item())
        return self.inputs(n_tasks, n_rows, n_features)

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor | None:
        """The prior as a Pyro program."""
        values = {name: self._hyperparameter(name, x) for name in self.hyperparameters}
        covariance = self.noisy_covariance(x, values)
        scale, failed = torch.linalg.cholesky_ex(covariance)
        # A matrix that is not positive definite in this dtype has no density, reported as NaN.
        scale = torch.where((failed == 0)[..., None, None], scale, torch.nan)
        mean = x.new_zeros(x.shape[0])
        return pyro.sample("y", dist.MultivariateNormal(mean, scale_tril=scale), obs=y)

    def _hyperparameter(self, name: str, x: Tensor) -> Tensor:
        given: Any = self.hyperparameters[name]  # Pyro distributions are typed differently
        by_feature = name in ("lengthscale", "period")
        if not isinstance(given, Distribution):
            return x.new_full((x.shape[-1],) if by_feature else (), float(given))
        if by_feature:
            given = given.expand((x.shape[-1],)).to_event(1)
        return pyro.sample(name, given)

    def covariance(
        self,
        x: Float[Tensor, "*batch n features"],
        z: Float[Tensor, "*batch m features"],
        hyperparameters: dict[str, Any],
    ) -> Float[Tensor, "*batch n m"]:
        """Covariance of the function without noise, for hyperparameters ``(*batch, ...)``."""
        lengthscale = hyperparameters["lengthscale"]
        if self.scale_by_dimension:
            lengthscale = lengthscale * math.sqrt(x.shape[-1])
        if self.kernel in NETWORK_KERNELS:
            correlation = NETWORK_KERNELS[self.kernel](x, z, lengthscale, self.depth)
        else:
            periods = [hyperparameters["period"]] if self.kernel == "periodic" else []
            correlation = KERNELS[self.kernel](x, z, lengthscale, *periods)
        return correlation * hyperparameters["outputscale"].square()[..., None, None]

    def noisy_covariance(
        self, x: Float[Tensor, "*batch n features"], hyperparameters: dict[str, Any]
    ) -> Float[Tensor, "*batch n n"]:
        """Covariance of the targets."""
        variance = self._noise_variance(hyperparameters, x.dtype)
        eye = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        return self.covariance(x, x, hyperparameters) + variance[..., None, None] * eye

    def _noise_variance(self, hyperparameters: dict[str, Any], dtype: torch.dtype) -> Tensor:
        """Variance of the noise, in any units of the targets."""
        noise, function = (hyperparameters[k].square() for k in ("noise", "outputscale"))
        return noise + torch.minimum(_JITTER.get(dtype, 1e-6) * function, noise)

    def posterior_predictive(
        self, batch: TaskBatch, hyperparameters: dict[str, Any] | None = None
    ) -> Normal:
        """The exact predictive of each query target, noise included, ``(batch, query)``.

        Args:
            batch: tasks whose contexts are conditioned on.
            hyperparameters: each ``(batch, ...)``; None uses the fixed ones, which requires all to
                be fixed.

        Raises:
            ValueError: if hyperparameters are latent and not given.
        """
        if hyperparameters is None:
            hyperparameters = self._fixed(batch.x_context)
        x, z = batch.x_context, batch.x_query
        if self._is_linear(x):
            laws = [
                self._along_time(
                    torch.cat((x[i], z[i])),
                    torch.cat((y, torch.full_like(z[i, :, 0], torch.nan))),
                    {name: value[i] for name, value in hyperparameters.items()},
                )
                for i, y in enumerate(batch.y_context)
            ]
            n, noise = x.shape[1], self._noise_variance(hyperparameters, torch.float64)[..., None]
            mean, variance = (torch.stack([law[k][n:] for law in laws]) for k in (0, 1))
            return Normal(mean.to(x), (variance.to(x) + noise).sqrt())
        # Alg. 2.1 of Rasmussen and Williams.
        scale = torch.linalg.cholesky(self.noisy_covariance(x, hyperparameters))
        cross = torch.linalg.solve_triangular(
            scale, self.covariance(x, z, hyperparameters), upper=False
        )
        whitened = torch.linalg.solve_triangular(scale, batch.y_context[..., None], upper=False)
        mean = (cross.transpose(-1, -2) @ whitened).squeeze(-1)
        each = {
            name: value.unsqueeze(1).expand(len(value), z.shape[1], *value.shape[1:])
            for name, value in hyperparameters.items()
        }
        prior_variance = self.covariance(z.unsqueeze(2), z.unsqueeze(2), each)[..., 0, 0]
        noise = self._noise_variance(hyperparameters, x.dtype)[..., None]
        variance = (prior_variance - cross.square().sum(-2)).clamp_min(0) + noise
        return Normal(mean, variance.sqrt())

    def log_evidence(
        self,
        x: Float[Tensor, "batch n features"],
        y: Float[Tensor, "batch n"],
        hyperparameters: dict[str, Any] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Exact log density of the targets, with the function integrated out."""
        if hyperparameters is None:
            hyperparameters = self._fixed(x)
        if self._is_linear(x):
            each = [
                {name: value[i] for name, value in hyperparameters.items()} for i in range(len(x))
            ]
            laws = [self._along_time(*rows).log_evidence for rows in zip(x, y, each, strict=True)]
            return torch.stack(laws).to(x)
        scale = torch.linalg.cholesky(self.noisy_covariance(x, hyperparameters))
        whitened = torch.linalg.solve_triangular(scale, y[..., None], upper=False)
        # Alg. 2.1, line 7; torch's multivariate normal does not support an empty context.
        log_normaliser = scale.diagonal(dim1=-1, dim2=-2).log() + 0.5 * math.log(2 * math.pi)
        return -(0.5 * whitened.squeeze(-1).square() + log_normaliser).sum(-1)

    def _is_linear(self, x: Tensor) -> bool:
        """Whether the answers for such contexts come from a filter."""
        if self.solver != "auto" or x.shape[-1] > 1 or self.kernel not in MARKOV:
            return self.solver == "state-space"
        return x.shape[-2] > _MOST_DENSE

    def _along_time(self, x: Tensor, y: Tensor, hyperparameters: dict[str, Tensor]) -> Smoothed:
        """The function at rows in any order, and the evidence of those that are not NaN."""
        t, order = x[:, 0].double().sort(stable=True)
        values = {name: value.double() for name, value in hyperparameters.items()}
        part = Matern(self.kernel, values["lengthscale"][0], values["outputscale"])
        noise = self._noise_variance(values, torch.float64)
        law = smoothed(part, t, y.double()[order], noise)
        back = order.argsort()
        return Smoothed(law.mean[back], law.variance[back], law.log_evidence)

    def _fixed(self, x: Tensor) -> dict[str, Tensor]:
        if not self.is_fixed:
            raise ValueError(
                "Expected fixed hyperparameters, for which the answer is exact; got latent ones. "
                "Pass their values, or use infer(..., method='nuts')."
            )
        with torch.no_grad():
            values = {name: self._hyperparameter(name, x[0]) for name in self.hyperparameters}
        return {name: value.expand(len(x), *value.shape) for name, value in values.items()}
