"""Synthetic batches for Lightning: the batch of a step is a pure function of (seed, step)."""

import math
from collections.abc import Iterator

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks
from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch
from amortized.training.config import TrainingConfig


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A well-mixed 63-bit seed for one step of one training on one device.

    Example:
        >>> step_seed(0, 1) == step_seed(0, 1), step_seed(0, 1) == step_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


class StepBatches(IterableDataset[TaskBatch | LatentTaskBatch]):
    """The batches of a training from one step on, drawn where they are used.

    Args:
        prior: draws the tasks.
        config: sizes of a batch, and the seed.
        first_step: the step of the first batch.
        device: where tasks are drawn.
        rank: number of this process among those that train together.
    """

    def __init__(
        self,
        prior: Prior | LatentTasks,
        config: TrainingConfig,
        first_step: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
    ) -> None:
        self.prior, self.config = prior, config
        self.first_step, self.device, self.rank = first_step, device, rank

    def batch(self, step: int) -> TaskBatch | LatentTaskBatch:
        """The batch of one step."""
        config = self.config
        seed = step_seed(config.seed, step, self.rank)
        # The number of rows is shared by all devices, so that none waits for a longer one.
        level = np.random.default_rng(step_seed(config.seed, step)).random()
        low, high = config.n_context
        if config.log_uniform_context:
            n_context = math.floor(math.exp(math.log(low) + level * math.log((high + 1) / low)))
        else:
            n_context = low + math.floor(level * (high + 1 - low))
        n_context, n_tasks = min(n_context, high), config.n_tasks
        if config.n_rows is not None:
            n_tasks = max(1, min(n_tasks, config.n_rows // (n_context + config.n_query)))
        return self.prior.sample(n_tasks, n_context, config.n_query, seed=seed, device=self.device)

    def __iter__(self) -> Iterator[TaskBatch | LatentTaskBatch]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.first_step + offset, self.config.last_step, stride):
            yield self.batch(step)


class PriorDataModule(lightning.LightningDataModule):
    """Feeds a training with tasks of a prior; a resumed run goes on with the next step's batch.

    Args:
        prior: draws the tasks.
        config: sizes of a batch, and the seed.
    """

    def __init__(self, prior: Prior | LatentTasks, config: TrainingConfig) -> None:
        super().__init__()
        self.prior, self.config = prior, config

    def train_dataloader(self) -> DataLoader[TaskBatch | LatentTaskBatch]:
        trainer = self.trainer
        assert trainer is not None
        batches = StepBatches(
            self.prior,
            self.config,
            first_step=trainer.global_step,
            device=trainer.strategy.root_device,
            rank=trainer.global_rank,
        )
        return DataLoader(batches, batch_size=None, num_workers=self.config.n_workers)
