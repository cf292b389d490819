"""The result type of every sampler: draws in unconstrained space, for a batch of datasets."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_N_BLOCKS = 16  # of a chain
_OF_START = ("k_hat", "efficiency")  # describe the start, so they survive a second sampler


class Draws(NamedTuple):
    """Draws of u for each dataset, with the evidence and diagnostics of the sampler.

    Attributes:
        u: unconstrained latents, ``(batch, n, dim)``.
        log_weights: log weights of the draws, ``(batch, n)``; None for equal weights.
        log_evidence: ``(batch,)``; None if the sampler does not estimate it.
        n_chains: number of chains that the n draws consist of, one chain after another.
        diagnostics: numbers for the user; values per dataset are ``(batch,)`` tensors.
        log_evidence_error: standard error of log_evidence, ``(batch,)``, or None.
        cluster: draws with the same label are dependent, ``(batch, n)``; None for independent
            draws, or where ``n_chains`` describes the dependence.
    """

    u: Float[Tensor, "batch n dim"]
    log_weights: Float[Tensor, "batch n"] | None
    log_evidence: Float[Tensor, " batch"] | None
    n_chains: int
    diagnostics: dict[str, Any]
    log_evidence_error: Float[Tensor, " batch"] | None = None
    cluster: Int[Tensor, "batch n"] | None = None


def take_draws(draws: Draws, index: Int[Tensor, " chosen"]) -> Draws:
    """The draws of the chosen datasets."""
    optional = (draws.log_weights, draws.log_evidence, draws.log_evidence_error, draws.cluster)
    weights, evidence, error, cluster = (None if v is None else v[index] for v in optional)
    diagnostics = {name: _chosen(value, index) for name, value in draws.diagnostics.items()}
    return Draws(draws.u[index], weights, evidence, draws.n_chains, diagnostics, error, cluster)


def _chosen(value: Any, index: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[index]
    return [value[i] for i in index.tolist()] if isinstance(value, list) else value


def first_draws(draws: Draws, n: int) -> Draws:
    """The first n draws of each dataset, with the diagnostics of all; for draws in random order."""
    weights, cluster = (None if v is None else v[:, :n] for v in (draws.log_weights, draws.cluster))
    return draws._replace(u=draws.u[:, :n], log_weights=weights, cluster=cluster)


def put_draws(draws: Draws, index: Int[Tensor, " chosen"], part: Draws) -> Draws:
    """Replaces the draws of the chosen datasets by the same number of new ones.

    A diagnostic that only one of the two has is NaN, or an empty list, for datasets of the other.
    Draws of different samplers do not form comparable chains, so the dependence within a dataset is
    recorded by cluster labels.
    """
    n_datasets, n = draws.u.shape[:2]
    if not len(index):
        return draws
    weights = _put(draws.log_weights, part.log_weights, index, (n_datasets, n), -math.log(n))
    size = (n_datasets,)
    return Draws(
        draws.u.index_copy(0, index, part.u.to(draws.u.dtype)),
        weights,
        _put(draws.log_evidence, part.log_evidence, index, size, math.nan),
        draws.n_chains,
        _put_diagnostics(draws.diagnostics, part.diagnostics, index, n_datasets),
        _put(draws.log_evidence_error, part.log_evidence_error, index, size, math.nan),
        _put_clusters(draws, part, index),
    )


def _put(
    old: Tensor | None, new: Tensor | None, index: Tensor, shape: tuple[int, ...], fill: float
) -> Tensor | None:
    if old is None and new is None:
        return None
    dtype = torch.float64
    old = torch.full(shape, fill, dtype=dtype) if old is None else old.to(dtype)
    missing = torch.full((len(index), *shape[1:]), fill, dtype=dtype)
    return old.index_copy(0, index, missing if new is None else new.to(dtype))


def _put_clusters(draws: Draws, part: Draws, index: Tensor) -> Tensor | None:
    if draws.cluster is None and part.cluster is None and draws.n_chains == part.n_chains:
        return None
    old, new = (
        blocks_of_chains(each) if each.cluster is None else each.cluster for each in (draws, part)
    )
    return old.clone().index_copy(0, index, new)


def blocks_of_chains(draws: Draws) -> Int[Tensor, "batch n"]:
    """Labels of blocks within chains, long enough for blocks to be nearly independent."""
    n = draws.u.shape[1]
    length = max(1, n // draws.n_chains)
    at, chain = torch.arange(n) % length, torch.arange(n) // length
    n_blocks = min(_N_BLOCKS, length)
    return (chain * n_blocks + at * n_blocks // length).expand(len(draws.u), -1).clone()


def _put_diagnostics(
    old: dict[str, Any], new: dict[str, Any], index: Tensor, n_datasets: int
) -> dict[str, Any]:
    found = dict(old)
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Tensor):
            before = torch.full((n_datasets,), math.nan) if before is None else before
            found[name] = before.double().index_copy(0, index, value.double())
        elif isinstance(value, list):
            merged = list(before) if isinstance(before, list) else [[] for _ in range(n_datasets)]
            for i, each in zip(index.tolist(), value, strict=True):
                merged[i] = each
            found[name] = merged
        else:
            found.setdefault(name, value)
    for name in set(old) - set(new):
        if isinstance(old[name], Tensor) and name not in _OF_START:
            found[name] = old[name].double().index_fill(0, index, math.nan)
    return found
