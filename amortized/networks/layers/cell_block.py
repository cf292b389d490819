"""The block of a network over cells: attention across the features of a row, then across rows.

A table's cells are tokens ``(batch, groups, rows, d_model)``. Attention across features treats rows
independently; attention across rows treats feature groups independently and attends to the context
only. Query rows therefore do not see each other, and the keys and values of the context rows are
all that has to be cached.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from amortized.networks.layers.blocks import Block, KeysValues
from amortized.priors.task import Mask

# Context length at which the correction leaves attention across rows unchanged.
_USUAL_CONTEXT = 256

Cells = Float[Tensor, "batch groups rows d_model"]


class RowBlock(nn.Module):
    r"""A ``Block`` across the rows of each feature group, equally sharp in long and short contexts.

    The scores of head h are multiplied by :math:`(n / 256)^{s_h}` for n context rows: a softmax
    over more rows is flatter, and a learned power of n compensates for it.

    References:
        | Scalable-Softmax Is Superior for Attention (Nakanishi, 2025), arXiv:2501.19399, with log n
        | instead of the power.
    """

    def __init__(self, d_model: int, n_heads: int, d_hidden: int) -> None:
        super().__init__()
        self.block = Block(d_model, n_heads, d_hidden)
        self.sharpness = nn.Parameter(torch.zeros(n_heads))

    def keys_values(
        self,
        context: Float[Tensor, "batch groups context d_model"],
        n_context: Float[Tensor, " batch"],
    ) -> KeysValues:
        """Keys and values of each group's rows, ``(batch * groups, heads, context, width)``.

        Args:
            context: cells of the rows that are attended to.
            n_context: number of context rows in each task, without padding.
        """
        return self._sharpened(self.block.keys_values(context.flatten(0, 1)), n_context)

    def _sharpened(self, keys_values: KeysValues, n_context: Tensor) -> KeysValues:
        # In the layout that attention reads, once for the context itself and for all queries.
        keys, values = (tensor.contiguous() for tensor in keys_values)
        factor = (n_context.clamp_min(1) / _USUAL_CONTEXT)[:, None] ** self.sharpness
        factor = factor.repeat_interleave(len(keys) // len(n_context), 0)[..., None, None]
        return keys * factor.to(keys.dtype), values

    def forward(self, cells: Cells, keys_values: KeysValues, mask: Mask = None) -> Cells:
        """Attends from the rows of every group to those of the context."""
        if mask is not None:
            mask = mask.repeat_interleave(cells.shape[1], 0)
        return self.block(cells.flatten(0, 1), keys_values, mask).view_as(cells)

    def among(
        self,
        context: Float[Tensor, "batch groups context d_model"],
        n_context: Float[Tensor, " batch"],
        mask: Mask = None,
    ) -> tuple[Float[Tensor, "batch groups context d_model"], KeysValues]:
        """``forward`` of the context itself, and its ``keys_values``; normalises only once."""
        if mask is not None:
            mask = mask.repeat_interleave(context.shape[1], 0)
        rows, kept = self.block.among(
            context.flatten(0, 1), mask, changed=lambda both: self._sharpened(both, n_context)
        )
        return rows.view_as(context), kept


class CellBlock(nn.Module):
    """Attention across features with its MLP, then attention across rows with its own.

    Args:
        d_model: width of a token.
        n_heads: attention heads.
        d_hidden: hidden width of each gated MLP.
        is_last: whether only the first token of each row (its summary) is needed afterwards; the
            other tokens are then read but not updated.
    """

    def __init__(self, d_model: int, n_heads: int, d_hidden: int, is_last: bool = False) -> None:
        super().__init__()
        self.features = Block(d_model, n_heads, d_hidden)
        self.rows = RowBlock(d_model, n_heads, d_hidden)
        self.is_last = is_last

    def mix_features(self, cells: Cells) -> Float[Tensor, "batch kept rows d_model"]:
        """Lets the cells of each row attend to each other."""
        n_tasks, n_groups, n_rows, _ = cells.shape
        # In this order in memory too: linear layers are slow on what is not contiguous.
        by_row = cells.transpose(1, 2).contiguous().view(n_tasks * n_rows, n_groups, -1)
        updated, _ = self.features.among(by_row, updated=slice(1 if self.is_last else None))
        return updated.unflatten(0, (n_tasks, n_rows)).transpose(1, 2).contiguous()
