"""The training recipes of the released networks, as data: size, schedule and first weights.

To add a recipe for rows or tables, add an entry here and a prior of the same name in
`amortized.priors.named`. The recipe of a Distribution Transformer is part of its entry in
`amortized.latent_priors.problems`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from amortized.latent_priors.problems import PROBLEMS, Problem
from amortized.networks import (
    DistributionTransformerConfig,
    PFNConfig,
    SeriesPFNConfig,
    TabularPFNConfig,
)
from amortized.training import TrainingConfig


class Recipe(NamedTuple):
    """The training of a network, except its prior or problem, which has the same name.

    Attributes:
        network: size of the network.
        stages: steps, batch sizes and learning rates of each stage, which continues the previous
            one.
        begins_with: released network whose weights initialise the new one, as far as shapes agree.
        n_reference: for a Distribution Transformer, the number of new tasks whose exact posterior
            is computed by quadrature; 0 if there are too many latents for quadrature.
    """

    network: PFNConfig | SeriesPFNConfig | TabularPFNConfig | DistributionTransformerConfig
    stages: tuple[TrainingConfig, ...]
    begins_with: str | None = None
    n_reference: int = 0


_TABLES = TrainingConfig(
    n_steps=6000,
    n_tasks=16,
    n_rows=1536,
    n_context=(32, 512),
    log_uniform_context=True,
    n_query=64,
    ema_decay=0.999,
    precision="bf16-mixed",
)


# Small tables first, then larger ones.
_LARGER_TABLES = replace(
    _TABLES, n_steps=4000, n_rows=2048, n_context=(32, 1000), lr=7e-4, muon_lr=2e-3, seed=1
)
_CLASSES = TabularPFNConfig(max_context=1000, n_features=30)


# Harder tables of up to 2,000 rows and 100 columns. The steps are what two hours of a core allow;
# on real tables they gain nothing yet, and ten classes at once need many more, so that these
# networks are not shipped. A longer schedule continues the same run.
_DIVERSE_TABLES = replace(
    _TABLES,
    n_steps=2400,
    n_context=(32, 2000),
    n_query=96,
    lr=4e-4,
    muon_lr=1.2e-3,
    warmup=0.01,
    ema_decay=0.998,
    checkpoint_every=100,
    seed=3,
)
_DIVERSE_CLASSES = replace(
    _CLASSES, max_context=2000, n_features=100, classes_at_once=10, n_hashes=4
)


_GP = TrainingConfig(
    n_steps=16_000,
    n_tasks=32,
    n_context=(1, 200),
    log_uniform_context=True,
    n_query=24,
    ema_decay=0.999,
    precision="bf16-mixed",
    compile=True,
)
_GP_1D = replace(_GP, n_steps=22_000, n_context=(1, 50), log_uniform_context=False)

# Neighbouring steps are 0.002 units apart at the end of a curve and 0.15 at its start.
_CURVES = PFNConfig(n_features=1, max_context=100, d_hidden=192, frequencies=(0.5, 100.0))
_CURVE_STEPS = replace(_GP, n_context=(1, 99), log_uniform_context=False)

# It begins at an average of exact answers, from which hundreds of steps go far; a later stop is
# better still.
_SERIES = TrainingConfig(
    n_steps=1_600,
    stop_at=500,
    n_context=(6, 512),
    log_uniform_context=True,
    n_query=12,
    checkpoint_every=100,
)

_OF_ROWS: Mapping[str, Recipe] = {
    "gp-1d": Recipe(
        PFNConfig(n_features=1, max_context=50, d_hidden=192, frequencies=(0.1, 20.0)),
        (_GP_1D, replace(_GP_1D, n_steps=8_000, lr=7e-4, muon_lr=2e-3, seed=1)),
    ),
    "gp": Recipe(
        PFNConfig(n_features=10, max_context=200, d_hidden=192, frequencies=(0.05, 5.0)),
        (_GP, replace(_GP, n_steps=32_000, lr=7e-4, muon_lr=2e-3, seed=1)),
    ),
    "learning-curve": Recipe(
        _CURVES,
        (
            replace(_CURVE_STEPS, n_steps=20_000),
            replace(_CURVE_STEPS, n_steps=12_000, lr=7e-4, muon_lr=2e-3, seed=1),
            replace(_CURVE_STEPS, n_steps=12_000, lr=7e-4, muon_lr=2e-3, seed=2),
        ),
    ),
    "learning-curve-discrepancy": Recipe(
        _CURVES,
        (replace(_CURVE_STEPS, n_steps=14_000, lr=7e-4, muon_lr=2e-3),),
        begins_with="learning-curve",
    ),
    "series": Recipe(SeriesPFNConfig(), (_SERIES,)),
    "tabular-classifier": Recipe(
        _CLASSES, (_TABLES, _LARGER_TABLES, replace(_LARGER_TABLES, n_steps=2400, seed=2))
    ),
    # The relations between the cells of a table are the same for every target type.
    "tabular-regressor": Recipe(
        replace(_CLASSES, target="regression"),
        (_TABLES, _LARGER_TABLES, replace(_LARGER_TABLES, n_steps=3000, seed=2)),
        begins_with="tabular-classifier",
    ),
    "tabular-classifier-2": Recipe(
        _DIVERSE_CLASSES, (_DIVERSE_TABLES,), begins_with="tabular-classifier"
    ),
    "tabular-regressor-2": Recipe(
        replace(_DIVERSE_CLASSES, target="regression"),
        (_DIVERSE_TABLES,),
        begins_with="tabular-regressor",
    ),
}


def _of_problem(problem: Problem) -> Recipe:
    """A problem's recipe, completed by the defaults of all problems."""
    low, high = problem.n_context
    settings: dict[str, Any] = {
        "n_steps": problem.n_steps,
        "n_tasks": 128,
        "n_context": problem.n_context,
        "n_query": 1,
        "log_uniform_context": low < high,
        "weight_decay": 1e-4,
        "ema_decay": 0.999,
    }
    return Recipe(
        DistributionTransformerConfig(**problem.network, n_context=problem.n_context),
        (TrainingConfig(**(settings | dict(problem.training))),),
        n_reference=problem.n_reference,
    )


RECIPES: Mapping[str, Recipe] = {
    **_OF_ROWS,
    **{name: _of_problem(problem) for name, problem in PROBLEMS.items()},
}
