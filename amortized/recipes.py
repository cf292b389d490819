"""How the pretrained networks were trained: one prior, one size, one schedule a name.

``python -m amortized.recipes gp-1d`` trains that network in ``runs/gp-1d``, resuming what is
there, and writes it to ``pretrained/gp-1d`` when the schedule is done.
"""

from collections.abc import Mapping
from typing import NamedTuple

from amortized.networks.pfn import PFNConfig
from amortized.training import TrainingConfig


class Recipe(NamedTuple):
    """All that a training needs beside its prior, which has the same name.

    Attributes:
        network: size of the network.
        training: length, sizes and rates.
    """

    network: PFNConfig
    training: TrainingConfig


RECIPES: Mapping[str, Recipe] = {
    "gp-1d": Recipe(
        PFNConfig(n_features=1, max_context=50, d_hidden=192, frequencies=(0.1, 20.0)),
        TrainingConfig(
            n_steps=30_000,
            n_tasks=32,
            n_context=(1, 50),
            n_query=24,
            ema_decay=0.999,
            precision="bf16-mixed",
            compile=True,
        ),
    ),
    "gp": Recipe(
        PFNConfig(n_features=10, max_context=200, d_hidden=192, frequencies=(0.05, 5.0)),
        TrainingConfig(
            n_steps=24_000,
            n_tasks=32,
            n_context=(1, 200),
            log_uniform_context=True,
            n_query=24,
            ema_decay=0.999,
            precision="bf16-mixed",
            compile=True,
        ),
    ),
}
