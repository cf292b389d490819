"""The prior over tables that the released networks are trained on: the mixture and its weights."""

from amortized.priors.mixture import MixturePrior
from amortized.priors.predictability import PredictablePrior
from amortized.priors.tabular.clusters import ClusterPrior
from amortized.priors.tabular.heavy_tailed import StudentProcessPrior
from amortized.priors.tabular.neural_network import NeuralNetworkPrior
from amortized.priors.tabular.rules import RulePrior
from amortized.priors.tabular.structural_causal import StructuralCausalPrior
from amortized.priors.tabular.tabular_prior import TabularPrior


def table_prior(
    target: str = "classification",
    *,
    n_features: int | None = None,
    max_features: int = 50,
    max_classes: int = 10,
    missing: float = 0.3,
) -> MixturePrior:
    """Mix all table priors: structural causal models first, the unpredictable mostly left out.

    Args:
        target: 'classification' or 'regression'.
        n_features: fixed number of columns; None draws it per batch, log-uniformly from 2.
        max_features: most columns when ``n_features`` is None.
        max_classes: most classes of a task.
        missing: fraction of tasks with missing cells.

    Example:
        >>> batch = table_prior("regression", n_features=6).sample(4, 70, 30, seed=0)
        >>> batch.x_query.shape
        torch.Size([4, 30, 6])
    """

    def of(prior: type[TabularPrior]) -> TabularPrior:
        return prior(
            target,
            n_features=n_features,
            max_features=max_features,
            max_classes=max_classes,
            missing=missing,
        )

    return MixturePrior(
        [
            PredictablePrior(of(StructuralCausalPrior)),
            PredictablePrior(of(NeuralNetworkPrior)),
            PredictablePrior(of(StudentProcessPrior)),
            PredictablePrior(of(ClusterPrior)),
            of(RulePrior),
        ],
        weights=[0.5, 0.13, 0.11, 0.11, 0.15],
    )
