"""Effective draws per second: our samplers beside Pyro's NUTS.

    python benchmarks/samplers.py [--datasets 64] [--only "eight"]

Everything runs in one thread at its own defaults, warm-up and compilation counted, in CPU
seconds. The effective sample size is honest for particles that share ancestors: the posterior
variance over the variance of the estimated mean among independent runs (for our samplers, the
datasets of one batch, which are equal copies; for the peers, their chains' bulk ESS, which is
kind to them).
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before the libraries look

import argparse  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402

import pyro  # noqa: E402
import pyro.distributions as dist  # noqa: E402
import torch  # noqa: E402
from pyro.infer import MCMC, NUTS  # noqa: E402
from torch import Tensor  # noqa: E402

from amortized.priors.density import ProgramDensity  # noqa: E402
from amortized.sampling.convergence import ess_bulk, replicate_ess  # noqa: E402
from amortized.sampling.smc import smc  # noqa: E402

SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)


def eight_schools(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Non-centred, 10 latents (Gelman et al., Bayesian Data Analysis, section 5.5)."""
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(SIGMA)):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(mean + spread * effect, SIGMA), obs=y)


def gaussian_process(x: Tensor, y: Tensor | None = None) -> Tensor:
    """RBF kernel with log-normal hyperpriors, 3 latents."""
    lengthscale = pyro.sample("lengthscale", dist.LogNormal(-1.0, 0.5))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    noise = pyro.sample("noise", dist.LogNormal(-2.0, 0.5))
    covariance = scale**2 * torch.exp(-0.5 * ((x - x.T) / lengthscale) ** 2)
    covariance = covariance + noise**2 * torch.eye(len(x))
    return pyro.sample("y", dist.MultivariateNormal(x.new_zeros(len(x)), covariance), obs=y)


def logistic(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Logistic regression, 9 latents."""
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Bernoulli(logits=x @ weights + shift).to_event(1), obs=y)


def problems() -> dict[str, tuple[Callable[..., Tensor], Tensor, Tensor]]:
    """The three programs with one dataset each."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = randn(500, 8)
    chance = torch.sigmoid(0.7 * inputs @ randn(8) + 0.3)
    labels = torch.bernoulli(chance, generator=generator)
    places = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(1)
    curve = torch.sin(4 * places[:, 0]) + 0.15 * randn(20)
    return {
        "eight schools": (eight_schools, torch.zeros(8, 0, dtype=torch.float64), EFFECTS),
        "GP, 20 points": (gaussian_process, places, curve),
        "logistic 500 x 8": (logistic, inputs, labels),
    }


def our_smc(
    program: Callable[..., Tensor], x: Tensor, y: Tensor, copies: int
) -> tuple[float, float]:
    """Seconds and replicate ESS of the worst latent, for a batch of equal datasets."""
    began = time.process_time()
    density = ProgramDensity(program, x.repeat(copies, 1, 1), y.repeat(copies, 1))
    u = smc(density).u
    seconds = time.process_time() - began
    if copies == 1:  # replicates are needed to count; they are not part of the time
        many = ProgramDensity(program, x.repeat(16, 1, 1), y.repeat(16, 1))
        u = smc(many).u
    ess = replicate_ess(u.mean(1), u.flatten(0, 1).var(0)).min().item()
    return seconds, ess * copies


def pyro_nuts(
    program: Callable[..., Tensor], x: Tensor, y: Tensor, jit: bool
) -> tuple[float, float]:
    """Seconds and bulk ESS of the worst latent, for one dataset and one chain."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    began = time.process_time()
    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.simplefilter("ignore")
        kernel = NUTS(program, jit_compile=jit, ignore_jit_warnings=True)
        run = MCMC(kernel, num_samples=1000, warmup_steps=500, disable_progbar=True)
        run.run(x, y)
    seconds = time.process_time() - began
    torch.set_default_dtype(before)
    draws = run.get_samples(group_by_chain=True)
    return seconds, min(ess_bulk(value).min().item() for value in draws.values())


def samplers(
    program: Callable[..., Tensor], x: Tensor, y: Tensor, copies: int
) -> dict[str, Callable[[], tuple[float, float]]]:
    """The rows of one problem, each ready to run."""
    return {
        "Pyro NUTS, 1": lambda: pyro_nuts(program, x, y, jit=False),
        "Pyro NUTS JIT, 1": lambda: pyro_nuts(program, x, y, jit=True),
        "our SMC, 1": lambda: our_smc(program, x, y, 1),
        f"our SMC, {copies}": lambda: our_smc(program, x, y, copies),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=64)
    parser.add_argument("--only", default="", help="part of a problem's name")
    arguments = parser.parse_args()
    print(f"{'problem':<18}{'sampler':<28}{'seconds':>9}{'ESS':>10}{'ESS/s':>10}")
    for name, (program, x, y) in problems().items():
        if arguments.only not in name:
            continue
        for sampler, run in samplers(program, x, y, arguments.datasets).items():
            torch.manual_seed(0)
            pyro.set_rng_seed(0)
            seconds, ess = run()
            print(
                f"{name:<18}{sampler:<28}{seconds:>9.2f}{ess:>10.0f}{ess / seconds:>10.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
