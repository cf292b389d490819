"""Evidences that are known: nested sampling and SMC, and surrogates of the likelihood.

    python benchmarks/evidence.py [--repeats 20] [--problems shells-2 ...]
    python benchmarks/evidence.py --surrogates [--repeats 3]

The first table: mean error of the log evidence over repetitions, its spread, the mean stated error,
the share of repetitions within three stated errors, how many are in doubt, likelihood calls and
processor seconds of each. Gaussian shells, two of radius 2 and width .1 at a distance of 7 in a box
of [-6, 6]; the eggbox (Feroz, Hobson and Bridges, 2009, arXiv 0809.3437), log Z = 235.856; and a
normal with correlations of .5 in 20 dimensions in a box of [-10, 10].

The second: calls of the true likelihood by `method="surrogate"` and by plain SMC, and the error of
the log evidence. Dark energy: H0, Omega_m and w0 from 200 simulated supernova distance moduli,

    mu(z) = 5 log10(d_L / Mpc) + 25,   d_L = (1 + z) c / H0 int_0^z dz' / E(z'),
    E(z)^2 = Omega_m (1 + z)^3 + (1 - Omega_m) (1 + z)^(3 (1 + w0)),

with errors of .15 mag and the integral by quadrature; its evidence is a sum over a grid.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import integrate, stats
from torch import Tensor

from amortized import infer
from amortized.program.density import ProgramDensity

Program = Callable[..., Any]
NOTHING = -0.5 * math.log(2 * math.pi)  # log density of the observation, N(0, 1) at 0


def in_box(
    low: float, high: float, dim: int, log_likelihood: Callable[[Tensor], Tensor]
) -> Program:
    """A program of a uniform prior and any likelihood."""

    def program(x: Tensor, y: Tensor | None = None) -> Any:
        t = pyro.sample("t", dist.Uniform(low, high).expand([dim]).to_event(1))
        pyro.factor("likelihood", log_likelihood(t))
        return pyro.sample("y", dist.Normal(0 * t[0], 1.0).expand([len(x)]).to_event(1), obs=y)

    return program


def shells(dim: int) -> tuple[Program, float]:
    """Two thin shells, and the log evidence by quadrature over the radius."""

    def log_likelihood(t: Tensor) -> Tensor:
        centre = torch.zeros_like(t)
        centre[0] = 3.5
        each = [dist.Normal(2.0, 0.1).log_prob((t - c).norm()) for c in (centre, -centre)]
        return torch.logaddexp(*each)

    def mass(r: float) -> float:
        area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2) * r ** (dim - 1)
        return area * float(stats.norm.pdf(r, 2.0, 0.1))

    total = 2 * integrate.quad(mass, 1.0, 3.0, points=[2.0])[0]
    return in_box(-6.0, 6.0, dim, log_likelihood), math.log(total) - dim * math.log(12.0)


def eggbox() -> tuple[Program, float]:
    """Eighteen modes."""

    def log_likelihood(t: Tensor) -> Tensor:
        return (2 + (t[0] / 2).cos() * (t[1] / 2).cos()) ** 5

    return in_box(0.0, 10 * math.pi, 2, log_likelihood), 235.856


def normal(dim: int) -> tuple[Program, float]:
    """A correlated normal; the mass outside the box is below 1e-20."""
    covariance = 0.5 * torch.eye(dim, dtype=torch.float64) + 0.5
    factor = torch.linalg.cholesky(covariance)

    def log_likelihood(t: Tensor) -> Tensor:
        law = dist.MultivariateNormal(torch.zeros_like(t), scale_tril=factor.to(t))
        return law.log_prob(t)

    return in_box(-10.0, 10.0, dim, log_likelihood), -dim * math.log(20.0)


PROBLEMS: dict[str, Callable[[], tuple[Program, float]]] = {
    "shells-2": lambda: shells(2),
    "shells-5": lambda: shells(5),
    "shells-10": lambda: shells(10),
    "eggbox": eggbox,
    "normal-20": lambda: normal(20),
}


def evidences(names: list[str], repeats: int) -> None:
    """Print the table of nested sampling and SMC; repetitions are equal datasets of a batch."""
    columns = ("bias", "spread", "error", "within 3", "in doubt", "calls", "seconds")
    print(f"{'problem':<12}{'method':<8}{'exact':>10}" + "".join(f"{c:>10}" for c in columns))
    for name in names:
        program, exact = PROBLEMS[name]()
        x = torch.zeros(repeats, 1, 0, dtype=torch.float64)
        y = torch.zeros(repeats, 1, dtype=torch.float64)
        for method in ("nested", "smc"):
            began = time.process_time()
            found = infer(program, x, y, method=method, n_draws=1000)
            seconds = (time.process_time() - began) / repeats
            off = found.log_evidence - exact - NOTHING
            error = found.log_evidence_error
            doubt = sum(map(bool, found.diagnostics["doubt"]))
            print(
                f"{name:<12}{method:<8}{exact:>10.3f}{off.mean():>10.3f}{off.std():>10.3f}"
                f"{error.mean():>10.3f}{(off.abs() < 3 * error).double().mean():>10.2f}"
                f"{doubt:>10}{found.diagnostics['likelihood_calls'] / repeats:>10.0f}"
                f"{seconds:>10.1f}",
                flush=True,
            )


NODES, WEIGHTS = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(32))
LIGHT = 299792.458  # km/s


def distance_modulus(z: Tensor, h0: Tensor, matter: Tensor, w0: Tensor) -> Tensor:
    """Of a flat universe with dark energy of a constant equation of state."""
    at = 0.5 * z[:, None] * (NODES.to(z) + 1)
    e = matter * (1 + at) ** 3 + (1 - matter) * (1 + at) ** (3 * (1 + w0))
    comoving = 0.5 * z * (WEIGHTS.to(z) / e.sqrt()).sum(-1)
    return 5 * torch.log10((1 + z) * LIGHT / h0 * comoving) + 25


def dark_energy(x: Tensor, y: Tensor | None = None) -> Any:
    """Distance moduli of supernovae."""
    h0 = pyro.sample("h0", dist.Uniform(60.0, 80.0))
    matter = pyro.sample("matter", dist.Uniform(0.05, 0.7))
    w0 = pyro.sample("w0", dist.Uniform(-2.0, -0.3))
    mean = distance_modulus(x[:, 0], h0, matter, w0)
    return pyro.sample("y", dist.Normal(mean, 0.15).to_event(1), obs=y)


def supernovae(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Redshifts and moduli of a universe with H0 = 70, Omega_m = .3 and w0 = -1."""
    generator = torch.Generator().manual_seed(seed)
    z = 0.02 + 1.2 * torch.rand(200, generator=generator, dtype=torch.float64)
    mean = distance_modulus(z, *torch.tensor([70.0, 0.3, -1.0], dtype=torch.float64))
    noise = 0.15 * torch.randn(200, generator=generator, dtype=torch.float64)
    return z.unsqueeze(-1), mean + noise


def grid_evidence(x: Tensor, y: Tensor, n: int = 60) -> float:
    """Mean likelihood over midpoints of a grid of the prior's quantiles."""
    density = ProgramDensity(dark_energy, x[None], y[None])
    level = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    u = torch.special.ndtri(torch.cartesian_prod(level, level, level))
    with torch.no_grad():
        parts = [density.log_likelihood(part[None])[0] for part in u.split(8000)]
    return float(torch.cat(parts).logsumexp(0) - 3 * math.log(n))


def surrogates(repeats: int) -> None:
    """Print calls and errors with and without a surrogate."""
    x, y = torch.zeros(1, 0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    program, exact = shells(5)
    redshift, modulus = supernovae()
    problems = {
        "dark energy": (dark_energy, redshift, modulus, grid_evidence(redshift, modulus)),
        "shells-5": (program, x, y, exact + NOTHING),
    }
    print(f"{'problem':<14}{'method':<11}{'exact':>10}{'off':>9}{'error':>9}{'calls':>10}{'doubts':>8}"
          f"{'seconds':>9}")  # fmt: skip
    for name, (model, inputs, answers, known) in problems.items():
        for method, seeds in (("surrogate", repeats), ("smc", 1)):
            for seed in range(seeds):
                began = time.process_time()
                found = infer(model, inputs, answers, method=method, seed=seed)
                seconds = time.process_time() - began
                evidence, error = float(found.log_evidence), float(found.log_evidence_error)
                print(
                    f"{name:<14}{method:<11}{known:>10.3f}{evidence - known:>9.3f}{error:>9.3f}"
                    f"{found.diagnostics['likelihood_calls']:>10}"
                    f"{len(found.diagnostics['doubt']):>8}{seconds:>9.1f}",
                    flush=True,
                )


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--problems", nargs="*", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--surrogates", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # doubts are counted
    if arguments.surrogates:
        surrogates(arguments.repeats)
    else:
        evidences(arguments.problems, arguments.repeats)


if __name__ == "__main__":
    main()
