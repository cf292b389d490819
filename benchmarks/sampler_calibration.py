"""Simulation-based calibration of every sampler on its own: are its posteriors those of the prior?

Each sampler answers the same 1,000 datasets of four rows from a normal of unknown mean and spread,
whose mean's prior is in units of the spread; SMC^2 as many autoregressions of 20 steps. The rank of
the truth among 63 draws must be uniform: chi-square over 16 bins and Kolmogorov-Smirnov, for each
of the two latents. A right sampler has a p-value below 0.0025 among its four in one run in a
hundred.

    python benchmarks/sampler_calibration.py --samplers smc hmc nuts

Datasets come in lots of 100, and ranks are kept in ``--kept`` as they come: NUTS takes longest.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import distributions as dist
from scipy import stats
from torch import Tensor

from amortized.diagnostics import PosteriorTrial
from amortized.diagnostics.calibration import ranks
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.sampling.filters.particle_mcmc import smc_squared

N_DRAWS, LOT, BINS = 63, 100, 16
AUTOREGRESSION = {"rho": dist.Uniform(-1.0, 1.0), "scale": dist.LogNormal(-1.0, 0.5)}


def noise_and_mean(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A hierarchy with two supports."""
    scale = pyro.sample("scale", dist.Gamma(3.0, 2.0))
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0 * scale))
    return pyro.sample("y", dist.Normal(mean, scale).expand([len(x)]).to_event(1), obs=y)


def ranks_of(seed: int, method: str, **options: Any) -> NDArray[np.float64]:
    """Ranks of the truth in one lot of datasets, ``(datasets, 2)``."""
    trial = PosteriorTrial.run(
        ProgramPrior(noise_and_mean),
        method,
        n_datasets=LOT,
        n_context=4,
        n_draws=N_DRAWS,
        seed=seed,
        progress=False,
        **options,
    )
    return ranks(*trial.matrices(), seed)


def autoregression(latents: dict[str, Tensor]) -> LinearGaussianModel:
    """A hidden autoregression, seen with noise."""
    rho, scale = latents["rho"], latents["scale"]
    one = torch.ones_like(rho)[:, None, None]
    return LinearGaussianModel(
        transition=rho[:, None, None],
        transition_cov=scale.square()[:, None, None],
        observation=one,
        observation_cov=0.04 * one,
        initial_mean=torch.zeros_like(rho)[:, None],
        initial_cov=one,
    )


def ranks_of_smc_squared(seed: int) -> NDArray[np.float64]:
    """The same by SMC^2 for series."""
    torch.manual_seed(seed)
    truth = {name: prior.sample((LOT,)).double() for name, prior in AUTOREGRESSION.items()}
    _, y = autoregression(truth).simulate(LOT, 20, seed=seed)
    found = smc_squared(autoregression, AUTOREGRESSION, y, n_draws=256, n_particles=64, seed=seed)
    chosen = torch.randperm(256)[:N_DRAWS]
    draws = torch.stack([found.draws[name][chosen] for name in AUTOREGRESSION], -1)
    return ranks(torch.stack([*truth.values()], -1).numpy(), draws.double().numpy(), seed)


SAMPLERS: dict[str, Callable[[int], NDArray[np.float64]]] = {
    "smc": partial(ranks_of, method="smc"),
    "smc from the prior": partial(ranks_of, method="smc", start="prior"),
    "hmc": partial(ranks_of, method="hmc", thin=8),
    "importance": partial(ranks_of, method="importance", thin=30),
    "smc squared": ranks_of_smc_squared,
    "nuts": partial(ranks_of, method="nuts", thin=6, n_chains=1, n_warmup=300),
}


def line(name: str, u: NDArray[np.float64], seconds: float) -> str:
    """A row of the table."""
    edges = np.linspace(0, 1, BINS + 1)
    chi = [stats.chisquare(np.histogram(each, edges)[0]).pvalue for each in u.T]
    ks = [stats.kstest(each, "uniform").pvalue for each in u.T]
    both = " ".join(f"{p:10.4f}" for p in (*chi, *ks))
    return f"{name:>20} {len(u):9d} {both} {1000 * seconds / len(u):12.1f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=[*SAMPLERS])
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--kept", type=Path, default=Path("runs/sampler_calibration"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # one chain has no R-hat; the ranks judge
    print(
        f"{'':>20} {'datasets':>9} {'chi-square':>21} {'KS':>21} {'ms a dataset':>12}\n"
        f"{'':>30} {'scale, rho':>10} {'mean, sd':>10} {'scale, rho':>10} {'mean, sd':>10}"
    )
    arguments.kept.mkdir(parents=True, exist_ok=True)
    for name in arguments.samplers:
        lots, seconds = [], 0.0
        for seed in range(-(-arguments.datasets // LOT)):
            path = arguments.kept / f"{name.replace(' ', '-')}-{seed}.npz"
            if not path.exists():
                began = time.process_time()
                u = SAMPLERS[name](seed)
                np.savez(path, u=u, seconds=time.process_time() - began)
            kept = np.load(path)
            lots.append(kept["u"])
            seconds += float(kept["seconds"])
        print(line(name, np.concatenate(lots), seconds), flush=True)


if __name__ == "__main__":
    main()
