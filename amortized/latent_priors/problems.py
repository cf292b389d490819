"""The inference problems that Distribution Transformers are trained on, one table entry each.

An entry contains the text of the card, the program, the hyperprior of the tasks, and the training
recipe as plain data. To add a problem, add an entry.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortized.latent_priors.hyperprior import Hyperprior
from amortized.latent_priors.tasks import LatentTasks
from amortized.one_at_a_time import gradients
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.regression.gaussian_process import GaussianProcessPrior
from amortized.priors.regression.gaussian_process_lengthscale import LengthscalePrior
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.priors.regression.logistic_model import LogisticModelPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.priors.regression.normal_variance import NormalVariancePrior
from amortized.priors.simulators.epidemic import EpidemicPrior
from amortized.priors.simulators.nonlinear_observation import NonlinearObservationPrior
from amortized.priors.simulators.ornstein_uhlenbeck import OrnsteinUhlenbeckPrior
from amortized.priors.simulators.quantum_parameter import QuantumParameterPrior
from amortized.priors.simulators.sensor_reading import SensorReadingPrior
from amortized.program.vectorised import precision


@dataclass(frozen=True)
class Problem:
    """A program, the latent priors it is to be solved under, and how its network is trained.

    Attributes:
        about: one or two sentences for the network's card.
        program: builds the program whose likelihood the network learns.
        n_context: smallest and largest number of rows of a dataset.
        n_steps: number of training steps.
        n_latents: unconstrained coordinates of the latents.
        hyperprior: distribution of the latent priors.
        location: centre of the hyperprior, one number per coordinate; None for the mean of the
            program's own prior.
        scale: unit of the hyperprior; None for half the standard deviation of the program's own
            prior.
        network: fields of `DistributionTransformerConfig` that differ from the defaults.
        training: fields of `TrainingConfig` that differ from those of all problems.
        n_reference: number of tasks for which the card compares with the exact posterior by
            quadrature; 0 if there are too many latents for quadrature.
    """

    about: str
    program: Callable[[], ProgramPrior]
    n_context: tuple[int, int]
    n_steps: int
    n_latents: int = 1
    hyperprior: Hyperprior = Hyperprior()
    location: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    n_reference: int = 500

    def tasks(self) -> LatentTasks:
        """The tasks on which a network for this problem is trained."""
        location, scale = (
            None if numbers is None else torch.tensor(numbers)
            for numbers in (self.location, self.scale)
        )
        return LatentTasks(self.program(), self.hyperprior, location=location, scale=scale)


# For latents in an interval, a uniform prior is the standard normal in unconstrained space, and a
# wider or more distant prior puts its mass at the ends of the interval.
_INTERVAL: dict[str, Any] = {
    "hyperprior": Hyperprior(
        location_sd=1.0, sd=(0.1, 1.2), flat=0.25, flat_sd=(0.9, 1.3), own=0.3
    ),
    "n_latents": 2,
    "location": (0.0, 0.0),
    "scale": (1.0, 1.0),
}

# If the likelihood summary is sufficient, the network need not read rows (`reads_rows=False`), and
# the cost of a step does not depend on the number of rows.
PROBLEMS: Mapping[str, Problem] = {
    "dt-mean": Problem(
        "The mean of a normal distribution with standard deviation 1, from one observation.",
        NormalMeanPrior,
        n_context=(1, 1),
        n_steps=12_000,
        location=(0.0,),
        scale=(1.0,),
        network={"reads_rows": False, "d_model": 32, "n_layers": 2},
        n_reference=1000,
    ),
    "dt-variance": Problem(
        "The variance of a normal distribution with mean 0, from one observation, on log scale.",
        NormalVariancePrior,
        n_context=(1, 1),
        n_steps=12_000,
        hyperprior=Hyperprior(flat_sd=(3.0, 4.0)),
        network={"reads_rows": False, "n_components": 8},
        n_reference=1000,
    ),
    "dt-normal": Problem(
        "Mean and standard deviation of a normal sample of size 1 to 50.",
        lambda: LinearModelPrior(0),
        n_context=(1, 50),
        n_steps=16_000,
        n_latents=2,
        location=(0.0, 0.0),
        scale=(1.0, 1.0),
        # The posterior given one observation is a funnel, which takes many components.
        network={"reads_rows": False, "n_components": 12},
        n_reference=1000,
    ),
    "dt-linear": Problem(
        "Up to five coefficients and the noise of a linear model, from 5 to 100 rows.",
        lambda: LinearModelPrior(5, intercept=False, vary_features=True),
        n_context=(5, 100),
        n_steps=12_000,
        n_latents=6,
        network={"reads_rows": False, "n_components": 12},
        training={"n_tasks": 256},
    ),
    "dt-logistic": Problem(
        "Up to five coefficients of a logistic regression, from 5 to 200 rows.",
        lambda: LogisticModelPrior(5, vary_features=True),
        n_context=(5, 200),
        n_steps=8000,
        n_latents=5,
        training={"n_rows": 6000},
        n_reference=0,
    ),
    "dt-oup": Problem(
        "The two latents of an Ornstein-Uhlenbeck process observed at 25 points.",
        OrnsteinUhlenbeckPrior,
        n_context=(25, 25),
        n_steps=8000,
        network={"n_components": 8},
        **_INTERVAL,
    ),
    "dt-sir": Problem(
        "Contact and recovery rates of an SIR epidemic, from ten counts.",
        EpidemicPrior,
        n_context=(10, 10),
        n_steps=10_000,
        network={"n_components": 8},
        n_reference=300,
        **_INTERVAL,
    ),
    "dt-filter": Problem(
        "Position and velocity of a target from one range and one bearing. The latent priors are "
        "those of a filter: standard deviations of 0.05 to 1, position and velocity correlated.",
        SensorReadingPrior,
        n_context=(2, 2),
        n_steps=8000,
        n_latents=4,
        hyperprior=Hyperprior(
            location_sd=1.0, sd=(0.05, 1.0), correlation=1.0, flat_sd=(1.0, 1.5), own=0.05
        ),
        location=(1.0, 0.0, 1.0, 0.0),
        scale=(2.0, 0.5, 2.0, 0.5),
        network={"n_components": 6},
        training={"n_tasks": 192},
        n_reference=0,
    ),
    "dt-quantum": Problem(
        "The parameter of a two-level Hamiltonian from ten outcomes, on probit scale.",
        QuantumParameterPrior,
        n_context=(10, 10),
        n_steps=8000,
        hyperprior=Hyperprior(location_sd=1.0, sd=(0.1, 1.5), flat_sd=(1.0, 1.6)),
        location=(0.0,),
        scale=(1.0,),
    ),
    "dt-nonlinear": Problem(
        "A real number from noisy readings of its square and its cardinal sine.",
        NonlinearObservationPrior,
        n_context=(2, 2),
        n_steps=12_000,
        hyperprior=Hyperprior(location_sd=1.5, sd=(0.1, 2.0), flat_sd=(2.0, 4.0)),
        location=(0.0,),
        scale=(1.0,),
        network={"n_components": 12},
    ),
    "dt-gp-hyper": Problem(
        "The lengthscale of a Gaussian process from 5 to 20 points, on log scale.",
        LengthscalePrior,
        n_context=(5, 20),
        n_steps=8000,
        n_reference=300,
    ),
}


def named_tasks(name: str) -> LatentTasks:
    """The tasks of the named problem.

    Raises:
        ValueError: if no problem has that name.

    Example:
        >>> named_tasks("dt-normal").names
        ['coefficients', 'noise']
    """
    if name not in PROBLEMS:
        raise ValueError(f"Expected tasks among {sorted(PROBLEMS)}; got {name!r}.")
    return copy(_tasks(name))


@cache
def _tasks(name: str) -> LatentTasks:
    """Made once, as a mixture is fitted; whatever torch modes the first caller has set."""
    with precision(torch.float32), gradients(), torch.device("cpu"):
        return PROBLEMS[name].tasks()


class Embedding(NamedTuple):
    """How the inputs and latents of a model map to those of a problem, which may have more.

    Attributes:
        name: name of the problem.
        coordinates: the coordinates of the problem's u that are the model's u, in the model's
            order.
        inputs: maps the model's inputs to those of the problem.
        scales: factors from the model's u to those of the problem; empty if all are 1.
    """

    name: str
    coordinates: tuple[int, ...]
    inputs: Callable[[Tensor], Tensor]
    scales: tuple[float, ...] = ()


def embedding_of(model: Any) -> Embedding | None:
    """Finds the problem with the same likelihood as a model; None if there is none.

    The model's own prior does not matter, because networks are conditioned on the latent prior. A
    linear or logistic model with fewer coefficients than the problem uses the first ones; the
    intercept becomes an input that is always 1, and the remaining inputs are 0.

    Example:
        >>> embedding_of(LinearModelPrior(2))[:2]
        ('dt-linear', (0, 1, 2, 5))
        >>> embedding_of(NormalMeanPrior(noise=3.0)) is None
        True
    """
    if isinstance(model, LinearModelPrior | LogisticModelPrior):
        return _embedding_of_regression(model)
    if isinstance(model, LinearRegressionPrior) and model.variance is None and model.n_features:
        linear = LinearModelPrior(model.n_features, intercept=model.intercept)
        embedding = _embedding_of_regression(linear)
        if embedding is None:
            return None
        # Its first latent is the variance, so log noise is half of the log variance.
        *weights, noise = embedding.coordinates
        halves = (0.5, *(1.0 for _ in weights))
        return embedding._replace(coordinates=(noise, *weights), scales=halves)
    for name, problem in PROBLEMS.items():
        if _likelihood(problem.program()) == _likelihood(model):
            return Embedding(name, tuple(range(problem.n_latents)), lambda x: x)
    return None


def _embedding_of_regression(model: LinearModelPrior | LogisticModelPrior) -> Embedding | None:
    linear = isinstance(model, LinearModelPrior)
    if linear and model.n_features == 0:
        return Embedding("dt-normal", (0, 1), lambda x: x)
    most, n = 5, model.n_features + model.intercept
    if n > most:
        return None

    def inputs(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(model.design(x), (0, most - n))

    coefficients = tuple(range(n))
    if linear:
        return Embedding("dt-linear", (*coefficients, most), inputs)
    return Embedding("dt-logistic", coefficients, inputs)


def _likelihood(model: Any) -> Any:
    """A key that is equal for two programs with the same likelihood."""
    if not isinstance(model, GaussianProcessPrior):
        return type(model), getattr(model, "noise", None)
    known = {
        name: None if isinstance(value, Distribution) else value
        for name, value in model.hyperparameters.items()
    }
    return GaussianProcessPrior, model.kernel, known, model.n_features, model.scale_by_dimension
