"""Synthetic batches for Lightning: a batch is a pure function of the seed and of its number.

Batches are counted over the whole training, whatever its steps, epochs and resumed parts are: where
gradients are accumulated a step takes several batches, and no epoch sees those of another again.
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
    """The batches of a training, drawn where they are used; each epoch goes on with the next.

    Args:
        prior: draws the tasks.
        config: sizes of a batch, and the seed.
        n_epoch: batches of an epoch; None is one for each step of the training.
        seen: how many batches the training has had, asked whenever an epoch begins or goes on.
        device: where tasks are drawn.
        rank: number of this process among those that train together.
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
        """With the number itself, as a worker process has no training to ask."""
        return self.__dict__ | {"seen": int(self.seen()).__int__}

    def batch(self, number: int) -> TaskBatch | LatentTaskBatch:
        """The batch of that number, from 0."""
        config = self.config
        seed = batch_seed(config.seed, number, self.rank)
        # The number of rows is shared by all devices, so that none waits for a longer one.
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
    """The validation batches: the same tasks whenever they are asked for, of every size alike.

    Args:
        prior: draws the tasks.
        config: sizes, and the seed of the training, whose batches are avoided.
        device: where tasks are drawn.
    """

    def __init__(
        self,
        prior: Prior | LatentTasks,
        config: TrainingConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.prior, self.config, self.device = prior, config, device
        ordered, (low, high) = getattr(prior, "ordered", 0), config.n_context
        self.sizes = (
            [ordered] if ordered else [round(n) for n in np.linspace(low, high, _N_VALIDATION)]
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> TaskBatch | LatentTaskBatch:
        # No process has such a rank, so that no training sees these tasks.
        seed = batch_seed(self.config.seed, number, rank=2**30)
        sizes = _VALIDATION_TASKS, self.sizes[number], self.config.n_query
        return self.prior.sample(*sizes, seed=seed, device=self.device)


class PriorDataModule(lightning.LightningDataModule):
    """Draws the tasks of a training from a prior; a resumed run goes on with the next batch.

    An epoch has the batches of ``config.last_step`` optimizer steps. Validation is on fixed tasks.

    Args:
        prior: draws the tasks.
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
        """Numbered batches; outside a trainer those of the first epoch."""
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
            generator=torch.Generator(),  # not the global one, whose state is the user's
        )

    def val_dataloader(self) -> DataLoader[TaskBatch | LatentTaskBatch]:
        """The fixed batches, which several processes divide among themselves."""
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
        return DataLoader(
            FixedBatches(self.prior, self.config, device),
            batch_size=None,
            generator=torch.Generator(),
        )
