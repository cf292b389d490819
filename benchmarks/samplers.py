"""Effective draws per second: our SMC beside NUTS of Pyro, NumPyro and BlackJAX.

    python benchmarks/samplers.py [--datasets 64] [--only eight] [--sampler SMC] [--memory]

Every row runs cold in a process of its own, in one thread of the CPU and at its library's own
defaults; CPU seconds count warm-up, tracing and compilation. Three columns need a word:

- ESS is honest for particles that share ancestors: the posterior variance over the variance of the
  estimated mean among independent runs, which are the equal datasets of one batch. Rows of one
  dataset by NUTS show their chain's bulk ESS instead, which is kind to them; that of our SMC comes
  from 16 more runs, which are not timed.
- "to 400" are the seconds until a first dataset has 400 effective draws: what comes before the
  first draw, and the share of the draws that 400 take.
- MB is the most memory that the process had, libraries included.

``--memory`` adds the largest batch: 64 datasets of the GP by 4,096 particles each.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before the libraries look
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse  # noqa: E402
import multiprocessing  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import pyro  # noqa: E402
import pyro.distributions as dist  # noqa: E402
import torch  # noqa: E402
from pyro.infer import MCMC, NUTS  # noqa: E402
from torch import Tensor  # noqa: E402

from amortized.program.density import ProgramDensity  # noqa: E402
from amortized.sampling.checks.convergence import ess_bulk, replicate_ess  # noqa: E402
from amortized.sampling.smc import smc  # noqa: E402

SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
N_WARMUP, N_DRAWS, ENOUGH = 500, 1000, 400

Problem = tuple[Callable[..., Tensor], Tensor, Tensor]


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


def problems() -> dict[str, Problem]:
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


class Run(NamedTuple):
    """What one row measures.

    Attributes:
        seconds: of the processor, all told.
        before: those before the first draw.
        ess: of the worst latent, summed over the datasets.
        n_datasets: how many were inferred at once.
    """

    seconds: float
    before: float
    ess: float
    n_datasets: int


def ess_of_chains(draws: np.ndarray | Tensor) -> float:
    """Of the worst latent: bulk for one chain, by replicates for many; ``(chains, draws, dim)``."""
    chains = torch.as_tensor(draws, dtype=torch.float64)
    if len(chains) < 16:
        return ess_bulk(chains).min().item()
    ess = replicate_ess(chains.mean(1), chains.flatten(0, 1).var(0))
    return ess.min().item() * len(chains)


def our_smc(problem: str, n_datasets: int, **options: int) -> Run:
    """The default of `smc`."""
    program, x, y = problems()[problem]
    began = time.process_time()
    density = ProgramDensity(program, x.repeat(n_datasets, 1, 1), y.repeat(n_datasets, 1))
    u = smc(density, **options).u
    seconds = time.process_time() - began
    if n_datasets == 1:  # replicates are needed to count; they are not part of the time
        u = smc(ProgramDensity(program, x.repeat(16, 1, 1), y.repeat(16, 1))).u
    return Run(seconds, 0.0, ess_of_chains(u) / len(u) * n_datasets, n_datasets)


def pyro_nuts(problem: str, jit: bool) -> Run:
    """One chain for one dataset."""
    program, x, y = problems()[problem]
    torch.set_default_dtype(torch.float64)
    stages: dict[str, float] = {}
    began = time.process_time()
    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.simplefilter("ignore")
        kernel = NUTS(program, jit_compile=jit, ignore_jit_warnings=True)
        run = MCMC(
            kernel,
            N_DRAWS,
            N_WARMUP,
            disable_progbar=True,
            hook_fn=lambda _k, _s, stage, _i: stages.setdefault(stage, time.process_time()),
        )
        run.run(x, y)
    seconds = time.process_time() - began
    draws = run.get_samples().values()
    joined = torch.cat([value.reshape(1, N_DRAWS, -1) for value in draws], -1)
    return Run(seconds, stages["Sample"] - began, ess_of_chains(joined), 1)


def rows(n_datasets: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """The function and arguments of each row, by the name it is shown under."""
    return {
        "Pyro NUTS, 1": ("pyro_nuts", {"jit": False}),
        "Pyro NUTS JIT, 1": ("pyro_nuts", {"jit": True}),
        "NumPyro NUTS, 1": ("numpyro_nuts", {"n_datasets": 1}),
        f"NumPyro NUTS, {n_datasets}": ("numpyro_nuts", {"n_datasets": n_datasets}),
        "BlackJAX NUTS, 1": ("blackjax_nuts", {"n_datasets": 1}),
        f"BlackJAX NUTS, {n_datasets}": ("blackjax_nuts", {"n_datasets": n_datasets}),
        "our SMC, 1": ("our_smc", {"n_datasets": 1}),
        f"our SMC, {n_datasets}": ("our_smc", {"n_datasets": n_datasets}),
    }


def measure(function: str, problem: str, arguments: dict[str, Any]) -> tuple[Run, float] | str:
    """Runs a row in this process, which is to be a fresh one; gives its memory in MB too."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    try:
        if function in globals():
            run = globals()[function](problem, **arguments)
        else:
            import jax_samplers

            _, x, y = problems()[problem]
            began = time.process_time()
            before, draws = getattr(jax_samplers, function)(
                problem, x.numpy(), y.numpy(), n_warmup=N_WARMUP, n_draws=N_DRAWS, **arguments
            )
            run = Run(
                time.process_time() - began, before, ess_of_chains(draws), arguments["n_datasets"]
            )
    except ImportError as reason:
        return f"not installed: {reason.name}"
    return run, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def line(measured: tuple[Run, float] | str) -> str:
    """The numbers of a row."""
    if isinstance(measured, str):
        return f"  {measured}"
    run, megabytes = measured
    first = run.before + (run.seconds - run.before) * ENOUGH * run.n_datasets / run.ess
    first = f"{max(first, run.seconds * (run.before == 0)):.2f}"  # particles come all or none
    return (
        f"{run.seconds:>9.2f}{run.ess:>10.0f}{run.ess / run.seconds:>10.0f}"
        f"{first if run.n_datasets == 1 else '':>9}{megabytes:>8.0f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=64)
    parser.add_argument("--only", default="", help="part of a problem's name")
    parser.add_argument("--sampler", default="", help="part of a sampler's name")
    parser.add_argument("--memory", action="store_true", help="add the largest batch")
    arguments = parser.parse_args()
    table = [(p, n, *row) for p in problems() for n, row in rows(arguments.datasets).items()]
    if arguments.memory:
        large = {"n_datasets": 64, "n_particles": 4096}
        table.append(("GP, 20 points", "our SMC, 64 x 4,096", "our_smc", large))
    head = ("seconds", "ESS", "ESS/s", "to 400", "MB")
    print(f"{'problem':<18}{'sampler':<21}{head[0]:>9}{head[1]:>10}{head[2]:>10}", end="")
    print(f"{head[3]:>9}{head[4]:>8}")
    fork = multiprocessing.get_context("fork")
    for problem, label, function, options in table:
        if arguments.only in problem and arguments.sampler in label:
            with fork.Pool(1) as process:
                measured = process.apply(measure, (function, problem, options))
            print(f"{problem:<18}{label:<21}{line(measured)}", flush=True)


if __name__ == "__main__":
    main()
