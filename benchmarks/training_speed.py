"""Training steps per second: this PFN against torch.nn.TransformerEncoder with the PFN mask.

Same width, depth, heads, parameters (within 1%), bars, batches and optimizer (AdamW), turn by turn
in one process on one device; on a CPU with one thread, counted in CPU seconds. The encoder attends
over context and query joined, with a mask that lets every token see the context only; ours needs
no mask. Each is shown in plain float32, and as our recipes train: bfloat16 and compiled.

    python benchmarks/training_speed.py
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks import PFN, PFNConfig
from amortized.priors import TaskBatch, named_prior

SIZES = ((8, 100, 100), (4, 200, 200), (2, 500, 500))
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
    """Median seconds of a training step, of 7 after 3 to warm up: CPU seconds on a CPU."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    device = batch.x_context.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = []
    for _ in range(10):
        began = clock()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - began)
    return sorted(seconds[3:])[3]


def main() -> None:
    """Print steps per second of each way, at each size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    prior = named_prior("gp")
    ours = PFN.new(prior, CONFIG).to(device)
    plain = MaskedEncoder(ours.borders, ours.config).to(device)
    counts = [sum(p.numel() for p in net.encoder.parameters()) for net in (plain,)]
    counts.append(sum(p.numel() for p in ours.blocks.parameters()))
    print(f"{device}, {torch.get_num_threads()} threads; weights in the blocks: {counts}")
    print(
        f"{'tasks':>6} {'context':>8} {'query':>6} | {'encoder fp32':>12} {'PFN fp32':>9} "
        f"{'ratio':>6} | {'encoder bf16':>12} {'compiled':>9} {'PFN compiled':>12} {'ratio':>6}"
    )
    for n_tasks, n_context, n_query in SIZES:
        batch = prior.sample(n_tasks, n_context, n_query, seed=0, device=device)
        ways = [(plain.loss, plain, False), (ours.loss, ours, False), (plain.loss, plain, True)]
        ways += [(torch.compile(n.loss, dynamic=False), n, True) for n in (plain, ours)]
        a, b, c, d, e = (1 / seconds_per_step(loss, n, batch, bf16) for loss, n, bf16 in ways)
        print(
            f"{n_tasks:6d} {n_context:8d} {n_query:6d} | {a:12.2f} {b:9.2f} {b / a:6.2f} | "
            f"{c:12.2f} {d:9.2f} {e:12.2f} {e / max(c, d):6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
