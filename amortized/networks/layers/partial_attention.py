r"""Attention to a context in parts, exact for any split of it.

Softmax attention to a part of the context is kept as two numbers per row and head, besides the mean
of the values: with scores :math:`s_j = q^\top k_j / \sqrt w`,

.. math:: \ell = \log \sum_j e^{s_j}, \qquad o = \sum_j e^{s_j - \ell} v_j.

Attention to all parts is then the mean of the :math:`o`, weighted by :math:`e^\ell`. The merge is
associative and does not depend on the order of the parts, and its size does not grow with the
context. So rows can arrive one after another, and many continuations of one context can share what
was computed of it.

References:
    | Online normalizer calculation for softmax (Milakov & Gimelshein, 2018), arXiv:1805.02867
    | Attention as an RNN (Feng et al., 2024), arXiv:2405.13956
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MaskOfPart = Bool[Tensor, "contexts part"] | None


class PartialAttention(NamedTuple):
    """Attention of rows to a part of their context.

    Attributes:
        mean: mean of the part's values by attention, ``(batch, heads, rows, width)``; zero for an
            empty part.
        log_weight: log of the sum of the exponential scores, ``(batch, heads, rows)``; -inf for
            an empty part.
    """

    mean: Float[Tensor, "batch heads rows width"]
    log_weight: Float[Tensor, "batch heads rows"]

    def merged(self, other: "PartialAttention") -> "PartialAttention":
        """Attention to this part and another one together."""
        log_weight = torch.logaddexp(self.log_weight, other.log_weight)
        # Where both are empty, -inf less -inf would be NaN.
        base = log_weight.clamp_min(torch.finfo(log_weight.dtype).min)
        mine, theirs = (
            (each.log_weight - base).exp().unsqueeze(-1).to(self.mean.dtype)
            for each in (self, other)
        )
        return PartialAttention(mine * self.mean + theirs * other.mean, log_weight)


def attend_to_part(
    queries: Float[Tensor, "batch heads rows width"],
    keys: Float[Tensor, "contexts heads part width"],
    values: Float[Tensor, "contexts heads part width"],
    mask: MaskOfPart = None,
) -> PartialAttention:
    """Attention of rows to one part of their context, to be merged with the other parts.

    Args:
        queries: one query vector per row. Of a batch larger than the number of contexts, entry i
            has context ``i % contexts``; the keys and values are not copied.
        keys: one key vector per row of the part.
        values: one value vector per row of the part.
        mask: False marks padding rows of the part, ``(contexts, part)``.

    Raises:
        ValueError: if the batch of the queries is not a multiple of the number of contexts.

    Example:
        >>> import torch
        >>> from amortized.networks.layers.attention import attend
        >>> q, k, v = torch.randn(3, 2, 4, 5, 8)
        >>> first, last = slice(0, 2), slice(2, 5)
        >>> parts = [attend_to_part(q, k[:, :, rows], v[:, :, rows]) for rows in (first, last)]
        >>> torch.allclose(parts[0].merged(parts[1]).mean, attend(q, k, v), atol=1e-6)
        True
    """
    n_contexts, n_copies = len(keys), len(queries) // max(1, len(keys))
    if n_copies * n_contexts != len(queries):
        raise ValueError(
            f"Expected queries for each of {n_contexts} contexts, or a multiple of them; got a "
            f"batch of {len(queries)}."
        )
    heads, n_rows, width = queries.shape[1:]
    # The rows of all copies become rows of one: a product of matrices in place of one for each.
    q = queries.unflatten(0, (n_copies, n_contexts)).permute(1, 2, 0, 3, 4).flatten(2, 3)
    scores = q @ keys.transpose(-1, -2) / math.sqrt(width)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
    log_weight = scores.to(torch.promote_types(scores.dtype, torch.float32)).logsumexp(-1)
    # A row without keys has no scores above -inf, and its weights are zero.
    base = log_weight.clamp_min(torch.finfo(log_weight.dtype).min)
    mean = (scores - base.unsqueeze(-1)).exp().to(values.dtype) @ values

    def of_each_copy(numbers: Tensor) -> Tensor:
        return numbers.unflatten(2, (n_copies, n_rows)).movedim(2, 0).flatten(0, 1)

    return PartialAttention(of_each_copy(mean), of_each_copy(log_weight))
