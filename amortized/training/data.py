"""Synthetic batches for Lightning: each batch is a pure function of the seed and its number.

Batches are numbered over the whole training, independently of steps, epochs and resumed runs. If
gradients are accumulated a step takes several batches, and no batch is used twice.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks
from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch
from amortized.training.config import TrainingConfig

_N_VALIDATION, _VALIDATION_TASKS = 8, 32


def batch_seed(seed: int, number: int, rank: int = 0) -> int:
    """A well-mixed 63-bit seed for one batch of one training on one device.

    Example:
        >>> batch_seed(0, 1) == batch_seed(0, 1), batch_seed(0, 1) == batch_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence((seed, number, rank)).generate_state(1, np.uint64)[0] >> 1)


class NumberedBatches(IterableDataset[TaskBatch | LatentTaskBatch]):
    """The batches of a training, drawn on demand; each epoch continues with the next number.

    Args:
        prior: prior of the tasks.
        config: sizes of a batch, and the seed.
        n_epoch: number of batches per epoch; None is one for each step of the training.
        seen: function that returns the number of batches used so far.
        device: device on which tasks are drawn.
        rank: rank of this process in distributed training.
    """

    def __init__(
        self,
        prior: Prior | LatentTasks,
        config: TrainingConfig,
        n_epoch: int | None = None,
        seen: Callable[[], int] = int,
        device: torch.device | str = "cpu",
        rank: int = 0,
    ) -> None:
        self.prior, self.config = prior, config
        self.n_epoch, self.seen = n_epoch or config.last_step, seen
        self.device, self.rank = device, rank

    def __getstate__(self) -> dict[str, Any]:
        """Stores the number itself, because worker processes cannot call ``seen``."""
        return self.__dict__ | {"seen": int(self.seen()).__int__}

    def batch(self, number: int) -> TaskBatch | LatentTaskBatch:
        """The batch with that number, counted from 0."""
        config = self.config
        seed = batch_seed(config.seed, number, self.rank)
        # All devices use the same number of rows, so that none waits for another.
        level = np.random.default_rng(batch_seed(config.seed, number)).random()
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
        first = self.seen()
        end = (first // self.n_epoch + 1) * self.n_epoch
        for number in range(first + offset, end, stride):
            yield self.batch(number)


class FixedBatches(Dataset[TaskBatch | LatentTaskBatch]):
    """The validation batches: fixed tasks, equally many of every size.

    Args:
        prior: prior of the tasks.
        config: sizes, and the seed of the training, whose batches are avoided.
        device: device on which tasks are drawn.
    """

    def __init__(
        self, prior: Prior | LatentTasks, config: TrainingConfig, device: torch.device | str = "cpu"
    ) -> None:
        self.prior, self.config, self.device = prior, config, device
        ordered, (low, high) = getattr(prior, "ordered", 0), config.n_context
        self.sizes = (
            [ordered] if ordered else [round(n) for n in np.linspace(low, high, _N_VALIDATION)]
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> TaskBatch | LatentTaskBatch:
        # No process has this rank, so these tasks are never used for training.
        seed = batch_seed(self.config.seed, number, rank=2**30)
        sizes = _VALIDATION_TASKS, self.sizes[number], self.config.n_query
        return self.prior.sample(*sizes, seed=seed, device=self.device)


class PriorDataModule(lightning.LightningDataModule):
    """Draws training tasks from a prior; a resumed run continues with the next batch.

    An epoch has the batches of ``config.last_step`` optimizer steps. Validation uses fixed tasks.

    Args:
        prior: prior of the tasks.
        config: sizes of a batch, and the seed.

    Example:
        >>> from amortized.priors import LinearRegressionPrior
        >>> module = PriorDataModule(LinearRegressionPrior(1), TrainingConfig(n_steps=3))
        >>> len(list(module.train_dataloader())), len(module.val_dataloader())
        (3, 8)
    """

    def __init__(self, prior: Prior | LatentTasks, config: TrainingConfig) -> None:
        super().__init__()
        self.prior, self.config = prior, config

    def train_dataloader(self) -> DataLoader[TaskBatch | LatentTaskBatch]:
        """Numbered batches; without a trainer those of the first epoch."""
        trainer = self.trainer
        if trainer is None:
            batches = NumberedBatches(self.prior, self.config)
        else:
            batches = NumberedBatches(
                self.prior,
                self.config,
                n_epoch=self.config.last_step * trainer.accumulate_grad_batches,
                seen=lambda: trainer.fit_loop.total_batch_idx + 1,
                device=trainer.strategy.root_device,
                rank=trainer.global_rank,
            )
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.config.n_workers,
            generator=torch.Generator(),  # the state of the global one belongs to the user
        )

    def val_dataloader(self) -> DataLoader[TaskBatch | LatentTaskBatch]:
        """The fixed batches, divided among processes."""
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
        return DataLoader(
            FixedBatches(self.prior, self.config, device),
            batch_size=None,
            generator=torch.Generator(),
        )
