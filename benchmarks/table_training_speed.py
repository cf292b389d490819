"""Training steps per second: the network over cells against nanoTabPFN's architecture in torch.

The latter is written from the paper's description: a token a cell, the answer's column among them;
in each layer attention over the features of a row, attention over the rows of a column, where
queries see the context alone, and a GELU MLP, each followed by a layer norm; a head of two layers
reads the answer's token. ``torch.nn.MultiheadAttention`` runs its fused kernel.

Same width, depth, heads, weights in the blocks (within 1%), tables of 20 columns and optimizer
(AdamW), step by step in turn in one process on one device; on a CPU with one thread, counted in CPU
seconds. Three sizes of ours: four blocks with a token a column, as the peer has; four blocks with
a token for every second column, as our networks have; and the released network, whose last four of
eight blocks work on the rows' summaries. Each in float32 and in bfloat16, as our recipes train.

    python benchmarks/table_training_speed.py

References:
    | nanoTabPFN: A Lightweight and Educational Reimplementation of TabPFN
    | (Pfefferle et al., 2025), arXiv:2511.03634
"""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from amortized.networks import TabularPFN
from amortized.priors import TaskBatch
from amortized.priors.tabular.table_mixtures import table_prior
from amortized.recipes.table import RECIPES

DATA = ((4, 64, 64), (1, 1000, 64))
RELEASED = RECIPES["tabular-classifier"].network
N_STEPS = 3


class PlainLayer(nn.Module):
    """Attention over features, attention over rows, MLP: each with its norm behind it."""

    def __init__(self, d: int, n_heads: int, d_hidden: int) -> None:
        super().__init__()
        self.features = nn.MultiheadAttention(d, n_heads, batch_first=True)
        self.rows = nn.MultiheadAttention(d, n_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(d, d_hidden), nn.GELU(), nn.Linear(d_hidden, d))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(3))

    def forward(self, cells: Tensor, n_context: int) -> Tensor:
        """Pass on cells, ``(batch, rows, columns, d)``."""
        n_tasks, n_rows, n_columns, _ = cells.shape
        h = cells.flatten(0, 1)
        h = self.norms[0](h + self.features(h, h, h, need_weights=False)[0])
        h = h.unflatten(0, (n_tasks, n_rows)).transpose(1, 2).flatten(0, 1)
        context, query = h[:, :n_context], h[:, n_context:]
        read = [
            self.rows(part, context, context, need_weights=False)[0] for part in (context, query)
        ]
        h = self.norms[1](h + torch.cat(read, dim=1))
        h = self.norms[2](h + self.mlp(h))
        return h.unflatten(0, (n_tasks, n_columns)).transpose(1, 2)


class PlainCells(nn.Module):
    """nanoTabPFN's architecture with as many weights in its layers as a network of ours has."""

    def __init__(self, ours: TabularPFN) -> None:
        super().__init__()
        config = ours.config
        d, n_layers = config.d_model, config.n_cell_blocks + config.n_row_blocks
        n_weights = sum(p.numel() for p in ours.blocks.parameters()) / n_layers
        # Two attentions, three norms and the biases have 8 d^2 + 15 d weights.
        d_hidden = round((n_weights - 8 * d**2 - 15 * d) / (2 * d + 1))
        self.blocks = nn.ModuleList(
            PlainLayer(d, config.n_heads, d_hidden) for _ in range(n_layers)
        )
        self.embed_x, self.embed_y = nn.Linear(1, d), nn.Linear(1, d)
        self.head = nn.Sequential(nn.Linear(d, d_hidden), nn.GELU(), nn.Linear(d_hidden, 10))

    def loss(self, batch: TaskBatch) -> Tensor:
        """Mean negative log-likelihood of the query's classes."""
        n_context, context = batch.n_context, batch.x_context
        centre = context.nanmean(1, keepdim=True)
        scale = (context - centre).square().nanmean(1, keepdim=True).sqrt()
        x = (torch.cat((context, batch.x_query), dim=1) - centre) / scale.clamp_min(1e-6)
        x = x.nan_to_num(0.0).clamp(-100, 100)
        y = batch.y_context
        y = torch.cat((y, y.mean(1, keepdim=True).expand_as(batch.y_query)), dim=1)
        cells = torch.cat((self.embed_x(x[..., None]), self.embed_y(y[..., None, None])), dim=2)
        for layer in self.blocks:
            cells = layer(cells, n_context)
        logits = self.head(cells[:, n_context:, -1]).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch.y_query.long().flatten())


def steps_per_second(networks: list[Any], batch: TaskBatch) -> list[float]:
    """Of each network in float32, then of each in bfloat16; by the median step after the first."""
    device = batch.x_context.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    ways = [(network, bf16) for bf16 in (False, True) for network in networks]
    optimizers = [torch.optim.AdamW(network.parameters(), lr=1e-4) for network, _ in ways]
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(1 + N_STEPS):
        for (network, bf16), optimizer, spent in zip(ways, optimizers, seconds, strict=True):
            began = clock()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                value = network.loss(batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent.append(clock() - began)
    return [1 / sorted(spent[1:])[N_STEPS // 2] for spent in seconds]


def main() -> None:
    """Print steps per second of both architectures, for each size and each shape of tables."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    four = replace(RELEASED, n_row_blocks=0)
    sizes = {"4, a token a column": replace(four, stride=1), "4": four, "4 + 4": RELEASED}
    prior = table_prior("classification", n_features=20, max_classes=2)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        f"{'blocks of ours':19} {'weights':>19} {'tasks':>5} {'context':>7} {'query':>5} | "
        f"{'plain fp32':>10} {'ours fp32':>9} {'ratio':>5} | {'plain bf16':>10} {'ours bf16':>9} "
        f"{'ratio':>5}"
    )
    for name, config in sizes.items():
        ours = TabularPFN.new(prior, config).to(device)
        networks = [PlainCells(ours).to(device), ours]
        weights = [sum(p.numel() for p in network.blocks.parameters()) for network in networks]
        for n_tasks, n_context, n_query in DATA:
            batch = prior.sample(n_tasks, n_context, n_query, seed=0, device=device)
            a, b, c, d = steps_per_second(networks, batch)
            print(
                f"{name:19} {weights[0]:9,} {weights[1]:9,} {n_tasks:5} {n_context:7} {n_query:5} "
                f"| {a:10.2f} {b:9.2f} {b / a:5.2f} | {c:10.2f} {d:9.2f} {d / max(a, c):5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
