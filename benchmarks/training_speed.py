"""Training steps per second: this PFN against torch.nn.TransformerEncoder with the PFN mask.

Same width, depth, heads, parameters (within 1%), bars, batches and optimizer (AdamW), turn by turn
in one process on one device. The encoder attends over context and query joined, with a mask that
lets every token see the context only; ours needs no mask. Our recipe's precision and compilation
are shown beside plain float32.

    python benchmarks/training_speed.py
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from amortized.distributions import BarDistribution
from amortized.networks import PFN, PFNConfig
from amortized.priors import TaskBatch, named_prior

SIZES = ((8, 100, 100), (4, 200, 200), (2, 500, 500), (1, 1000, 1000))
CONFIG = PFNConfig(n_features=10, max_context=1000, d_hidden=192)


class MaskedEncoder(nn.Module):
    """The plain way to a PFN: torch's encoder over context and query, with the PFN mask."""

    def __init__(self, borders: Tensor, config: PFNConfig) -> None:
        super().__init__()
        d = config.d_model
        # The gated MLP has three matrices: 3/2 of its hidden width makes the weights equal.
        layer = nn.TransformerEncoderLayer(
            d,
            config.n_heads,
            config.d_hidden * 3 // 2,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False)
        self.embed_x = nn.Linear(config.n_features, d)
        self.embed_y = nn.Linear(1, d)
        self.head = nn.Linear(d, config.n_bars)
        self.register_buffer("borders", borders)

    def loss(self, batch: TaskBatch) -> Tensor:
        """Mean negative log-likelihood of the query's answers."""
        n_context, n = batch.n_context, batch.n_context + batch.n_query
        x = torch.cat((batch.x_context, batch.x_query), dim=1)
        x = nn.functional.pad(x, (0, self.embed_x.in_features - x.shape[-1]))
        tokens = self.embed_x(x)
        tokens[:, :n_context] += self.embed_y(batch.y_context[..., None])
        forbidden = torch.ones(n, n, dtype=torch.bool, device=x.device)
        forbidden[:, :n_context] = False
        forbidden.fill_diagonal_(False)
        logits = self.head(self.encoder(tokens, mask=forbidden)[:, n_context:]).float()
        return -BarDistribution(logits, self.borders, False).log_prob(batch.y_query).mean()


def seconds_per_step(
    loss: Callable[[TaskBatch], Tensor], network: nn.Module, batch: TaskBatch, bf16: bool
) -> float:
    """Median wall seconds of a training step, of 7 after 3 to warm up."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    device = batch.x_context.device
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[3:])[3]


def main() -> None:
    """Print steps per second of each way, at each size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior = named_prior("gp")
    ours = PFN.new(prior, CONFIG).to(device)
    plain = MaskedEncoder(ours.borders, ours.config).to(device)
    counts = [sum(p.numel() for p in net.encoder.parameters()) for net in (plain,)]
    counts.append(sum(p.numel() for p in ours.blocks.parameters()))
    print(f"{device}, {torch.get_num_threads()} threads; weights in the blocks: {counts}")
    print(
        f"{'tasks':>6} {'context':>8} {'query':>6} {'encoder fp32':>13} {'bf16':>7} "
        f"{'PFN fp32':>9} {'bf16+compile':>13} {'ratio fp32':>11} {'ratio recipe':>13}"
    )
    for n_tasks, n_context, n_query in SIZES:
        batch = prior.sample(n_tasks, n_context, n_query, seed=0, device=device)
        compiled = torch.compile(ours.loss, dynamic=False)
        steps = [
            1 / seconds_per_step(plain.loss, plain, batch, False),
            1 / seconds_per_step(plain.loss, plain, batch, True),
            1 / seconds_per_step(ours.loss, ours, batch, False),
            1 / seconds_per_step(compiled, ours, batch, True),
        ]
        print(
            f"{n_tasks:6d} {n_context:8d} {n_query:6d} {steps[0]:13.2f} {steps[1]:7.2f} "
            f"{steps[2]:9.2f} {steps[3]:13.2f} {steps[2] / steps[0]:11.2f} "
            f"{steps[3] / max(steps[:2]):13.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
