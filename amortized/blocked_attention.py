r"""Attention in bfloat16 on a CPU: matrix products over blocks that fit in the cache.

Torch's fused CPU kernel gains nothing from bfloat16, but matrix products do on CPUs with native
support. Therefore :math:`\mathrm{softmax}(QK^\top/\sqrt{w})V` is computed in blocks: the scores of
several tasks and heads, or of some rows of one. The softmax is kept for the gradient, which takes
``2 batch heads rows context`` bytes. Where no gradient is wanted and the scores are so small that
their exponentials overflow nowhere, these multiply the values, and the sums divide what comes out.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Bytes of one block of scores, about the cache of one core.
_PIECE = 2**21
# Scores of which thousands of exponentials have a sum in bfloat16, which has float32's range.
_LARGEST_SCORE = 75.0


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
    is_small = _are_small(inputs, added)
    parts = zip(*(tensor.split(together) for tensor in (*inputs, is_small)), strict=True)
    masks = (None,) * -(-len(inputs[0]) // together) if added is None else added.split(together)
    attended = [
        _joined([_attend(rows, k, v, m, small) for rows in q.split(most_rows, 1)], 1)
        for (q, k, v, s), m in zip(parts, masks, strict=True)
        for small in [bool(s.all())]
    ]
    return _joined(attended, 0).view_as(queries)


def _are_small(inputs: tuple[Tensor, Tensor, Tensor], added: Tensor | None) -> Tensor:
    """Of which heads the exponentials of scores can be taken, ``(batch heads,)``."""
    queries, keys, values = inputs
    if added is not None or any(tensor.requires_grad for tensor in inputs):
        return torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    longest = [torch.linalg.vector_norm(tensor, dim=-1).amax(-1).float() for tensor in inputs[:2]]
    return longest[0] * longest[1] < _LARGEST_SCORE


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, added: Tensor | None, small: bool
) -> Tensor:
    """One block, ``(heads of tasks, rows, width)``, with scaled queries."""
    scores = torch.bmm(queries, keys.transpose(1, 2))
    if not small:
        return torch.bmm(torch.softmax(scores if added is None else scores + added, -1), values)
    weights = scores.exp_()
    total = weights.sum(-1, keepdim=True)
    if keys.shape[1] < values.shape[2]:
        return torch.bmm(weights.div_(total), values)
    return torch.bmm(weights, values).div_(total)
