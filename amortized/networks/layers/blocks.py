"""The transformer block of every network: pre-norm attention to a context, then a gated MLP.

The rows of a block attend to keys and values from the rows themselves (context to context), from
another set (query to context, components to data), or from a cache. Output projections start at
zero, so a new network is the identity and depth does not slow down the start of training.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from amortized.networks.layers.attention import Rotation, attend, rotate
from amortized.networks.layers.partial_attention import MaskOfPart, attend_to_part
from amortized.priors.task import Mask

KeysValues = tuple[Tensor, Tensor]
Rows = Float[Tensor, "batch rows d_model"]
_ALL = slice(None)


def _unchanged(keys_values: KeysValues) -> KeysValues:
    return keys_values


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be computed once and cached.

    Args:
        d_model: width of a token.
        n_heads: number of heads; divides ``d_model``.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise ValueError(
                f"Expected d_model to be a multiple of 2 * n_heads; got d_model={d_model}, "
                f"n_heads={n_heads}."
            )
        self.n_heads = n_heads
        self.queries = nn.Linear(d_model, d_model, bias=False)
        self.keys_and_values = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        nn.init.zeros_(self.out.weight)

    def _heads(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """(batch, rows, d_model) -> (batch, heads, rows, width)."""
        heads = x.unflatten(-1, (self.n_heads, -1))
        return (heads if rotation is None else rotate(heads, rotation)).transpose(-2, -3)

    def keys_values(
        self, context: Float[Tensor, "batch context d_model"], rotation: Rotation | None = None
    ) -> KeysValues:
        """Keys and values of the context rows, each ``(batch, heads, context, width)``."""
        keys, values = self.keys_and_values(context).chunk(2, dim=-1)
        return self._heads(keys, rotation), self._heads(values)

    def forward(
        self,
        rows: Rows,
        keys_values: KeysValues,
        mask: MaskOfPart,
        rotation: Rotation | None,
        appended: KeysValues | None = None,
    ) -> Rows:
        """Attends from the rows to the keys and values, and to those appended; see `Block`."""
        queries = self._heads(self.queries(rows), rotation)
        if appended is None and len(queries) == len(keys_values[0]):
            attended = attend(queries, *keys_values, mask)
        else:
            part = attend_to_part(queries, *keys_values, mask)
            if appended is not None:
                part = part.merged(attend_to_part(queries, *appended))
            attended = part.mean
        return self.out(attended.transpose(-2, -3).flatten(-2))


class Norm(nn.RMSNorm):
    """``RMSNorm`` with its weight in the input's dtype, which fused kernels require."""

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Scales the last dimension to a mean square of 1, then by the weight."""
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        # There is no fused kernel for this: torch would go through float32 in many passes.
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        least = torch.finfo(torch.float32).eps if self.eps is None else self.eps
        # The scale is not rounded: an error of it is one of every score of the row.
        scale = (size.square() / x.shape[-1] + least).rsqrt()
        scaled = x * scale
        if not torch.is_grad_enabled():
            return scaled.mul_(self.weight).to(x.dtype)
        return (scaled * self.weight).to(x.dtype)


class GatedMLP(nn.Module):
    """The gated feed-forward layer ``W3 (silu(W1 x) * W2 x)``, initialised to zero output.

    References:
        | GLU Variants Improve Transformer (Shazeer, 2020), arXiv:2002.05202
    """

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.gate_and_value = nn.Linear(d_model, 2 * d_hidden, bias=False)
        self.out = nn.Linear(d_hidden, d_model, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Applies the layer to the last dimension."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm residual block: ``h + attention(norm(h))``, then ``h + mlp(norm(h))``.

    Args:
        d_model: width of a token.
        n_heads: attention heads.
        d_hidden: hidden width of the gated MLP.
    """

    def __init__(self, d_model: int, n_heads: int, d_hidden: int) -> None:
        super().__init__()
        self.attention_norm = Norm(d_model)
        self.attention = Attention(d_model, n_heads)
        self.mlp_norm = Norm(d_model)
        self.mlp = GatedMLP(d_model, d_hidden)

    def keys_values(self, context: Tensor, rotation: Rotation | None = None) -> KeysValues:
        """Keys and values of the context at this depth."""
        return self.attention.keys_values(self.attention_norm(context), rotation)

    def forward(
        self,
        rows: Rows,
        keys_values: KeysValues,
        mask: MaskOfPart = None,
        rotation: Rotation | None = None,
        appended: KeysValues | None = None,
    ) -> Rows:
        """Passes the rows through the block.

        Args:
            rows: the rows to update. Of a batch larger than that of the keys and values, entry i
                attends to those of number ``i % contexts``.
            keys_values: keys and values of the context.
            mask: False marks padding rows of the context.
            rotation: rotation angles of the rows.
            appended: more keys and values, for each entry of the rows' batch.
        """
        normed = self.attention_norm(rows)
        return self._updated(rows, normed, keys_values, mask, rotation, appended)

    def among(
        self,
        rows: Rows,
        mask: Mask = None,
        rotation: Rotation | None = None,
        *,
        context: slice = _ALL,
        updated: slice = _ALL,
        changed: Callable[[KeysValues], KeysValues] = _unchanged,
    ) -> tuple[Float[Tensor, "batch updated d_model"], KeysValues]:
        """Passes rows that attend to each other through the block.

        Equivalent to ``forward`` with the context's ``keys_values``, but normalises only once.

        Args:
            rows: all rows.
            mask: False marks padding rows of the context.
            rotation: rotation angles of all rows.
            context: the rows that are attended to.
            updated: the rows that are updated.
            changed: what is attended to, made of the keys and values.

        Returns:
            The updated rows, and the keys and values of the context.
        """
        normed = self.attention_norm(rows)
        turn = [None if rotation is None else rotation.rows(part) for part in (context, updated)]
        keys_values = changed(self.attention.keys_values(normed[:, context], turn[0]))
        if updated != _ALL:
            # Of a slice that is not contiguous a linear layer makes a product for each row.
            rows, normed = rows[:, updated].contiguous(), normed[:, updated].contiguous()
        return self._updated(rows, normed, keys_values, mask, turn[1]), keys_values

    def _updated(
        self,
        rows: Tensor,
        normed: Tensor,
        keys_values: KeysValues,
        mask: Tensor | None,
        rotation: Rotation | None,
        appended: KeysValues | None = None,
    ) -> Tensor:
        rows = rows + self.attention(normed, keys_values, mask, rotation, appended)
        return rows + self.mlp(self.mlp_norm(rows))
