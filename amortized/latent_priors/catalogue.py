"""Tasks with names: those that the pretrained Distribution Transformers were trained on."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortized.latent_priors.metaprior import Metaprior
from amortized.latent_priors.tasks import LatentTasks
from amortized.priors.epidemic import EpidemicPrior
from amortized.priors.gaussian_process import GaussianProcessPrior
from amortized.priors.gaussian_process_lengthscale import LengthscalePrior
from amortized.priors.linear_model import LinearModelPrior
from amortized.priors.linear_regression import LinearRegressionPrior
from amortized.priors.logistic_model import LogisticModelPrior
from amortized.priors.nonlinear_observation import NonlinearObservationPrior
from amortized.priors.normal_mean import NormalMeanPrior
from amortized.priors.normal_variance import NormalVariancePrior
from amortized.priors.ornstein_uhlenbeck import OrnsteinUhlenbeckPrior
from amortized.priors.program import ProgramPrior
from amortized.priors.quantum_parameter import QuantumParameterPrior
from amortized.priors.sensor_reading import SensorReadingPrior
from amortized.priors.vectorised import precision

PROGRAMS: Mapping[str, Callable[[], ProgramPrior]] = {
    "dt-mean": NormalMeanPrior,
    "dt-variance": NormalVariancePrior,
    "dt-normal": lambda: LinearModelPrior(0),
    "dt-linear": lambda: LinearModelPrior(5, intercept=False, vary_features=True),
    "dt-logistic": lambda: LogisticModelPrior(5, vary_features=True),
    "dt-oup": OrnsteinUhlenbeckPrior,
    "dt-sir": EpidemicPrior,
    "dt-filter": SensorReadingPrior,
    "dt-quantum": QuantumParameterPrior,
    "dt-nonlinear": NonlinearObservationPrior,
    "dt-gp-hyper": LengthscalePrior,
}
"""The program of each; its likelihood is what a network has learned."""

# Of a latent in an interval: a uniform prior is the standard normal, and what is wider or farther
# out lies at the interval's ends.
_BOX = Metaprior(location_sd=1.0, sd=(0.1, 1.2), flat=0.25, flat_sd=(0.9, 1.3), own=0.3)


def dt_mean() -> LatentTasks:
    """The mean of a normal of standard deviation 1, from one observation."""
    return LatentTasks(PROGRAMS["dt-mean"](), location=torch.zeros(1), scale=torch.ones(1))


def dt_variance() -> LatentTasks:
    """The variance of a normal of mean 0, from one observation; u is its logarithm."""
    return LatentTasks(PROGRAMS["dt-variance"](), Metaprior(flat_sd=(3.0, 4.0)))


def dt_normal() -> LatentTasks:
    """Mean and standard deviation of a normal sample of 1 to 50."""
    return LatentTasks(PROGRAMS["dt-normal"](), location=torch.zeros(2), scale=torch.ones(2))


def dt_linear() -> LatentTasks:
    """Up to five coefficients and the noise of a linear model, from 5 to 100 rows."""
    return LatentTasks(PROGRAMS["dt-linear"]())


def dt_logistic() -> LatentTasks:
    """Up to five coefficients of a logistic regression, from 5 to 200 rows."""
    return LatentTasks(PROGRAMS["dt-logistic"]())


def dt_oup() -> LatentTasks:
    """The two latents of an Ornstein-Uhlenbeck series of 25 points."""
    return LatentTasks(
        PROGRAMS["dt-oup"](),
        _BOX,
        location=torch.zeros(2),
        scale=torch.ones(2),
    )


def dt_sir() -> LatentTasks:
    """Contact and recovery rates of an epidemic counted ten times."""
    return LatentTasks(
        PROGRAMS["dt-sir"](),
        _BOX,
        location=torch.zeros(2),
        scale=torch.ones(2),
    )


def dt_filter() -> LatentTasks:
    """Place and velocity of a target from one range and bearing, under priors of a filter.

    Between two looks a filter's prior is a tenth to one unit wide, and a place and its velocity
    are strongly correlated.
    """
    return LatentTasks(
        SensorReadingPrior(),
        Metaprior(location_sd=1.0, sd=(0.05, 1.0), correlation=1.0, flat_sd=(1.0, 1.5), own=0.05),
        location=torch.tensor([1.0, 0.0, 1.0, 0.0]),
        scale=torch.tensor([2.0, 0.5, 2.0, 0.5]),
    )


def dt_quantum() -> LatentTasks:
    """The parameter of a two-level Hamiltonian from ten outcomes; u is its probit."""
    return LatentTasks(
        PROGRAMS["dt-quantum"](),
        Metaprior(location_sd=1.0, sd=(0.1, 1.5), flat_sd=(1.0, 1.6)),
        location=torch.zeros(1),
        scale=torch.ones(1),
    )


def dt_nonlinear() -> LatentTasks:
    """A number from noisy readings of its square and its cardinal sine."""
    return LatentTasks(
        PROGRAMS["dt-nonlinear"](),
        Metaprior(location_sd=1.5, sd=(0.1, 2.0), flat_sd=(2.0, 4.0)),
        location=torch.zeros(1),
        scale=torch.ones(1),
    )


def dt_gp_hyper() -> LatentTasks:
    """The lengthscale of a Gaussian process from 5 to 20 points; u is its logarithm."""
    return LatentTasks(PROGRAMS["dt-gp-hyper"]())


TASKS: Mapping[str, Callable[[], LatentTasks]] = {
    "dt-mean": dt_mean,
    "dt-variance": dt_variance,
    "dt-normal": dt_normal,
    "dt-linear": dt_linear,
    "dt-logistic": dt_logistic,
    "dt-oup": dt_oup,
    "dt-sir": dt_sir,
    "dt-filter": dt_filter,
    "dt-quantum": dt_quantum,
    "dt-nonlinear": dt_nonlinear,
    "dt-gp-hyper": dt_gp_hyper,
}


def named_tasks(name: str) -> LatentTasks:
    """The tasks of that name.

    Raises:
        ValueError: if there are none.

    Example:
        >>> named_tasks("dt-normal").names
        ['coefficients', 'noise']
    """
    if name not in TASKS:
        raise ValueError(f"Expected tasks among {sorted(TASKS)}; got {name!r}.")
    with precision(torch.float32):
        return TASKS[name]()


_N_LATENTS = {
    "dt-mean": 1,
    "dt-variance": 1,
    "dt-filter": 4,
    "dt-quantum": 1,
    "dt-nonlinear": 1,
    "dt-gp-hyper": 1,
}


class Place(NamedTuple):
    """Where a model stands among the tasks of a name, that may have more inputs and latents.

    Attributes:
        name: of the tasks.
        coordinates: those of the tasks' u that are the model's u, in its order.
        inputs: from the model's inputs to those of the tasks.
        scales: what the model's u are multiplied by to be those of the tasks; none for 1.
    """

    name: str
    coordinates: tuple[int, ...]
    inputs: Callable[[Tensor], Tensor]
    scales: tuple[float, ...] = ()


def place_among_tasks(model: Any) -> Place | None:
    """The named tasks whose likelihood is a model's; None where there are none.

    The model's own prior does not matter: a network is told it. A linear or logistic model of
    fewer coefficients than the tasks have takes the first of them, its intercept as an input that
    is always 1; the inputs that are left over are zero.

    Example:
        >>> place_among_tasks(LinearModelPrior(2))[:2]
        ('dt-linear', (0, 1, 2, 5))
        >>> place_among_tasks(NormalMeanPrior(noise=3.0)) is None
        True
    """
    if isinstance(model, LinearModelPrior | LogisticModelPrior):
        return _place_of_regression(model)
    if isinstance(model, LinearRegressionPrior) and model.variance is None and model.n_features:
        place = _place_of_regression(LinearModelPrior(model.n_features, intercept=model.intercept))
        if place is None:
            return None
        # Its first latent is the variance, and log noise is half of the log variance.
        *weights, noise = place.coordinates
        halves = (0.5, *(1.0 for _ in weights))
        return place._replace(coordinates=(noise, *weights), scales=halves)
    for name, program in PROGRAMS.items():
        if _likelihood(program()) == _likelihood(model):
            n = _N_LATENTS.get(name, 2)
            return Place(name, tuple(range(n)), lambda x: x)
    return None


def _place_of_regression(model: LinearModelPrior | LogisticModelPrior) -> Place | None:
    linear = isinstance(model, LinearModelPrior)
    if linear and model.n_features == 0:
        return Place("dt-normal", (0, 1), lambda x: x)
    most, n = 5, model.n_features + model.intercept
    if n > most:
        return None

    def inputs(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(model.design(x), (0, most - n))

    coefficients = tuple(range(n))
    if linear:
        return Place("dt-linear", (*coefficients, most), inputs)
    return Place("dt-logistic", coefficients, inputs)


def _likelihood(model: Any) -> Any:
    """What tells the likelihoods of two programs apart."""
    if not isinstance(model, GaussianProcessPrior):
        return type(model), getattr(model, "noise", None)
    known = {
        name: None if isinstance(value, Distribution) else value
        for name, value in model.hyperparameters.items()
    }
    return GaussianProcessPrior, model.kernel, known, model.n_features, model.scale_by_dimension
