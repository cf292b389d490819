"""What every sampler returns: draws in unconstrained space, for a batch of datasets."""

from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Draws(NamedTuple):
    """Draws of u for each dataset, and what the sampler learnt on the way.

    Attributes:
        u: unconstrained latents, ``(batch, n, dim)``.
        log_weights: of the draws, ``(batch, n)``; None for equal weights.
        log_evidence: ``(batch,)``, or None where the sampler has no estimate.
        n_chains: how many chains the n draws are made of, chain after chain.
        diagnostics: numbers for the user, those of single datasets as ``(batch,)`` tensors.
        log_evidence_error: standard error of log_evidence, ``(batch,)``, or None.
        cluster: draws with equal labels depend on each other, ``(batch, n)``; None where chains
            say how they depend, or they are independent.
    """

    u: Float[Tensor, "batch n dim"]
    log_weights: Float[Tensor, "batch n"] | None
    log_evidence: Float[Tensor, " batch"] | None
    n_chains: int
    diagnostics: dict[str, Any]
    log_evidence_error: Float[Tensor, " batch"] | None = None
    cluster: Int[Tensor, "batch n"] | None = None
