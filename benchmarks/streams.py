"""Posterior becomes prior: a filter by one network pass a step, and fifty single updates.

    python benchmarks/streams.py [--series 10] [--steps 100] [--streams 100] [--networks folder]
    python benchmarks/streams.py --tables updates
    python benchmarks/streams.py --tables programs

Three tables. The first is the moving target of `amortized.priors.state_space.sensor_fusion`: the
mean negative log density of the true state given all observations so far, for the network
``dt-filter`` with exact predictions between its updates, a particle filter with 20,000 particles,
whose density is a mixture of 8 normals fitted to 3,000 of them, and the extended Kalman filter,
which is given the mean and the variance of its readings, or takes every range for a normal reading.
The errors are of the differences to the particle filter, over series.

The second streams 50 answers of a normal law one at a time, each posterior the prior of the next,
by `amortized.infer.streaming.update` and by the passes of ``dt-normal`` alone, and compares the end
with one update by all 50, and with the exact posterior: the mean of the exact minus the answered
log density of the true latents.

The third updates programs that no network knows by one row after the other: symmetric divergence of
the last mixture from one fitted to all rows at once, in nats, for `update`, which forgets the rows,
and for `Posterior.update`, which keeps them.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from amortized import infer, load
from amortized.infer.streaming import filter_states, symmetric_kl, update
from amortized.latent_priors import fit_draws
from amortized.latent_priors.problems import named_tasks
from amortized.priors.simulators.sensor_reading import SensorReadingPrior
from amortized.priors.state_space.sensor_fusion import SensorFusion, true_range_and_bearing, wrap
from amortized.program.vectorised import precision, run_program
from amortized.sampling.exact.latent_reference import reference_log_prob
from amortized.sampling.filters.extended_kalman import (
    NonlinearGaussianModel,
    extended_kalman_filter,
)
from amortized.sampling.filters.particle_filter import init, step

N_PARTICLES, N_FITTED = 20_000, 3000


def by_particles(y: Tensor, states: Tensor) -> Tensor:
    """Log density of the true states, ``(series, steps)``."""
    sensors, generator = SensorFusion(), torch.Generator().manual_seed(0)
    found = []
    for t in range(y.shape[1]):
        now = y[:, t : t + 1]
        if t == 0:
            particles, _ = init(sensors, now, N_PARTICLES, generator)
        else:
            particles, _ = step(sensors, particles, now, t, generator)
        chosen = torch.multinomial(particles.weights, N_FITTED, True, generator=generator)
        draws = particles.state.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 4)).double()
        fitted = [fit_draws(each, 8) for each in draws]
        found.append(
            torch.stack([f.log_prob(s) for f, s in zip(fitted, states[:, t].double(), strict=True)])
        )
    return torch.stack(found, 1)


def range_noise(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a range reading, its clipping aside."""
    mean = 0.7 * distance + 0.2 + 0.1 * 5
    square = 0.7 * (distance.square() + 0.01 * (distance + 1).square()) + 0.2 * 2 + 0.1 * 100 / 3
    return mean, square - mean.square()


def by_extended_kalman(y: Tensor, states: Tensor, trusting: bool) -> Tensor:
    """Log density of the true states by a filter that knows the noise, or trusts every range."""
    motion = SensorFusion(torch.float64).motion()

    def observation(state: Tensor, t: int) -> Tensor:
        distance, bearing = true_range_and_bearing(state).unbind(-1)
        return torch.stack((distance if trusting else range_noise(distance)[0], bearing), -1)

    def noise(state: Tensor, t: int) -> Tensor:
        distance = true_range_and_bearing(state)[..., 0]
        own = 0.01 * (distance + 1).square()
        variance = own if trusting else range_noise(distance)[1]
        return torch.diag_embed(torch.stack((variance, torch.full_like(variance, 0.01)), -1))

    def residual(value: Tensor, mean: Tensor) -> Tensor:
        off = value - mean
        return torch.stack((off[..., 0], wrap(off[..., 1])), -1)

    model = NonlinearGaussianModel(
        transition=lambda state, t: state @ motion.transition.mT,
        transition_cov=motion.transition_cov,
        observation=observation,
        observation_cov=noise,
        initial_mean=motion.initial_mean,
        initial_cov=motion.initial_cov,
        residual=residual,
    )
    answer = extended_kalman_filter(model, y.double())
    jitter = 1e-9 * torch.eye(4, dtype=torch.float64)
    return MultivariateNormal(answer.mean, answer.cov + jitter).log_prob(states.double())


def filters(network: Any, n_series: int, n_steps: int) -> None:
    """The first table."""
    states, y = SensorFusion().simulate(n_series=n_series, n_steps=n_steps, seed=0)

    def by_network(y: Tensor, states: Tensor) -> Tensor:
        motion = SensorFusion(torch.float64).motion()
        answer = filter_states(SensorReadingPrior(), y.double(), motion, network=network)
        return answer.filtered.log_prob(states.double())

    methods = {
        "particle filter": by_particles,
        "dt-filter": by_network,
        "extended Kalman": lambda y, states: by_extended_kalman(y, states, False),
        "extended Kalman, trusting": lambda y, states: by_extended_kalman(y, states, True),
    }
    print(f"{'method':>26} {'nll a step':>10} {'over the first':>18} {'ms a step':>10}")
    reference = None
    for name, method in methods.items():
        began = time.perf_counter()
        nll = -method(y, states).mean(1)
        ms = 1000 * (time.perf_counter() - began) / (n_series * n_steps)
        reference = nll if reference is None else reference
        off = nll - reference
        error = off.std() / len(off) ** 0.5
        print(f"{name:>26} {nll.mean():10.3f} {f'{off.mean():.3f} +- {error:.3f}':>18} {ms:10.2f}")


def streams(network: Any, n_streams: int, n_rows: int = 50) -> None:
    """The second table."""
    tasks = named_tasks("dt-normal")
    batch = tasks.sample(n_streams, n_rows, seed=40_000)
    y = batch.observations["data"][..., 0].double()
    x, began = y.new_zeros(*y.shape, 0), time.perf_counter()
    streams: dict[str, Any] = {"updates": batch.latent_prior, "network alone": batch.latent_prior}
    for i in range(n_rows):
        now = slice(i, i + 1)
        streams["updates"] = update(
            tasks.prior, streams["updates"], x[:, now], y[:, now], n_draws=1, network=network
        )
    seconds = time.perf_counter() - began
    for i in range(n_rows):
        streams["network alone"] = infer(
            tasks.prior,
            y[:, i : i + 1],
            method="dt",
            latent_prior=streams["network alone"],
            n_draws=1,
            network=network,
        )
    exact, u = reference_log_prob(tasks, batch), batch.u.double()
    print(
        f"\n{n_streams} streams of {n_rows} updates by one row; symmetric KL to one pass over all"
    )
    print(f"{'':>14} {'mean':>8} {'median':>8} {'90%':>8} {'gap to exact':>18}")
    at_once = update(tasks.prior, batch.latent_prior, x, y, n_draws=1, network=network)
    for name, posterior in (streams | {"all at once": at_once}).items():
        off = symmetric_kl(posterior.mixture, at_once.mixture)
        gap = exact - posterior.mixture.log_prob(u)
        error = f"{gap.mean():.3f} +- {gap.std() / n_streams**0.5:.3f}"
        print(
            f"{name:>14} {off.mean():8.3f} {off.median():8.3f} {off.quantile(0.9):8.3f} {error:>18}"
        )
    print(f"{1000 * seconds / (n_streams * n_rows):.1f} ms an update of one stream")


def counts(x: Tensor, y: Tensor | None = None) -> Any:
    """Overdispersed counts with a slope."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    size = pyro.sample("size", dist.LogNormal(1.0, 0.5))
    mean = (a + b * x[:, 0]).exp()
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.NegativeBinomial(size, logits=(mean / size).log()), obs=y)


def robust(x: Tensor, y: Tensor | None = None) -> Any:
    """A line with errors of unknown scale and heavy tails."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.StudentT(3.0, w[0] + w[1] * x[:, 0], scale), obs=y)


def two_groups(x: Tensor, y: Tensor | None = None) -> Any:
    """A mixture of two normals with ordered means, its groups summed out."""
    low = pyro.sample("low", dist.Normal(-1.0, 1.0))
    gap = pyro.sample("gap", dist.LogNormal(0.5, 0.5))
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    groups = dist.Categorical(torch.stack((share, 1 - share)))
    rows = dist.MixtureSameFamily(groups, dist.Normal(torch.stack((low, low + gap)), 0.7))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", rows, obs=y)


def programs(n_streams: int, n_rows: int = 50) -> None:
    """The third table."""
    print(f"{n_streams} streams of {n_rows} updates by one row; symmetric KL to all rows at once")
    print(f"{'program':>12} {'rows':>10} {'mean':>8} {'largest':>8} {'ms':>8}")
    for program in (counts, robust, two_groups):
        x = torch.randn(n_streams, n_rows, 1, dtype=torch.float64)
        with precision(torch.float64):
            y = torch.stack([run_program(program, each)["y"] for each in x])
        at_once = update(program, None, x, y, n_draws=1)
        for kept in (False, True):
            began = time.perf_counter()
            posterior = infer(program, x[:, :1], y[:, :1]) if kept else None
            for i in range(int(kept), n_rows):
                now = slice(i, i + 1)
                if kept:
                    posterior = posterior.update(x[:, now], y[:, now])
                else:
                    posterior = update(program, posterior, x[:, now], y[:, now])
            ms = 1000 * (time.perf_counter() - began) / (n_streams * n_rows)
            off = symmetric_kl(posterior.mixture, at_once.mixture, 4000)
            name = "kept" if kept else "forgotten"
            print(f"{program.__name__:>12} {name:>10} {off.mean():8.3f} {off.max():8.3f} {ms:8.1f}")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--networks", type=Path, help="folder of networks; default: pretrained")
    both = ["filters", "updates", "programs"]
    parser.add_argument("--tables", nargs="+", choices=both, default=both)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")

    def network(name: str) -> Any:
        return load(name if options.networks is None else options.networks / name)

    if "filters" in options.tables:
        filters(network("dt-filter"), options.series, options.steps)
    if "updates" in options.tables:
        streams(network("dt-normal"), options.streams)
    if "programs" in options.tables:
        programs(options.streams)


if __name__ == "__main__":
    main()
