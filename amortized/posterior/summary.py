"""Numbers and text that describe draws: their scalars, precision, modes, and a table to print."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from amortized.sampling.checks.modes import find_modes
from amortized.sampling.checks.precision import precision

_PRINTED = 40  # rows of a table


def scalars(name: str, value: Tensor) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Label and place of each scalar of a latent's draws ``(n, ...)``."""
    for at in product(*map(range, value.shape[1:])):
        yield (f"{name}[{', '.join(map(str, at))}]" if at else name), at


def real(value: Tensor) -> Tensor:
    """Integers, as categorical latents have them, as numbers that have quantiles."""
    return value if value.is_floating_point() else value.double()


def text_table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The lines of a table, which ends with what was left out."""
    columns = list(next(iter(rows.values())))
    lines = [f"{'':>20}" + "".join(f"{column:>10}" for column in columns)]
    for label, row in list(rows.items())[:_PRINTED]:
        lines.append(f"{label:>20}" + "".join(f"{row[c]:>10.4g}" for c in columns))
    if len(rows) > _PRINTED:
        lines.append(f"... {len(rows) - _PRINTED} of {len(rows)} rows more: see summary()")
    return lines


def precision_of(
    value: Tensor,
    n_datasets: int,
    n_chains: int,
    log_weights: Tensor | None,
    cluster: Tensor | None,
) -> dict[str, Tensor]:
    """Precision of the estimates for a latent, each ``(*batch, *event)``; empty for few draws.

    Args:
        value: draws of the latent, ``(n, *batch, *event)``.
        n_datasets: number of datasets in the batch.
        n_chains: number of chains of the draws.
        log_weights: log weights of the draws, ``(n, *batch)``.
        cluster: labels of draws that depend on each other, ``(n, *batch)``.
    """
    n_draws = len(value)
    if n_draws // n_chains < 4:
        return {}

    def rows(per_draw: Tensor | None) -> Tensor | None:
        return None if per_draw is None else per_draw.reshape(n_draws, n_datasets).T

    of = precision(
        real(value).detach().reshape(n_draws, n_datasets, -1).movedim(0, 1),
        rows(log_weights),
        n_chains,
        rows(cluster),
    )
    found = {name: part.reshape(value.shape[1:]) for name, part in of._asdict().items()}
    if log_weights is not None:
        del found["r_hat"]
    return found


def modes(draws: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """The modes of one dataset's draws, ``{name: (n, *event)}``."""
    columns = torch.cat([value.reshape(len(value), -1) for value in draws.values()], -1)
    found = find_modes(columns.detach().cpu().double().numpy())
    labels = torch.as_tensor(found.labels, device=columns.device)
    return [
        {
            "share": float(share),
            "mean": {name: value[labels == i].mean(0) for name, value in draws.items()},
        }
        for i, share in enumerate(found.shares)
    ]
