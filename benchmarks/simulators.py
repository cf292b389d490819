"""Simulators whose density is hidden: our flows and sbi's against exact draws.

    python benchmarks/simulators.py [--sbi python-of-an-environment-with-sbi] [--folder cells]

Five tasks of the benchmark of Lueckmann et al. (2021, arXiv 2101.04653), written as Pyro programs.
Every method gets the same number of simulations, hears nothing of the density, is trained once, and
answers several observations. C2ST is the accuracy of their classifier, a multilayer perceptron in
five folds, at telling a method's draws from exact ones: .5 is perfect, 1 hopeless. Exact draws are
closed forms (two_moons, gaussian_linear, gaussian_mixture), of a grid (sir), and of SMC under the
true density, with the signs that the density does not see drawn at random (slcp). Seconds are CPU
time of one thread, for the training and for all answers. A folder keeps finished cells, so that
a run that was stopped goes on.
"""

import argparse
import json
import math
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from amortized import infer, train
from amortized.priors import ProgramPrior
from amortized.priors.simulators.epidemic import CountShares, infected_share
from amortized.program.simulation import ProgramSimulator
from amortized.simulation_based import FlowConfig, FlowTraining

HERE = Path(__file__).parent
BARS = {
    "two_moons": 0.60,
    "slcp": 0.85,
    "gaussian_linear": 0.54,
    "gaussian_mixture": 0.60,
    "sir": 0.60,
}


class Hidden(dist.TorchDistribution):
    """Draws from a law, and hides its density."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, law: Any) -> None:
        self.law = law
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.law.sample(sample_shape)


class TwoMoonsLaw(dist.TorchDistribution):
    """A half circle of radius .1, moved by both latents."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents
        super().__init__(torch.Size(), torch.Size([2]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return crescent(torch.Size(sample_shape)) + moved(self.latents)


def crescent(shape: torch.Size) -> Tensor:
    """Points of the half circle."""
    angle, radius = math.pi * (torch.rand(shape) - 0.5), 0.1 + 0.01 * torch.randn(shape)
    return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], -1)


def moved(latents: Tensor) -> Tensor:
    """Where two_moons puts the half circle."""
    one, two = latents.unbind(-1)
    return torch.stack([-(one + two).abs(), two - one], -1) / math.sqrt(2)


def uniform(x: Tensor, n: int, width: float) -> Tensor:
    """A latent vector uniform on a cube."""
    law = dist.Uniform(x.new_full((n,), -width), width)
    return pyro.sample("theta", law.to_event(1))


def two_moons(theta: Tensor, n: int) -> Any:
    """The law of two numbers."""
    return TwoMoonsLaw(theta)


def slcp(theta: Tensor, n: int) -> Any:
    """Four points of a normal law in the plane, whose spreads are squares."""
    one, two, correlation = theta[2] ** 2, theta[3] ** 2, theta[4].tanh()
    low = torch.stack([correlation * two, two * (1 - correlation**2).sqrt()])
    tril = torch.stack([torch.stack([one, torch.zeros_like(one)]), low])
    return dist.MultivariateNormal(theta[:2], scale_tril=tril).expand([n]).to_event(1)


def gaussian_linear(theta: Tensor, n: int) -> Any:
    """One noisy reading of each of ten numbers."""
    return dist.Normal(theta, 0.1**0.5).to_event(1)


def gaussian_mixture(theta: Tensor, n: int) -> Any:
    """A point near the mean, or very near."""
    parts = dist.Normal(theta.expand(2, 2), theta.new_tensor([[1.0], [0.1]])).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(theta.new_tensor([0.5, 0.5])), parts)


def sir(theta: Tensor, n: int) -> Any:
    """Ten counts of an epidemic."""
    return CountShares(infected_share(theta[..., 0], theta[..., 1], n))


@dataclass(frozen=True)
class Task:
    """A simulator with the form of its prior.

    Attributes:
        law: of the data given the latents and the number of rows.
        prior: "uniform" (low, high), "normal" or "lognormal" (mean, sd).
        one, two: the prior's two parameters, of every latent.
        n_rows: rows of a dataset.
        rows: as in `FlowConfig`.
    """

    law: Callable[[Tensor, int], Any]
    prior: str
    one: tuple[float, ...]
    two: tuple[float, ...]
    n_rows: int
    rows: str = "ordered"

    def program(self, hide: bool = True) -> Callable[..., Any]:
        """The Pyro program, with or without its density."""
        families = {"uniform": dist.Uniform, "normal": dist.Normal, "lognormal": dist.LogNormal}

        def model(x: Tensor, y: Tensor | None = None) -> Any:
            prior = families[self.prior](x.new_tensor(self.one), x.new_tensor(self.two))
            law = self.law(pyro.sample("theta", prior.to_event(1)), len(x))
            return pyro.sample("y", Hidden(law) if hide else law, obs=y)

        return model


_SIR = (math.log(0.4), math.log(0.125)), (0.5, 0.2)
TASKS = {
    "two_moons": Task(two_moons, "uniform", (-1.0,) * 2, (1.0,) * 2, 2),
    "slcp": Task(slcp, "uniform", (-3.0,) * 5, (3.0,) * 5, 4, "exchangeable"),
    "gaussian_linear": Task(gaussian_linear, "normal", (0.0,) * 10, (0.1**0.5,) * 10, 10),
    "gaussian_mixture": Task(gaussian_mixture, "uniform", (-10.0,) * 2, (10.0,) * 2, 2),
    "sir": Task(sir, "lognormal", *_SIR, 10),
}


def exact_draws(name: str, y: Tensor, n: int) -> Tensor:
    """Draws of the posterior given one dataset."""
    if name == "gaussian_linear":
        return y / 2 + 0.05**0.5 * torch.randn(n, 10)
    if name == "sir":
        return _from_grid(y, n)
    if name == "slcp":
        return _of_slcp(y, n)
    found: list[Tensor] = []
    while sum(map(len, found)) < n:
        found.append(_two_moons(y, n) if name == "two_moons" else _mixture(y, n))
    return torch.cat(found)[:n]


def _two_moons(y: Tensor, n: int) -> Tensor:
    """Latents of points of the half circle: two for each, where they are in the square."""
    shift = (y - crescent(torch.Size([n]))) * math.sqrt(2)
    total = shift[:, 0] * (1 - 2 * torch.randint(2, (n,)))
    theta = torch.stack([total - shift[:, 1], total + shift[:, 1]], -1) / 2
    return theta[(shift[:, 0] <= 0) & (theta.abs() <= 1).all(-1)]


def _mixture(y: Tensor, n: int) -> Tensor:
    spread = torch.where(torch.rand(n, 1) < 0.5, 1.0, 0.1)
    theta = y + spread * torch.randn(n, 2)
    return theta[(theta.abs() <= 10).all(-1)]


def _from_grid(y: Tensor, n: int, size: int = 300) -> Tensor:
    """Draws from a grid over both log rates, refined to where the mass is."""
    (m1, m2), (s1, s2) = _SIR
    box = [(m1 - 6 * s1, m1 + 6 * s1), (m2 - 6 * s2, m2 + 6 * s2)]
    for _ in range(6):
        lines = [torch.linspace(*each, size, dtype=torch.float64) for each in box]
        points = torch.cartesian_prod(*lines)
        share = infected_share(points[:, 0].exp(), points[:, 1].exp(), 10)
        height = CountShares(share).log_prob(y.double())
        for i, (mean, sd) in enumerate(((m1, s1), (m2, s2))):
            height = height - 0.5 * ((points[:, i] - mean) / sd) ** 2
        height = height.nan_to_num(-math.inf)  # rates of more than one a day break the recursion
        kept = points[height > height.max() - 25]
        steps = [line[1] - line[0] for line in lines]
        box = [
            (float(kept[:, i].min() - 2 * step), float(kept[:, i].max() + 2 * step))
            for i, step in enumerate(steps)
        ]
    chosen = torch.multinomial(height.softmax(0), n, replacement=True)
    jitter = (torch.rand(n, 2, dtype=torch.float64) - 0.5) * torch.stack(steps)
    return (points[chosen] + jitter).exp().float()


def _of_slcp(y: Tensor, n: int) -> Tensor:
    """Draws of SMC, with the signs of both spreads, which the density does not see, at random."""
    program = TASKS["slcp"].program(hide=False)
    posterior = infer(
        program, torch.zeros(4, 0), y.double(), method="smc", n_particles=2048, n_draws=n
    )
    if posterior.diagnostics["doubt"]:
        print("note: SMC of slcp:", *posterior.diagnostics["doubt"], flush=True)
    theta = posterior["theta"].float()
    theta[:, 2:4] *= (1 - 2 * torch.randint(2, (n, 2))).float()
    return theta


def c2st(ours: Tensor, exact: Tensor, seed: int = 1) -> float:
    """Accuracy of a perceptron in five folds, on draws in units of the exact ones' spread."""
    mean, sd = exact.mean(0), exact.std(0)
    ours, exact = (ours - mean) / sd, (exact - mean) / sd
    width = 10 * exact.shape[1]
    classifier = MLPClassifier((width, width), max_iter=1000, solver="adam", random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    labels = np.repeat([0, 1], [len(ours), len(exact)])
    return float(
        cross_val_score(classifier, torch.cat([ours, exact]).numpy(), labels, cv=folds).mean()
    )


@dataclass(frozen=True)
class Data:
    """What all methods of one task share."""

    theta: Tensor
    y: Tensor
    observed: Tensor
    exact: list[Tensor]


def by_flow(task: Task, data: Data, target: str, n_draws: int) -> tuple[list[Tensor], float, float]:
    """Draws of our own flow for every observation, and seconds of training and answers."""
    began, kind = time.process_time(), "npe" if target == "posterior" else "snl"
    training = FlowTraining(n_simulations=len(data.theta), n_rows=task.n_rows)
    prior, size = ProgramPrior(task.program()), FlowConfig(target, task.rows)
    network = train(prior, size, training, progress=False)
    trained, x = time.process_time() - began, torch.zeros(task.n_rows, 0)
    draws = [
        infer(task.program(), x, y, method=kind, network=network, n_draws=n_draws)["theta"].float()
        for y in data.observed
    ]
    return draws, trained, time.process_time() - began - trained


def by_sbi(
    python: str, task: Task, data: Data, method: str, n_draws: int
) -> tuple[Any, float, float]:
    """The same of sbi, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            f"{folder}/task.npz",
            theta=data.theta.numpy(),
            x=data.y.flatten(1).numpy(),
            observed=data.observed.flatten(1).numpy(),
            prior=task.prior,
            one=task.one,
            two=task.two,
            n_draws=n_draws,
        )
        command = [python, str(HERE / "simulators_sbi.py"), folder, method]
        subprocess.run(command, check=True, capture_output=True)
        answer = np.load(f"{folder}/answer.npz")
        return (
            list(torch.as_tensor(answer["draws"])),
            float(answer["trained"]),
            float(answer["answered"]),
        )


def prepared(name: str, n: int, n_observations: int, n_draws: int) -> Data:
    """Simulations, observations and exact draws of one task."""
    task = TASKS[name]
    torch.manual_seed(0)
    x = torch.zeros(n + n_observations, task.n_rows, 0)
    simulator = ProgramSimulator(task.program(), x[0])
    latents, y = simulator(simulator.sample_prior(x), x)
    exact = [exact_draws(name, each, n_draws) for each in y[:n_observations]]
    later = slice(n_observations, None)
    return Data(latents["theta"][later], y[later], y[:n_observations], exact)


def cell(name: str, method: str, n: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One task answered by one method."""
    task, data = TASKS[name], prepared(name, n, asked.observations, asked.draws)
    if method.startswith("sbi "):
        draws, *seconds = by_sbi(asked.sbi, task, data, method.removeprefix("sbi "), asked.draws)
    else:
        target = "posterior" if method == "npe" else "likelihood"
        draws, *seconds = by_flow(task, data, target, asked.draws)
    accuracy = [c2st(*pair) for pair in zip(draws, data.exact, strict=True)]
    return {"task": name, "method": method, "n": n, "c2st": accuracy, "seconds": seconds}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=["npe", "nle"])
    parser.add_argument("--sbi", help="python of an environment with sbi; adds its methods")
    parser.add_argument("--sbi-methods", nargs="*", default=["npe-maf", "npe-nsf"])
    parser.add_argument("--simulations", nargs="*", type=int, default=[1000, 10_000])
    parser.add_argument("--observations", type=int, default=3)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--folder", help="keeps finished cells")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(asked.folder or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    methods = [*asked.methods, *(f"sbi {m}" for m in (asked.sbi_methods if asked.sbi else []))]
    print("| task | simulations | method | C2ST, mean and each | bar | training s | answers s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in asked.only:
        for n in asked.simulations:
            for method in methods:
                path = folder / f"{name}-{n}-{method.replace(' ', '_')}.json"
                if not path.exists():
                    path.write_text(json.dumps(cell(name, method, n, asked)), encoding="utf-8")
                found = json.loads(path.read_text(encoding="utf-8"))
                each = ", ".join(f"{value:.3f}" for value in found["c2st"])
                bar = f"{BARS[name]:.2f}" if n == 10_000 else ""
                print(
                    f"| {name} | {n} | {method} | {np.mean(found['c2st']):.3f} ({each}) | {bar} | "
                    f"{found['seconds'][0]:.0f} | {found['seconds'][1]:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
