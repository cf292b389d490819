"""Posteriors by the package sbi, in its own environment; called by `simulators.py`.

    PYTHON-OF-SBI benchmarks/simulators_sbi.py folder method

reads ``folder/task.npz`` (theta, x, observed, and low and high of a uniform prior or mean and sd of
a normal or log-normal one), trains by "npe-maf", "npe-nsf" or "nle-maf" with sbi's own settings,
and writes ``folder/answer.npz`` with draws for every observation and CPU seconds.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from sbi.inference import NLE, NPE
from sbi.utils import BoxUniform
from torch import distributions as dist


def prior_of(task: dict[str, np.ndarray]) -> dist.Distribution:
    """The prior in sbi's form."""
    one, two = (torch.as_tensor(task[name], dtype=torch.float32) for name in ("one", "two"))
    kind = str(task["prior"])
    if kind == "uniform":
        return BoxUniform(one, two)
    family = dist.Normal if kind == "normal" else dist.LogNormal
    return dist.Independent(family(one, two), 1)


def main() -> None:
    """Trains and answers one task."""
    folder, method = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = dict(np.load(folder / "task.npz"))
    theta, x = (torch.as_tensor(task[name], dtype=torch.float32) for name in ("theta", "x"))
    kind, estimator = method.split("-")
    began = time.process_time()
    trainer = (NPE if kind == "npe" else NLE)(
        prior=prior_of(task), density_estimator=estimator, show_progress_bars=False
    )
    trainer.append_simulations(theta, x).train(training_batch_size=200)
    posterior = trainer.build_posterior()
    trained = time.process_time() - began
    n_draws = int(task["n_draws"])
    draws = [
        posterior.sample(
            (n_draws,), x=torch.as_tensor(y, dtype=torch.float32), show_progress_bars=False
        )
        for y in task["observed"]
    ]
    np.savez(
        folder / "answer.npz",
        draws=torch.stack(draws).numpy(),
        trained=trained,
        answered=time.process_time() - began - trained,
    )


if __name__ == "__main__":
    main()
