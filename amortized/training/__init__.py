"""Training: prior-data fitting with Lightning."""

from amortized.training.config import TrainingConfig
from amortized.training.data import PriorDataModule
from amortized.training.module import PriorFitting
from amortized.training.train import new_pfn, train

__all__ = ["PriorDataModule", "PriorFitting", "TrainingConfig", "new_pfn", "train"]
