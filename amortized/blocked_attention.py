r"""Attention in bfloat16 on a CPU: plain matrix products over pieces that stay in its cache.

Torch's fused kernel for the CPU gains nothing from bfloat16, but matrix products do where the CPU
has instructions for it. So :math:`\mathrm{softmax}(QK^\top/\sqrt{w})V` is written out and computed
a piece at a time: the scores of some tasks and heads, or of some rows of a single one. For the
gradient the softmax is kept, ``2 batch heads rows context`` bytes.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Bytes of a piece of the scores: about what the cache of one core holds.
_PIECE = 2**21


def blocked_attention(
    queries: Float[Tensor, "batch heads rows width"],
    keys: Float[Tensor, "batch heads context width"],
    values: Float[Tensor, "batch heads context width"],
    mask: Bool[Tensor, "batch context"] | None = None,
) -> Float[Tensor, "batch heads rows width"]:
    """The formula of ``attend``, a piece at a time, in the inputs' type.

    Args:
        queries: one query vector a row.
        keys: one key vector a context row, of which there is one at least.
        values: one value vector a context row.
        mask: False marks context rows that do not exist; what a row of an empty context gets is
            finite and means nothing.
    """
    heads, n_rows, width = queries.shape[1:]
    most_rows = max(1, min(n_rows, _PIECE // (keys.shape[-2] * keys.element_size())))
    together = max(1, _PIECE // (most_rows * keys.shape[-2] * keys.element_size()))
    added = None
    if mask is not None:
        # The most negative number, not infinity: a row without keys must not make a NaN.
        least = torch.finfo(queries.dtype).min
        added = torch.zeros_like(mask, dtype=queries.dtype).masked_fill(~mask, least)
        added = added.repeat_interleave(heads, 0)[:, None]
    inputs = ((queries / math.sqrt(width)).flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1))
    parts = zip(*(tensor.split(together) for tensor in inputs), strict=True)
    masks = (None,) * -(-len(inputs[0]) // together) if added is None else added.split(together)
    attended = [
        torch.cat([_attend(rows, k, v, m) for rows in q.split(most_rows, 1)], 1)
        for (q, k, v), m in zip(parts, masks, strict=True)
    ]
    return torch.cat(attended).view_as(queries)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, added: Tensor | None) -> Tensor:
    """One piece, ``(heads of tasks, rows, width)``, of queries that are scaled."""
    scores = torch.bmm(queries, keys.transpose(1, 2))
    return torch.bmm(torch.softmax(scores if added is None else scores + added, -1), values)
