"""Two simulators under flat, weak and strong priors: one pass and the cascade against a grid.

    python benchmarks/told_priors.py [--tasks 1000] [--problems dt-oup dt-sir] [--priors flat weak]
        [--networks folder]

The protocol of Amortized Probabilistic Conditioning (Chang et al., 2025, arXiv:2410.15320): latents
are uniform in a box; a weak prior is a normal with a quarter of the box's width as standard
deviation, a strong one with a tenth, cut off at the box, centred on a draw of the same width around
the truth. A wrong one is a normal in unconstrained space, about as sharp as a strong one, with the
truth three of its standard deviations from its centre. "exact" is the mean log density of the true
latents, jointly and in their own units, under the posterior by quadrature; the other columns are by
how much an answer falls short of it, with the standard error over tasks, milliseconds a task, and
the stages that "auto" stands on. The last column is what their best published method falls short of
the exact posterior of its own 100 observations.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints

from amortized import infer, load
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer.inputs.problem import make_problem
from amortized.latent_priors import as_mixture
from amortized.latent_priors.fitting import stacked
from amortized.latent_priors.problems import PROBLEMS
from amortized.networks import DistributionTransformer
from amortized.program.density import ProgramDensity
from amortized.sampling.exact.quadrature import grid_posterior
from amortized.sampling.start import FromMixture

ROWS = {"dt-oup": 25, "dt-sir": 10}
SHARES = {"weak": 0.25, "strong": 0.1}
KINDS = ("flat", *SHARES, "wrong")
WRONG_SD = 0.25  # a tenth of a box's width, in its middle
PUBLISHED = {
    "dt-oup": {"flat": "0.18", "weak": "0.35", "strong": "0.25"},
    "dt-sir": {"flat": "0.51", "weak": "0.85", "strong": "0.88"},
}


class CutNormal(Distribution):
    """A normal distribution within an interval.

    Args:
        loc: of the normal.
        scale: of the normal.
        low: end of the interval.
        high: the other end.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, low: float, high: float) -> None:
        self.loc, self.scale, self.low, self.high = loc, scale, low, high
        super().__init__(loc.shape, validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.interval(self.low, self.high)

    def _levels(self) -> tuple[Normal, Tensor, Tensor]:
        """The whole normal, and its levels at the ends."""
        whole = Normal(self.loc, self.scale)
        low, high = self.loc.new_tensor([self.low, self.high])
        return whole, whole.cdf(low), whole.cdf(high)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        whole, low, high = self._levels()
        level = torch.rand(*sample_shape, *self.loc.shape, dtype=self.loc.dtype)
        return whole.icdf(low + (high - low) * level)

    def log_prob(self, value: Tensor) -> Tensor:
        whole, low, high = self._levels()
        return whole.log_prob(value) - (high - low).log()

    def take(self, index: Any) -> "CutNormal":
        """Some of a batch of priors."""
        return CutNormal(self.loc[index], self.scale[index], self.low, self.high)


Priors = dict[str, CutNormal] | GaussianMixture


def take(priors: Priors | None, index: Any) -> Priors | None:
    """The priors of some tasks."""
    if isinstance(priors, GaussianMixture):
        return priors[index]
    return priors and {name: prior.take(index) for name, prior in priors.items()}


def beside(u: Tensor) -> GaussianMixture:
    """A prior for each task, three deviations from the truth on the side of the box's middle."""
    centre = u - 3 * WRONG_SD * torch.where(u < 0, -1.0, 1.0)
    eye = torch.eye(u.shape[-1], dtype=u.dtype).expand(len(u), -1, -1)
    return GaussianMixture.from_moments(centre, WRONG_SD**2 * eye)


def around(density: ProgramDensity, truth: dict[str, Tensor], share: float) -> dict[str, CutNormal]:
    """A prior for each task, centred on a draw around the truth."""
    priors = {}
    for name, value in truth.items():
        support = density.supports[name]
        low, high = float(support.lower_bound), float(support.upper_bound)
        sd = torch.full_like(value, share * (high - low))
        priors[name] = CutNormal(value + sd * torch.randn_like(value), sd, low, high)
    return priors


def mixtures(priors: Priors | None, n_tasks: int) -> GaussianMixture | None:
    """The priors in unconstrained space: a mixture a task, of five components for each latent."""
    if priors is None or isinstance(priors, GaussianMixture):
        return priors
    each = [as_mixture(take(priors, i)) for i in range(n_tasks)]
    return stacked(each, 0).to(torch.float64)


def log_joint(density: ProgramDensity, priors: Priors | None, u: Tensor) -> Tensor:
    """Of points u of each task, under the priors or the program's own flat one."""
    log_prior, log_likelihood = density.log_prior_and_likelihood(u)
    if isinstance(priors, GaussianMixture):
        log_prior = FromMixture(priors).log_prob(u)
    elif priors is not None:
        latents = density.constrain(u)
        log_prior = density.log_jacobian(u)
        for name, prior in priors.items():
            log_prior = log_prior + prior.take((slice(None), None)).log_prob(latents[name])
    return log_prior + log_likelihood


def exact_log_prob(density: ProgramDensity, priors: Priors | None, u: Tensor) -> Tensor:
    """Log density of the true latents, in their own units, by quadrature."""
    evidence = []
    for rows in torch.arange(len(u)).split(20):
        one, told = density.take(rows), take(priors, rows)
        start = torch.zeros(len(rows), u.shape[1], dtype=u.dtype)
        answer = grid_posterior(partial(log_joint, one, told), start, start + 1.8, n_points=150)
        evidence.append(answer.log_evidence)
    at_truth = log_joint(density, priors, u.unsqueeze(1)) - density.log_jacobian(u.unsqueeze(1))
    return at_truth[:, 0] - torch.cat(evidence)


def compare(
    name: str, network: DistributionTransformer, n_tasks: int, kinds: Sequence[str]
) -> None:
    """The rows of one simulator."""
    prior = PROBLEMS[name].program()
    batch = prior.sample(n_tasks, ROWS[name], 0, seed=31_000)
    assert batch.latents is not None
    truth = {latent: value.double() for latent, value in batch.latents.items()}
    density = make_problem(prior, batch.x_context, batch.y_context, None).density()
    u = density.unconstrain({k: v.unsqueeze(1) for k, v in truth.items()})[:, 0]
    torch.manual_seed(0)
    for kind in kinds:
        priors: Priors | None = None
        if kind != "flat":
            wrong = kind == "wrong"
            priors = beside(u) if wrong else around(density, truth, SHARES[kind])
        told = mixtures(priors, n_tasks)
        exact = exact_log_prob(density, priors, u)
        cells = []
        for method in ("dt", "auto"):
            began = time.perf_counter()
            posterior = infer(
                prior,
                batch.x_context,
                batch.y_context,
                method=method,
                latent_prior=told,
                network=network,
            )
            seconds = time.perf_counter() - began
            found = posterior.log_prob({k: v.unsqueeze(0) for k, v in truth.items()})[0]
            gap = (exact - found)[found.isfinite()]
            cells.append(f"{gap.mean():.4f} +- {gap.std() / len(gap) ** 0.5:.4f}")
            cells.append(f"{1000 * seconds / n_tasks:.2f}")
        stages = posterior.diagnostics["stage"]
        cells.append(", ".join(f"{stages.count(r)} {r}" for r in sorted(set(stages))))
        cells.append(PUBLISHED[name].get(kind, ""))
        print(f"| {name} | {kind} | {exact.mean():.3f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=sorted(ROWS), default=sorted(ROWS))
    parser.add_argument("--priors", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--networks", type=Path, help="folder of networks; default: pretrained")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| problem | prior | exact | dt gap | ms | auto gap | ms | stages | published gap |")
    print("| --- " * 9 + "|")
    for name in options.problems:
        network = load(name if options.networks is None else options.networks / name)
        compare(name, network, options.tasks, options.priors)


if __name__ == "__main__":
    main()
