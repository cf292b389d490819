r"""Attention in bfloat16 on a CPU: matrix products over blocks that fit in the cache.

Torch's fused CPU kernel gains nothing from bfloat16, but matrix products do on CPUs with native
support. Therefore :math:`\mathrm{softmax}(QK^\top/\sqrt{w})V` is computed in blocks: the scores of
several tasks and heads, or of some rows of one. The softmax is kept for the gradient, which takes
``2 batch heads rows context`` bytes.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Bytes of one block of scores, about the cache of one core.
_PIECE = 2**21


def blocked_attention(
    queries: Float[Tensor, "batch heads rows width"],
    keys: Float[Tensor, "batch heads context width"],
    values: Float[Tensor, "batch heads context width"],
    mask: Bool[Tensor, "batch context"] | None = None,
) -> Float[Tensor, "batch heads rows width"]:
    """Computes ``attend`` block by block, in the dtype of the inputs.

    Args:
        queries: one query vector per row.
        keys: one key vector per context row; the context must not be empty.
        values: one value vector per context row.
        mask: False marks padding rows of the context; without any other row the result is finite
            but meaningless.
    """
    heads, n_rows, width = queries.shape[1:]
    most_rows = max(1, min(n_rows, _PIECE // (keys.shape[-2] * keys.element_size())))
    together = max(1, _PIECE // (most_rows * keys.shape[-2] * keys.element_size()))
    added = None
    if mask is not None:
        # The most negative finite number, because -inf would give NaN for rows without keys.
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
    """One block, ``(heads of tasks, rows, width)``, with scaled queries."""
    scores = torch.bmm(queries, keys.transpose(1, 2))
    return torch.bmm(torch.softmax(scores if added is None else scores + added, -1), values)
