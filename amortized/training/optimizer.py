"""The optimizer of all trainings: Muon for the matrices of the blocks, AdamW for the rest."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


class MuonAdamW(Optimizer):
    """Muon and AdamW combined to one optimizer.

    Muon replaces a matrix's momentum by its nearest orthogonal matrix, which suits hidden layers.
    Embeddings, heads, norms and biases use AdamW.

    Args:
        network: network to optimise; matrices inside ``network.blocks`` use Muon.
        lr: learning rate of AdamW.
        muon_lr: learning rate of Muon, in AdamW's units (updates with equal root mean square).
        weight_decay: decoupled weight decay of both.

    Raises:
        ValueError: if this version of torch has no Muon, which requires torch 2.9.

    References:
        | Muon is Scalable for LLM Training (Liu et al., 2025), arXiv:2502.16982
    """

    def __init__(self, network: Any, lr: float, muon_lr: float, weight_decay: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f"Expected torch >= 2.9 for optimizer='muon'; got {torch.__version__}. "
                "Use optimizer='adamw'."
            )
        matrices = [p for p in network.blocks.parameters() if p.ndim == 2]
        taken = {id(p) for p in matrices}
        others = [p for p in network.parameters() if id(p) not in taken]
        self.members: tuple[Optimizer, ...] = (
            torch.optim.Muon(
                matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            AdamW(others, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98)),
        )
        super().__init__([*matrices, *others], {})
        # The dictionaries are shared, so that schedules change the rates of both optimizers.
        self.param_groups = [group for member in self.members for group in member.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self.members:
            member.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimizers."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores both optimizers."""
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)
        self.param_groups = [group for member in self.members for group in member.param_groups]


def cosine_to_zero(optimizer: Optimizer, n_steps: int, warmup: float) -> LambdaLR:
    """Linear warm-up, followed by a cosine schedule that ends at zero with the last step.

    Args:
        optimizer: the optimizer.
        n_steps: length of the whole training, including resumed runs.
        warmup: fraction of the steps used for warm-up.
    """
    n_warmup = max(1, round(warmup * n_steps))

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        progress = (step - n_warmup) / max(1, n_steps - n_warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
