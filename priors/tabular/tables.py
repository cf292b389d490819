"""The priors over tables that the released networks are trained on: mixtures and their weights."""

from collections.abc import Mapping
from typing import Any

from amortized.priors.mixture import MixturePrior
from amortized.priors.predictability import PredictablePrior
from amortized.priors.prior import Prior
from amortized.priors.tabular.category_rules import CategoryRulePrior, ExactRulePrior
from amortized.priors.tabular.clusters import ClusterPrior
from amortized.priors.tabular.contrasts import ContrastPrior
from amortized.priors.tabular.counts import CountPrior
from amortized.priors.tabular.heavy_tailed import StudentProcessPrior
from amortized.priors.tabular.levels import LevelPrior
from amortized.priors.tabular.neural_network import NeuralNetworkPrior
from amortized.priors.tabular.rules import RulePrior
from amortized.priors.tabular.sampled_rows import SampledRowsPrior
from amortized.priors.tabular.smooth import SmoothPrior
from amortized.priors.tabular.structural_causal import StructuralCausalPrior
from amortized.priors.tabular.tabular_prior import TabularPrior

PLAIN: Mapping[type[TabularPrior], float] = {
    StructuralCausalPrior: 0.5,
    NeuralNetworkPrior: 0.13,
    StudentProcessPrior: 0.11,
    ClusterPrior: 0.11,
    RulePrior: 0.15,
}
# The same kinds at a little more than half of their weight, and what was missing from them.
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
# Of all kinds a number needs, these are answers that classes do not have.
DIVERSE_NUMBERS: Mapping[type[TabularPrior], float] = {CountPrior: 0.1}
# A ridge regression on random features cannot judge these.
_UNFILTERED = (RulePrior, CategoryRulePrior, LevelPrior, ContrastPrior, SmoothPrior)


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
    options: dict[str, Any] = {
        "n_features": n_features,
        "max_features": max_features,
        "max_classes": max_classes,
        "missing": missing,
    }
    return _mixture({kind(target, **options): weight for kind, weight in PLAIN.items()})


def diverse_table_prior(
    target: str = "classification",
    *,
    n_features: int | None = None,
    max_features: int = 100,
    max_classes: int = 10,
    missing: float = 0.25,
    max_cells: int | None = None,
) -> MixturePrior:
    """Mix more kinds of tables: exact rules, many levels, contrasts, smooth functions, counts.

    ``table_prior`` with the kinds of tables that networks trained on it alone were seen to answer
    worse than boosted trees, linear models or Gaussian processes; arguments as there and in
    ``TabularPrior``.

    Example:
        >>> batch = diverse_table_prior("regression", n_features=6).sample(4, 70, 30, seed=0)
        >>> batch.x_query.shape
        torch.Size([4, 30, 6])
    """
    options: dict[str, Any] = {
        "n_features": n_features,
        "max_features": max_features,
        "max_classes": max_classes,
        "missing": missing,
        "max_cells": max_cells,
    }
    kinds = {**DIVERSE, **(DIVERSE_NUMBERS if target == "regression" else {})}
    return _mixture({kind(target, **options): weight for kind, weight in kinds.items()})


def _mixture(weights: Mapping[TabularPrior, float]) -> MixturePrior:
    """The priors by weight, those filtered that can be."""
    priors: list[Prior] = [
        prior if isinstance(prior, _UNFILTERED) else PredictablePrior(prior) for prior in weights
    ]
    return MixturePrior(priors, list(weights.values()))
