"""A prior learned from 200 related tasks of five rows, and its calibration over populations.

    python benchmarks/related_tasks.py [--tasks 200] [--populations 100]

Tasks are linear regressions with three weights, a draw each of a correlated normal, and noise of a
known standard deviation. The program says N(0, 3) of each weight. Printed is the mean negative log
predictive density, in nats, of 20 rows of 200 new tasks given five rows each: under the true prior,
under the learned one, and under the program's own; then the p-values of simulation-based
calibration of the population's means, log variances and correlation, where populations of 20 tasks
with two weights are drawn from the hyperprior.
"""

import argparse
import time

import pyro
import pyro.distributions as dist
import torch
from scipy.stats import kstest

from amortized import infer
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.hierarchy import learn_latent_prior
from amortized.hierarchy.gibbs import sample_population
from amortized.hierarchy.population import Population, PopulationPrior
from amortized.program.density import ProgramDensity

NOISE = 0.5
WIDE = 3.0  # of the program's own prior
MEAN = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
FACTOR = torch.tensor([[0.5, 0, 0], [0.3, 0.4, 0], [0, 0, 0.2]], dtype=torch.float64)


def linear(x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """A linear regression."""
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), WIDE).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, NOISE).to_event(1), obs=y)


def tasks(weights: torch.Tensor, n_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of each task."""
    x = torch.randn(len(weights), n_rows, weights.shape[-1], dtype=weights.dtype)
    return x, (x @ weights.unsqueeze(-1)).squeeze(-1) + NOISE * torch.randn_like(x[..., 0])


def scores(n_tasks: int) -> None:
    """Held-out scores of the three priors."""
    true = GaussianMixture.from_moments(MEAN, FACTOR @ FACTOR.T)
    x, y = tasks(true.sample((n_tasks,)), 5)
    began = time.process_time()
    learned = learn_latent_prior(linear, list(zip(x, y, strict=True)))
    seconds = time.process_time() - began
    x, y = tasks(true.sample((200,)), 25)
    print(f"{n_tasks} tasks of 5 rows; {seconds:.1f} CPU seconds to learn")
    print(f"R-hat {learned.population.diagnostics['r_hat']:.3f}")
    print(f"{'prior':>14}{'NLPD':>9}{'s.e. of the difference to the true prior':>44}")
    loss = {}
    for name, prior in (("true", true), ("learned", learned), ("program's own", None)):
        answer = infer(linear, x[:, :5], y[:, :5], latent_prior=prior, n_draws=2000)
        loss[name] = -answer.predictive(x[:, 5:]).log_prob(y[:, 5:]).mean(-1)
        off = loss[name] - loss["true"]
        print(f"{name:>14}{loss[name].mean():>9.4f}{off.std() / len(off) ** 0.5:>44.4f}")


def summaries(population: Population) -> torch.Tensor:
    """Means, log variances and the correlation, ``(draws, 5)``."""
    covariance = population.covariances[:, 0]
    variance = covariance.diagonal(dim1=-1, dim2=-2)
    correlation = covariance[:, 0, 1] / variance.prod(-1).sqrt()
    return torch.cat([population.means[:, 0], variance.log(), correlation.unsqueeze(-1)], -1)


def calibration(n_populations: int) -> None:
    """Ranks of the true population among draws, thinned to be nearly independent."""
    prior = PopulationPrior(torch.zeros(2).double(), torch.full((2,), WIDE).double())
    levels = []
    for _ in range(n_populations):
        true = prior.sample(1, 1)
        weights = true.mixture().sample((20,)).squeeze(1)
        x, y = tasks(weights, 5)
        draws = sample_population([ProgramDensity(linear, x, y)], prior, n_draws=320, thin=4)
        below = (summaries(draws.population)[::4] < summaries(true)).double().sum(0)
        levels.append((below + torch.rand(5)) / 81)
    print(f"\nSBC over {n_populations} populations of 20 tasks: p-values (Kolmogorov-Smirnov)")
    names = ("mean 1", "mean 2", "log variance 1", "log variance 2", "correlation")
    for name, level in zip(names, torch.stack(levels).T, strict=True):
        print(f"{name:>16}{kstest(level.numpy(), 'uniform').pvalue:>8.3f}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--populations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    scores(arguments.tasks)
    if arguments.populations:
        calibration(arguments.populations)


if __name__ == "__main__":
    main()
