"""Training: prior-data fitting with Lightning."""

from amortized.training.config import TrainingConfig
from amortized.training.data import PriorDataModule
from amortized.training.module import PriorFitting
from amortized.training.train import train

__all__ = ["PriorDataModule", "PriorFitting", "TrainingConfig", "train"]
