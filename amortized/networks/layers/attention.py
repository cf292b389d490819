"""Attention: a fused implementation, the formula it computes, and rotary encoding of inputs.

``attend`` is the only attention in the project. It is torch's fused scaled dot-product attention,
except for bfloat16 on a CPU with native support, where plain products are faster.
``attend_reference`` is the same formula in four lines, for the tests.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from amortized.priors.task import Mask

# Bytes of one block of scores, about the cache of one core.
_PIECE = 2**21
# Sums of ten thousands of exponentials of such scores, times values, stay far below overflow.
_LARGEST_SCORE = 60.0


@cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones."""
    return bool(torch.cpu._is_avx512_bf16_supported()) and torch.backends.mkldnn.is_available()


def attend(
    queries: Float[Tensor, "batch heads rows width"],
    keys: Float[Tensor, "batch heads context width"],
    values: Float[Tensor, "batch heads context width"],
    mask: Mask = None,
) -> Float[Tensor, "batch heads rows width"]:
    r"""Fused attention of rows to a context: :math:`\mathrm{softmax}(QK^\top/\sqrt{w})V`.

    Without a mask every fused kernel of the device applies; an empty context gives zeros.

    Args:
        queries: one query vector per row.
        keys: one key vector per context row.
        values: one value vector per context row.
        mask: False marks padding rows of the context.

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 2, 4, 5, 8)
        >>> torch.allclose(attend(q, k, v), attend_reference(q, k, v), atol=1e-6)
        True
    """
    if keys.shape[-2] == 0:
        return torch.zeros_like(queries)
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            if not has_fast_bfloat16() or torch.compiler.is_compiling():
                # The backward pass of the fused kernel is much slower than in float32.
                attended = attend(queries.float(), keys.float(), values.float(), mask)
                return attended.to(queries.dtype)
            attended = blocked_attention(queries, keys, values, mask)
    elif mask is None:
        return F.scaled_dot_product_attention(queries, keys, values)
    else:
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask[:, None, None, :]
        )
    if mask is None:
        return attended
    # Without any key the softmax is undefined, and kernels return different values.
    return attended.where(mask.any(-1)[:, None, None, None], 0.0)


def blocked_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""Computes ``attend`` block by block, in the dtype of the inputs.

    Torch's fused CPU kernel gains nothing from bfloat16, but matrix products do on CPUs with native
    support. Therefore :math:`\mathrm{softmax}(QK^\top/\sqrt{w})V` is computed in blocks that fit
    in the cache: the scores of several tasks and heads, or of some rows of one. The softmax is kept
    for the gradient, which takes ``2 batch heads rows context`` bytes. Without a gradient, and with
    scores so small that their exponentials cannot overflow, these multiply the values and their
    sums divide the products. The context must not be empty; where it is padding only, the result
    is finite but meaningless.
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
    """For which heads the exponentials of the scores cannot overflow, ``(batch heads,)``."""
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


def attend_reference(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The formula of ``attend`` written out, for the tests."""
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ values


class Rotation(NamedTuple):
    """Cosines and signed sines of angles, ``(batch, rows, heads, width)``, shared by all layers.

    Channel i of a head is rotated with channel i + half. The cosines are stored for both, and the
    sines as ``-sin, sin``, so that a rotation takes two products.
    """

    cos: Tensor
    sin: Tensor

    @classmethod
    def by(cls, angles: Float[Tensor, "batch rows heads half"]) -> "Rotation":
        """The rotation by angles in radians."""
        cos, sin = angles.cos(), angles.sin()
        return cls(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))

    def rows(self, some: slice) -> "Rotation":
        """The rotation of some rows."""
        return Rotation(self.cos[:, some], self.sin[:, some])


def rotate(
    vectors: Float[Tensor, "batch rows heads width"], rotation: Rotation
) -> Float[Tensor, "batch rows heads width"]:
    r"""Rotates pairs of channels by angles that are linear in the inputs.

    With angles :math:`Wx` the inner product of two rotated vectors depends on their inputs only
    through :math:`x - x'`, so attention becomes a learned stationary kernel and stays fused.

    Args:
        vectors: queries or keys; ``width = 2 * half``.
        rotation: rotation of each pair.

    References:
        | RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021),
        | arXiv:2104.09864, with real-valued inputs instead of positions.
    """
    cos, sin = rotation.cos.to(vectors.dtype), rotation.sin.to(vectors.dtype)
    return torch.addcmul(vectors * cos, vectors.roll(vectors.shape[-1] // 2, -1), sin)
