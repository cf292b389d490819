"""The priors over tables used to train the released networks: mixtures and their weights."""

from collections.abc import Mapping
from typing import Any

from amortized.priors.mixture import MixturePrior
from amortized.priors.predictability import PredictablePrior
from amortized.priors.prior import Prior
from amortized.priors.tabular.families.category_rules import CategoryRulePrior, ExactRulePrior
from amortized.priors.tabular.families.clusters import ClusterPrior
from amortized.priors.tabular.families.contrasts import ContrastPrior
from amortized.priors.tabular.families.counts import CountPrior
from amortized.priors.tabular.families.heavy_tailed import StudentProcessPrior
from amortized.priors.tabular.families.levels import LevelPrior
from amortized.priors.tabular.families.neural_network import NeuralNetworkPrior
from amortized.priors.tabular.families.rules import RulePrior
from amortized.priors.tabular.families.sampled_rows import SampledRowsPrior
from amortized.priors.tabular.families.smooth import SmoothPrior
from amortized.priors.tabular.families.structural_causal import StructuralCausalPrior
from amortized.priors.tabular.tabular_prior import TabularPrior

PLAIN: Mapping[type[TabularPrior], float] = {
    StructuralCausalPrior: 0.5,
    NeuralNetworkPrior: 0.13,
    StudentProcessPrior: 0.11,
    ClusterPrior: 0.11,
    RulePrior: 0.15,
}
# The same families at a little more than half of their weight, and additional ones.
DIVERSE: Mapping[type[TabularPrior], float] = {
    StructuralCausalPrior: 0.26,
    NeuralNetworkPrior: 0.08,
    StudentProcessPrior: 0.06,
    ClusterPrior: 0.08,
    ExactRulePrior: 0.09,
    CategoryRulePrior: 0.11,
    LevelPrior: 0.09,
    ContrastPrior: 0.11,
    SmoothPrior: 0.06,
    SampledRowsPrior: 0.06,
}
# Additional families for numeric targets.
DIVERSE_NUMBERS: Mapping[type[TabularPrior], float] = {CountPrior: 0.1}
# Families that a ridge regression on random features cannot judge.
_UNFILTERED = (RulePrior, CategoryRulePrior, LevelPrior, ContrastPrior, SmoothPrior)


def table_prior(target: str = "classification", **options: Any) -> MixturePrior:
    """Mixes all table priors, mostly structural causal models, without most unpredictable tasks.

    Args:
        target: 'classification' or 'regression'.
        **options: of every `TabularPrior`: ``n_features``, ``max_features``, ``max_classes``,
            ``missing`` and ``max_cells``.

    Example:
        >>> batch = table_prior("regression", n_features=6).sample(4, 70, 30, seed=0)
        >>> batch.x_query.shape
        torch.Size([4, 30, 6])
    """
    return _mixture(PLAIN, target, **options)


def diverse_table_prior(
    target: str = "classification",
    *,
    max_features: int = 100,
    missing: float = 0.25,
    **options: Any,
) -> MixturePrior:
    """Mixes more types of tables: exact rules, many levels, contrasts, smooth functions, counts.

    ``table_prior`` plus families on which networks trained on it alone were less accurate than
    boosted trees, linear models or Gaussian processes; arguments as there and in ``TabularPrior``.

    Example:
        >>> batch = diverse_table_prior("regression", n_features=6).sample(4, 70, 30, seed=0)
        >>> batch.x_query.shape
        torch.Size([4, 30, 6])
    """
    families = {**DIVERSE, **(DIVERSE_NUMBERS if target == "regression" else {})}
    return _mixture(families, target, max_features=max_features, missing=missing, **options)


def _mixture(
    weights: Mapping[type[TabularPrior], float], target: str, **options: Any
) -> MixturePrior:
    """The families with their weights, filtered by predictability where that is possible."""
    priors: list[Prior] = [
        kind(target, **options)
        if issubclass(kind, _UNFILTERED)
        else PredictablePrior(kind(target, **options))
        for kind in weights
    ]
    return MixturePrior(priors, list(weights.values()))
