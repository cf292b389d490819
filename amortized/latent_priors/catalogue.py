"""Tasks with names: those that the pretrained Distribution Transformers were trained on."""

from collections.abc import Callable, Mapping

import torch

from amortized.latent_priors.metaprior import Metaprior
from amortized.latent_priors.tasks import LatentTasks
from amortized.priors.epidemic import EpidemicPrior
from amortized.priors.linear_model import LinearModelPrior
from amortized.priors.logistic_model import LogisticModelPrior
from amortized.priors.normal_mean import NormalMeanPrior
from amortized.priors.normal_variance import NormalVariancePrior
from amortized.priors.ornstein_uhlenbeck import OrnsteinUhlenbeckPrior

# Of a uniform prior, in logit units: standard deviations of 0.1 to 1.8 of its own 1.8.
_BOX = Metaprior(sd=(0.1, 2.0), flat_sd=(1.5, 2.5), own=0.3)


def dt_mean() -> LatentTasks:
    """The mean of a normal of standard deviation 1, from one observation."""
    return LatentTasks(NormalMeanPrior(), location=torch.zeros(1), scale=torch.ones(1))


def dt_variance() -> LatentTasks:
    """The variance of a normal of mean 0, from one observation; u is its logarithm."""
    return LatentTasks(NormalVariancePrior(), Metaprior(flat_sd=(3.0, 4.0)))


def dt_normal() -> LatentTasks:
    """Mean and standard deviation of a normal sample of 1 to 50."""
    return LatentTasks(LinearModelPrior(0), location=torch.zeros(2), scale=torch.ones(2))


def dt_linear() -> LatentTasks:
    """Up to five coefficients and the noise of a linear model, from 5 to 100 rows."""
    return LatentTasks(LinearModelPrior(5, intercept=False, vary_features=True))


def dt_logistic() -> LatentTasks:
    """Up to five coefficients of a logistic regression, from 5 to 200 rows."""
    return LatentTasks(LogisticModelPrior(5, vary_features=True))


def dt_oup() -> LatentTasks:
    """The two latents of an Ornstein-Uhlenbeck series of 25 points."""
    return LatentTasks(OrnsteinUhlenbeckPrior(), _BOX)


def dt_sir() -> LatentTasks:
    """Contact and recovery rates of an epidemic counted ten times."""
    return LatentTasks(EpidemicPrior(), _BOX)


TASKS: Mapping[str, Callable[[], LatentTasks]] = {
    "dt-mean": dt_mean,
    "dt-variance": dt_variance,
    "dt-normal": dt_normal,
    "dt-linear": dt_linear,
    "dt-logistic": dt_logistic,
    "dt-oup": dt_oup,
    "dt-sir": dt_sir,
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
    return TASKS[name]()
