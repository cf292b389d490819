"""Attention, once: a fused call, the formula it computes, and the rotation of inputs.

``attend`` is the only attention in the project. It is torch's fused scaled dot-product attention,
but for bfloat16 on a CPU with instructions for it, where plain products are faster;
``attend_reference`` is the same formula in four lines, kept for the tests.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from amortized.blocked_attention import blocked_attention


@cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 faster than those of float32."""
    return bool(torch.cpu._is_avx512_bf16_supported()) and torch.backends.mkldnn.is_available()


def attend(
    queries: Float[Tensor, "batch heads rows width"],
    keys: Float[Tensor, "batch heads context width"],
    values: Float[Tensor, "batch heads context width"],
    mask: Bool[Tensor, "batch context"] | None = None,
) -> Float[Tensor, "batch heads rows width"]:
    r"""Fused attention of rows to a context: :math:`\mathrm{softmax}(QK^\top/\sqrt{w})V`.

    Without a mask every fused kernel of the device applies; a row of an empty context gets zeros.

    Args:
        queries: one query vector a row.
        keys: one key vector a context row.
        values: one value vector a context row.
        mask: False marks context rows that do not exist.

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
                # The fused kernel's backward pass takes eight times as long as in float32.
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
    # Where no key exists the softmax is undefined; kernels disagree on what they return.
    return attended.where(mask.any(-1)[:, None, None, None], 0.0)


def attend_reference(
    queries: Float[Tensor, "batch heads rows width"],
    keys: Float[Tensor, "batch heads context width"],
    values: Float[Tensor, "batch heads context width"],
    mask: Bool[Tensor, "batch context"] | None = None,
) -> Float[Tensor, "batch heads rows width"]:
    """The formula of ``attend``, written out: for the tests, not for speed."""
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ values


class Rotation(NamedTuple):
    """Cosines and signed sines of angles, ``(batch, rows, heads, width)``: the same at all depths.

    Channel i of a head turns with channel i + half. Both their cosines are kept, and their sines
    as ``-sin, sin``, so that all of a row is turned by two products.
    """

    cos: Tensor
    sin: Tensor

    @classmethod
    def by(cls, angles: Float[Tensor, "batch rows heads half"]) -> "Rotation":
        """The rotation by angles in radians."""
        cos, sin = angles.cos(), angles.sin()
        return cls(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))

    def rows(self, some: slice) -> "Rotation":
        """That of some rows."""
        return Rotation(self.cos[:, some], self.sin[:, some])


def rotate(
    vectors: Float[Tensor, "batch rows heads width"], rotation: Rotation
) -> Float[Tensor, "batch rows heads width"]:
    r"""Rotate pairs of channels by angles that are linear in the inputs.

    With angles :math:`Wx` the inner product of two rotated vectors depends on their inputs only
    through :math:`x - x'`, so attention becomes a learned stationary kernel and stays fused.

    Args:
        vectors: queries or keys; ``width = 2 * half``.
        rotation: of each pair.

    References:
        | RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021),
        | arXiv:2104.09864: angles from positions; here from real-valued inputs.
    """
    cos, sin = rotation.cos.to(vectors.dtype), rotation.sin.to(vectors.dtype)
    return torch.addcmul(vectors * cos, vectors.roll(vectors.shape[-1] // 2, -1), sin)
