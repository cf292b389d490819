"""Accuracy of SMC and NUTS on plain Pyro programs, against long NUTS runs.

    python benchmarks/posteriors.py [--only name] [--references folder]

The reference of each program is NumPyro's NUTS on the same program (`jax_programs`), four chains at
a time, until rank-normalised split R-hat is below 1.01 and every latent has 10,000 effective draws,
bulk and tail. Bar: every mean within 0.1 reference standard deviations and every standard deviation
within 10%, in the latents' own units, by SMC with 8,000 draws and by NUTS with 4,000, at their
defaults otherwise. Seconds are CPU time. The last column is the Monte Carlo error of the
reference's own sds, from its chains.

A folder keeps the references for the next run.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax_programs
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from amortized.program.density import ProgramDensity
from amortized.sampling.checks.convergence import ess_bulk, ess_tail, r_hat
from amortized.sampling.nuts import nuts
from amortized.sampling.smc import smc

N_EFFECTIVE, MAX_R_HAT, N_CHAINS = 10_000, 1.01, 4

Program = Callable[..., Tensor]


def answers(law: dist.Distribution, y: Tensor | None) -> Tensor:
    """Observes all rows at once."""
    return pyro.sample("y", law.to_event(1), obs=y)


def normal(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Unknown mean and scale."""
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.HalfNormal(5.0))
    return answers(dist.Normal(mean, scale).expand([len(x)]), y)


def linear(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Linear regression with a heavy-tailed scale."""
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(3), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    return answers(dist.Normal(x @ weights, scale), y)


def robust(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Linear regression with Student's t noise of unknown freedom."""
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(3), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    freedom = pyro.sample("freedom", dist.Gamma(2.0, 0.1))
    return answers(dist.StudentT(freedom, x @ weights, scale), y)


def logistic(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Logistic regression of the sign of y."""
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(3), 2.0).to_event(1))
    return answers(dist.Bernoulli(logits=x @ weights), (y > 0).to(x.dtype) if y is not None else y)


def poisson(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Poisson regression of the rounded size of y."""
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    rate = (0.5 * x @ weights).clamp(max=20.0).exp()
    return answers(dist.Poisson(rate), y.abs().round() if y is not None else y)


def negative_binomial(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The same with overdispersion."""
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    shape = pyro.sample("shape", dist.Gamma(2.0, 0.5))
    law = dist.GammaPoisson(shape, shape * (-0.5 * x @ weights).clamp(min=-20.0).exp())
    return answers(law, y.abs().round() if y is not None else y)


def groups(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A varying intercept for each of five groups, not centred."""
    spread = pyro.sample("spread", dist.HalfNormal(2.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    shift = pyro.sample("shift", dist.Normal(x.new_zeros(5), 1.0).to_event(1))
    return answers(dist.Normal(spread * shift[torch.arange(len(x)) % 5], scale), y)


def varying_slopes(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A slope for each of five groups, not centred."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(5), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    slopes = mean + spread * slope[torch.arange(len(x)) % 5]
    return answers(dist.Normal(slopes * x[:, 0], scale), y)


def mixture(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Two normals told apart by their order."""
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    low = pyro.sample("low", dist.Normal(0.0, 3.0))
    gap = pyro.sample("gap", dist.Gamma(4.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    law = dist.MixtureSameFamily(
        dist.Categorical(torch.stack([share, 1 - share])),
        dist.Normal(torch.stack([low, low + gap]), scale),
    )
    return answers(law.expand([len(x)]), y)


def autoregression(x: Tensor, y: Tensor | None = None) -> Tensor:
    """AR(1) as the multivariate normal that it is."""
    persistence = pyro.sample("persistence", dist.Uniform(-1.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    lag = (torch.arange(len(x))[:, None] - torch.arange(len(x))).abs()
    variance = scale**2 / (1 - persistence**2 + 1e-6)
    sign = torch.where(lag % 2 == 0, 1.0, persistence.sign())
    covariance = variance * sign * (persistence.abs() + 1e-6) ** lag
    covariance = covariance + 1e-4 * torch.eye(len(x))
    return pyro.sample("y", dist.MultivariateNormal(x.new_zeros(len(x)), covariance), obs=y)


def gaussian_process(x: Tensor, y: Tensor | None = None) -> Tensor:
    """RBF kernel with log-normal hyperpriors."""
    lengthscale = pyro.sample("lengthscale", dist.LogNormal(0.0, 0.5))
    scale = pyro.sample("scale", dist.LogNormal(0.5, 0.5))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
    squared = (x[:, :1] - x[:, :1].T).square()
    covariance = scale**2 * torch.exp(-0.5 * squared / lengthscale**2)
    covariance = covariance + noise**2 * torch.eye(len(x))
    return pyro.sample("y", dist.MultivariateNormal(x.new_zeros(len(x)), covariance), obs=y)


def changepoint(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A level that moves smoothly from one value to another in time."""
    before = pyro.sample("before", dist.Normal(0.0, 3.0))
    after = pyro.sample("after", dist.Normal(0.0, 3.0))
    when = pyro.sample("when", dist.Beta(2.0, 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    time_ = torch.linspace(0, 1, len(x), dtype=x.dtype)
    share = torch.sigmoid(20 * (time_ - when))
    return answers(dist.Normal(before + (after - before) * share, scale), y)


def local_level(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A random walk seen through noise, its steps as latents."""
    step = pyro.sample("step", dist.HalfNormal(0.5))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    moves = pyro.sample("moves", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
    return answers(dist.Normal(step * moves.cumsum(0), scale), y)


def volatility(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Stochastic volatility: the log scale of the noise is an AR(1) process, its steps latents."""
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    persistence = pyro.sample("persistence", dist.Beta(10.0, 2.0))
    spread = pyro.sample("spread", dist.HalfNormal(0.5))
    moves = pyro.sample("moves", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
    lag = torch.arange(len(x))[:, None] - torch.arange(len(x))
    decay = torch.where(lag >= 0, persistence ** lag.clamp(min=0), 0.0)
    return answers(dist.Normal(0.0, (level + spread * decay @ moves).exp()), y)


def counts_in_groups(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Poisson regression with a varying intercept for each of five groups, not centred."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    shift = pyro.sample("shift", dist.Normal(x.new_zeros(5), 1.0).to_event(1))
    log_rate = mean + spread * shift[torch.arange(len(x)) % 5] + slope * x[:, 0]
    rate = log_rate.clamp(max=20.0).exp()
    return answers(dist.Poisson(rate), y.abs().round() if y is not None else y)


PROGRAMS = [
    normal,
    linear,
    robust,
    logistic,
    poisson,
    negative_binomial,
    groups,
    varying_slopes,
    mixture,
    autoregression,
    gaussian_process,
    changepoint,
    local_level,
    volatility,
    counts_in_groups,
]


def data() -> tuple[Tensor, Tensor]:
    """One table of 20 rows that all programs explain in their own way."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 20, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, 20, generator=generator, dtype=torch.float64)
    slopes = torch.tensor([1.0, -0.5, 0.5], dtype=torch.float64)
    return x, 1.0 + (x @ slopes) + 0.6 * noise


def in_own_units(density: ProgramDensity, u: Tensor) -> Tensor:
    """Every scalar latent as a column, ``(n, k)``."""
    columns = [v[0].reshape(u.shape[1], -1) for v in density.constrain(u).values()]
    return torch.cat(columns, -1)


def long_run(program: Program, density: ProgramDensity, folder: Path | None) -> Tensor:
    """Chains of NUTS that meet the reference's conditions, ``(chains, draws, k)``.

    Every run is kept as it comes; a later call goes on with the next.
    """
    name, (x, y) = program.__name__, (part[0] for part in data())
    torch.manual_seed(0)
    latents = {k: v[0] for k, v in density.constrain(density.sample_prior(5)).items()}
    joint = [log_joint(program, x, y, {k: v[i] for k, v in latents.items()}) for i in range(5)]
    jax_programs.check(
        name, x.numpy(), y.numpy(), {k: v.numpy() for k, v in latents.items()}, joint
    )
    stored = None if folder is None else folder / f"{name}.npy"
    chains: list[Tensor] = []
    if stored is not None and stored.exists():
        chains = list(torch.from_numpy(np.load(stored)).split(N_CHAINS))
    for seed in range(1 + len(chains), 13):
        if chains and is_long_enough(torch.cat(chains)):
            break
        run = jax_programs.chains(name, x.numpy(), y.numpy(), list(latents), N_EFFECTIVE, seed)
        chains.append(torch.tensor(run))
        if stored is not None:
            np.save(stored, torch.cat(chains).numpy())
    return torch.cat(chains)


def log_joint(program: Program, x: Tensor, y: Tensor, latents: dict[str, Tensor]) -> float:
    """Log density of latents in their own units and of the answers."""
    told = pyro.poutine.condition(program, data=latents)
    return float(pyro.poutine.trace(told).get_trace(x, y).log_prob_sum())


def is_long_enough(chains: Tensor) -> bool:
    """Whether chains meet the reference's conditions."""
    return bool(r_hat(chains).max() < MAX_R_HAT) and effective(chains) >= N_EFFECTIVE


def effective(chains: Tensor) -> float:
    """Effective draws of the worst latent, bulk or tail."""
    return torch.minimum(ess_bulk(chains), ess_tail(chains)).min().item()


def errors(draws: Tensor, reference: Tensor) -> tuple[float, float]:
    """Worst error of a mean in reference sds, and worst ratio of sds less 1."""
    scale = reference.std(0)
    mean = ((draws.mean(0) - reference.mean(0)) / scale).abs().max().item()
    return mean, (draws.std(0) / scale - 1).abs().max().item()


def line(program: Program, folder: Path | None) -> str:
    """The table's line of one program."""
    x, y = data()
    density = ProgramDensity(program, x, y)
    chains = long_run(program, density, folder)
    reference = chains.flatten(0, 1)
    cells = f"{program.__name__:<20}{chains.shape[-1]:>4}{r_hat(chains).max():>7.3f}"
    cells += f"{effective(chains):>8.0f}"
    met = True
    for run, n_draws in ((smc, 8000), (nuts, 4000)):
        torch.manual_seed(0)
        began = time.process_time()
        draws = in_own_units(density, run(density, n_draws).u)
        mean, sd = errors(draws, reference)
        met = met and mean < 0.1 and sd < 0.1
        cells += f"{mean:>10.3f}{sd:>8.3f}{time.process_time() - began:>7.1f}"
    uncertain = (chains.std(1).std(0) / len(chains) ** 0.5 / reference.std(0)).max().item()
    return f"{cells}{'yes' if met else 'NO':>6}{uncertain:>8.3f}"


def main() -> None:
    """Print one line a program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--references", type=Path, help="folder that keeps the long runs")
    arguments = parser.parse_args()
    if arguments.references is not None:
        arguments.references.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    head = f"{'program':<20}{'dim':>4}{'R-hat':>7}{'ESS':>8}"
    head += "".join(f"{name + ' mean':>10}{'sd':>8}{'s':>7}" for name in ("SMC", "NUTS"))
    print(f"{head}{'met':>6}{'ref sd':>8}")
    for program in PROGRAMS:
        if arguments.only in program.__name__:
            print(line(program, arguments.references), flush=True)


if __name__ == "__main__":
    main()
