"""Fits the members of an ensemble with early stopping on held-out simulations."""

import math
import time
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from amortized.seeding import nothing_drawn
from amortized.simulation_based.config import FlowTraining

_LOWER, _N_RATES = 3.0, 3  # the rate falls by this factor, and there are so many
_LEAST_GAIN = 1e-3  # nats that count as progress
_CLIP = 5.0
_DECAY = 1e-4
_CHUNK = 4096  # held-out simulations evaluated at once


class Fit(NamedTuple):
    """How a training went.

    Attributes:
        losses: mean negative log density of held-out simulations at the best epoch, by member.
        n_epochs: epochs of each member.
        seconds: seconds of the training.
        stopped: whether a limit of epochs or seconds ended it, rather than a lack of progress.
    """

    losses: list[float]
    n_epochs: list[int]
    seconds: float
    stopped: bool


def fit(
    members: list[Any],
    residual: Float[Tensor, "n dim"],
    inputs: Float[Tensor, "n numbers"],
    held_out: Tensor,
    training: FlowTraining,
    progress: bool = False,
) -> Fit:
    """Maximises the log density of residuals given inputs, member by member.

    Args:
        members: modules with ``log_prob(residual, inputs)``.
        residual: what the density is of.
        inputs: what it is conditioned on.
        held_out: boolean, which rows stop the training and are not trained on, ``(n,)``.
        training: batch size, rate and limits.
        progress: whether a bar is shown.
    """
    began, losses, epochs, stopped = time.monotonic(), [], [], False
    bar = tqdm(unit="epoch", disable=not progress, desc="training")
    with nothing_drawn(), bar:
        for number, member in enumerate(members):
            left = math.inf
            if training.max_seconds is not None:
                spent = time.monotonic() - began
                left = (training.max_seconds - spent) / (len(members) - number)
            generator = torch.Generator().manual_seed(training.seed + number)
            data = residual[~held_out], inputs[~held_out], residual[held_out], inputs[held_out]
            loss, n_epochs, ended = _fit_member(member, data, training, generator, left, bar)
            losses.append(loss)
            epochs.append(n_epochs)
            stopped |= ended
    return Fit(losses, epochs, time.monotonic() - began, stopped)


def _fit_member(
    member: Any,
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    training: FlowTraining,
    generator: torch.Generator,
    seconds: float,
    bar: Any,
) -> tuple[float, int, bool]:
    """The best loss, the epochs taken, and whether a limit was met."""
    residual, inputs, *held_out = data
    until = time.monotonic() + seconds
    best, state, since, rate = _loss(member, *held_out), deepcopy(member.state_dict()), 0, 0
    optimizer = torch.optim.AdamW(member.parameters(), training.lr, weight_decay=_DECAY)
    epoch = 0
    while epoch < training.max_epochs and time.monotonic() < until:
        member.train()
        for chosen in torch.randperm(len(residual), generator=generator).split(training.batch_size):
            loss = -member.log_prob(residual[chosen], inputs[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(member.parameters(), _CLIP)
            if loss.isfinite():
                optimizer.step()
            if time.monotonic() >= until:
                break
        epoch += 1
        now = _loss(member.eval(), *held_out)
        bar.update()
        bar.set_postfix(loss=f"{min(now, best):.3f}", refresh=False)
        since = since + 1
        if now < best:
            since = 0 if now < best - _LEAST_GAIN else since
            best, state = now, deepcopy(member.state_dict())
        if since >= training.patience:
            rate, since = rate + 1, 0
            if rate == _N_RATES:
                break
            member.load_state_dict(state)
            optimizer = torch.optim.AdamW(
                member.parameters(), training.lr / _LOWER**rate, weight_decay=_DECAY
            )
    member.load_state_dict(state)
    member.eval()
    return best, epoch, rate < _N_RATES


def _loss(member: Any, residual: Tensor, inputs: Tensor) -> float:
    """Mean negative log density; infinite where it is not finite."""
    with torch.no_grad():
        parts = [
            member.log_prob(residual[rows], inputs[rows])
            for rows in torch.arange(len(residual)).split(_CHUNK)
        ]
    loss = -float(torch.cat(parts).double().mean())
    return loss if math.isfinite(loss) else math.inf
