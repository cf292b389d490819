"""Parameters by marginal likelihood against closed forms, and the noise of gradients.

1. A mixture of three normals, 200 rows: the best of 20 runs of EM, against `fit_parameters`.
2. Random effects, 30 groups of 4 rows: the marginal likelihood is normal; BFGS to convergence.
3. The variance of the gradient of Monte Carlo EM at the optimum, without and with its control
   variate, for a choice among three whose law depends on x and that is seen through noise. The less
   the noise lets through, the more proposals are accepted.

    python benchmarks/fitted_parameters.py
"""

import time
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.distributions import constraints

from amortized import fit_parameters
from amortized.empirical_bayes.monte_carlo_em import Chains
from amortized.empirical_bayes.parameters import Parameters, WithParameters
from amortized.seeding import seeded


def mixture(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Three normals of one width."""
    share = pyro.param("share", torch.ones(3) / 3, constraint=constraints.simplex)
    mean = pyro.param("mean", torch.tensor([-1.0, 0.0, 3.0]))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(share))
        return pyro.sample("y", dist.Normal(mean[z], scale), obs=y)


def em(y: NDArray[np.float64], mean: NDArray[np.float64], n_steps: int = 3000) -> tuple[float, ...]:
    """Log evidence and parameters at the end of EM, means in ascending order."""
    share, scale = np.ones(3) / 3, 1.0
    for _ in range(n_steps):
        log_p = np.log(share) - 0.5 * ((y[:, None] - mean) / scale) ** 2
        shares = np.exp(log_p - log_p.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        share = shares.mean(0)
        mean = (shares * y[:, None]).sum(0) / shares.sum(0)
        scale = float(np.sqrt((shares * (y[:, None] - mean) ** 2).sum() / len(y)))
    density = share * np.exp(-0.5 * ((y[:, None] - mean) / scale) ** 2) / scale / np.sqrt(2 * np.pi)
    order = np.argsort(mean)
    return float(np.log(density.sum(1)).sum()), *share[order], *mean[order], scale


def effects(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A mean for each group."""
    centre = pyro.param("centre", torch.tensor(0.0))
    between = pyro.param("between", torch.tensor(1.0), constraint=constraints.positive)
    within = pyro.param("within", torch.tensor(1.0), constraint=constraints.positive)
    mean = pyro.sample("mean", dist.Normal(centre, between))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(mean, within), obs=y)


def choice(noise: float, n: int, seed: int) -> tuple[object, Tensor, Tensor]:
    """A program, inputs and answers of choices seen through noise."""
    slope = torch.tensor([[-2.0, 0.0, 2.0]], dtype=torch.float64)
    places = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)

    def program(x: Tensor, y: Tensor | None = None) -> Tensor:
        w = pyro.param("w", slope)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=x @ w))
            return pyro.sample("y", dist.Normal(places[z], noise), obs=y)

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    z = torch.multinomial((x @ slope).softmax(-1), 1, generator=generator)[:, 0]
    y = places[z] + noise * torch.randn(n, generator=generator, dtype=torch.float64)
    return program, x, y


def gradient_variance(noise: float, n_kept: int = 300) -> tuple[float, float, float]:
    """Acceptance, and variances of one chain's gradient at the optimum: without and with."""
    program, x, y = choice(noise, 100, 0)
    fitted = fit_parameters(program, x, y, method="exact", n_starts=1)  # type: ignore[arg-type]
    parameters = Parameters(program, x, y, fitted.values)  # type: ignore[arg-type]
    variances = []
    for control in (False, True):
        theta = parameters.start.clone().requires_grad_()
        held = WithParameters(program, parameters.values(theta))  # type: ignore[arg-type]
        with seeded(1), torch.enable_grad():
            chains = Chains(held, x[None], y[None], 1)
            kept = []
            for step in range(n_kept + 60):
                gradient = chains.gradient(theta, control)
                if step >= 60:
                    kept.append(gradient)
        variances.append(float(torch.stack(kept).var(0).sum()))
    return float(chains.accept.mean()), variances[0], variances[1]


def line(name: str, values: list[float], seconds: float | None = None) -> None:
    """One row of a table."""
    cells = "".join(f"{value:11.5f}" for value in values)
    print(f"{name:<10}{cells}" + ("" if seconds is None else f"   {seconds:6.1f} s"), flush=True)


def main() -> None:
    """Prints the three tables."""
    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(0)
    z = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 200, replacement=True, generator=generator)
    y = torch.tensor([-2.0, 1.0, 4.0])[z] + 0.8 * torch.randn(200, generator=generator)
    y, x = y.double(), torch.zeros(200, 0)
    print("mixture of three normals: shares, means, scale, log evidence\n")
    starts = np.random.default_rng(0).normal(0.0, 3.0, (20, 3))
    best = max(em(y.numpy(), start) for start in starts)
    line("EM", [*best[1:], best[0]])
    for method in ("exact", "mcem"):
        began = time.perf_counter()
        fitted = fit_parameters(mixture, x, y, method=method)
        order = fitted["mean"].argsort()
        values = [*fitted["share"][order].tolist(), *fitted["mean"][order].tolist()]
        known = [] if fitted.log_evidence is None else [float(fitted.log_evidence)]
        line(method, [*values, fitted["scale"].item(), *known], time.perf_counter() - began)

    groups = 0.7 + 1.5 * torch.randn(30, 1, generator=generator, dtype=torch.float64)
    rows = groups + 0.6 * torch.randn(30, 4, generator=generator, dtype=torch.float64)

    def loss(at: NDArray[np.float64]) -> float:
        covariance = np.exp(2 * at[2]) * np.eye(4) + np.exp(2 * at[1])
        return float(-multivariate_normal(np.full(4, at[0]), covariance).logpdf(rows.numpy()).sum())

    print("\nrandom effects: centre, between, within, log evidence\n")
    found = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8})
    line("closed", [found.x[0], np.exp(found.x[1]), np.exp(found.x[2]), -found.fun])
    for method in ("iwae", "mcem"):
        began = time.perf_counter()
        fitted = fit_parameters(effects, torch.zeros(30, 4, 0), rows, method=method)
        values = [fitted[name].item() for name in ("centre", "between", "within")]
        known = [] if fitted.log_evidence is None else [float(fitted.log_evidence)]
        line(method, [*values, *known], time.perf_counter() - began)

    print("\nvariance of the gradient at the optimum, one chain a row\n")
    print(f"{'noise':>6} {'accepted':>9} {'without':>9} {'with control variate':>21} {'ratio':>7}")
    for noise in (0.3, 0.5, 1.0, 2.0, 4.0, 8.0):
        accept, without, controlled = gradient_variance(noise)
        ratio = controlled / without
        print(
            f"{noise:6.1f} {accept:9.3f} {without:9.3f} {controlled:21.4f} {ratio:7.3f}", flush=True
        )


if __name__ == "__main__":
    main()
