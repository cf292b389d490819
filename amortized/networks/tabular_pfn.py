"""The prior-data fitted network over cells: a table goes in, the posterior predictive comes out.

A token is a row's value in a group of three columns; one more token a row, the first, holds the
row's answer and becomes its summary. Blocks alternate attention over the tokens of a row and over
the rows of a token; a few learned *thinking rows* stand among the context's. Every token of the
context knows its row's answer from the start. The last blocks work on the summaries alone, which
costs little. Cost and memory grow with rows x columns, and memory at prediction with

    bytes of an encoded context = 8 d_model n_cell_blocks (columns / stride + 1) (rows + thinking)

plus the same for one chunk of queries: 66 MB for 1,000 rows of 20 columns at the default size.

References:
    | Accurate predictions on small data with a tabular foundation model (Hollmann et al., 2025),
    | Nature 637: cells and alternating attention.
    | TabICLv2 (Qu et al., 2026): repeated circular groups, answers in the cells from the start.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from amortized.distributions import BarDistribution, equal_mass_borders
from amortized.networks.blocks import KeysValues, Norm
from amortized.networks.calibration import Calibration
from amortized.networks.cell_block import CellBlock, RowBlock
from amortized.networks.cells import (
    CellDescription,
    ColumnStatistics,
    column_groups,
    column_statistics,
)
from amortized.networks.config_fields import check_fields
from amortized.networks.decoders import BarDecoder, ClassDecoder, ClassSlots, class_slots
from amortized.priors.prior import Prior, Units
from amortized.priors.task import TaskBatch
from amortized.program.vectorised import precision
from amortized.seeding import seeded

_OFFSETS = (0, 1, 3)


@dataclass(frozen=True)
class TabularPFNConfig:
    """Size and limits of a ``TabularPFN``; what its ``config.json`` holds.

    Attributes:
        target: what is predicted, 'classification' or 'regression'.
        max_context: the most context rows it was trained for.
        n_features: the most columns it was trained for; more are read all the same.
        max_classes: the most classes of a task.
        classes_at_once: the most it was trained to tell apart in one pass.
        n_bars: bars of the predictive of a number.
        d_model: width of a token.
        n_heads: attention heads.
        d_hidden: hidden width of the gated MLPs.
        n_cell_blocks: blocks over cells.
        n_row_blocks: blocks over the rows' summaries, after those.
        d_row: width of a summary in these.
        n_retrieval_heads: heads by which a query asks the context's rows for their classes.
        n_thinking: learned rows beside those of the context.
        stride: columns from one group of three to the next.
        n_hashes: points of the circle that say which of a column's repeated values a cell has.
        prior: name of the prior it is trained on, or None for a prior without a name.
        units: of the answers, always "standardised": the network knows the context's answers by
            their standardised values and ranks alone. `train` standardises a raw prior's.
    """

    target: str = "classification"
    max_context: int = 1000
    n_features: int = 30
    max_classes: int = 10
    classes_at_once: int = 2
    n_bars: int = 500
    d_model: int = 128
    n_heads: int = 2
    d_hidden: int = 128
    n_cell_blocks: int = 4
    n_row_blocks: int = 4
    d_row: int = 192
    n_retrieval_heads: int = 8
    n_thinking: int = 16
    stride: int = 2
    n_hashes: int = 0
    prior: str | None = None
    units: Units = "standardised"

    def __post_init__(self) -> None:
        check_fields(
            self,
            may_be_zero=("n_row_blocks", "n_thinking", "n_hashes"),
            layers=("n_cell_blocks", "n_row_blocks"),
        )
        if self.units != "standardised":
            raise ValueError(
                f"Expected units 'standardised', which a network over cells knows its answers in; "
                f"got {self.units!r}. For raw units take a PFNConfig."
            )
        if self.target not in ("classification", "regression"):
            raise ValueError(
                f"Expected target 'classification' or 'regression'; got {self.target!r}."
            )


class EncodedTable(NamedTuple):
    """A context, encoded once: all that a query will ever read.

    Attributes:
        statistics: of the columns.
        keys_values: for each block, of the context's and the thinking rows.
        mask: False marks rows that do not exist, ``(batch, thinking + context)``; or None.
        retrieved: what the class decoder asks for; None for a regression.
        slots: places of the classes; None for a regression.
    """

    statistics: ColumnStatistics
    keys_values: tuple[KeysValues, ...]
    mask: Tensor | None
    retrieved: tuple[Tensor, Tensor] | None
    slots: ClassSlots | None

    def contiguous(self) -> "EncodedTable":
        """The same in the order in which attention reads it: no query has to copy it again."""
        kept = tuple((keys.contiguous(), v.contiguous()) for keys, v in self.keys_values)
        retrieved = self.retrieved
        if retrieved is not None:
            retrieved = retrieved[0].contiguous(), retrieved[1].contiguous()
        return self._replace(keys_values=kept, retrieved=retrieved)


class Blocks(nn.Module):
    """Blocks over cells, the last of which updates the summaries alone, and over summaries."""

    def __init__(self, config: TabularPFNConfig) -> None:
        super().__init__()
        d, n, hidden, last = config.d_model, config.n_heads, config.d_hidden, config.n_cell_blocks
        self.cells: Any = nn.ModuleList(
            CellBlock(d, n, hidden, is_last=depth == last) for depth in range(1, last + 1)
        )
        self.rows: Any = nn.ModuleList(
            RowBlock(config.d_row, n, 2 * config.d_row) for _ in range(config.n_row_blocks)
        )


class TabularPFN(nn.Module):
    """Transformer from a table and queries to a distribution of each query's answer.

    Exactly equivariant to the order of classes and, up to rounding, invariant to the order of
    context rows; the order of columns matters a little, as groups are formed in it. Values that
    are not finite are missing. Answers of a regression are standardised over the context, as the
    table priors' are; classes are the numbers 0, 1, ... as floats.

    Args:
        config: size and limits.
        borders: borders of the bars, ``(n_bars + 1,)``; None makes equally spaced ones, to be
            overwritten by loading. Classifications have none.

    Example:
        >>> size = TabularPFNConfig(d_model=32, d_row=32, n_cell_blocks=1, n_retrieval_heads=2)
        >>> network = TabularPFN(size)
        >>> x, y = torch.randn(4, 30, 5), torch.randint(3, (4, 30)).float()
        >>> network(x, y, torch.randn(4, 7, 5)).probs.shape
        torch.Size([4, 7, 10])
    """

    calibration: Calibration | None = None  # as its training has measured it

    def __init__(
        self, config: TabularPFNConfig, borders: Float[Tensor, " borders"] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        d, d_row, is_classifier = config.d_model, config.d_row, config.target == "classification"
        self.describe = CellDescription(config.n_hashes)
        self.embed_cells = nn.Linear(len(_OFFSETS) * self.describe.n_descriptors, d)
        # Twice d: what the summary token and what the other tokens of a row are told.
        n_answer = config.max_classes if is_classifier else self.describe.n_descriptors
        self.embed_y = nn.Linear(n_answer, 2 * d)
        self.unknown_y = nn.Parameter(torch.zeros(2 * d))
        self.thinking = nn.Parameter(torch.randn(config.n_thinking, 2 * d))
        self.blocks = Blocks(config)
        self.widen = nn.Linear(d, d_row, bias=False)
        self.norm = Norm(d_row)
        if is_classifier:
            self.decoder: Any = ClassDecoder(d_row, config.max_classes, config.n_retrieval_heads)
        else:
            borders = torch.linspace(-4.0, 4.0, config.n_bars + 1) if borders is None else borders
            self.decoder = BarDecoder(d_row, borders)

    @classmethod
    def new(cls, prior: Prior, config: TabularPFNConfig, seed: int = 0) -> "TabularPFN":
        """An untrained network; its bars, if any, hold equal mass under the prior.

        Of the outermost bars, which are half-normal tails, half of the mass lies beyond the border.

        Args:
            prior: draws the answers that the borders are quantiles of.
            config: size of the network.
            seed: of the weights and of those draws.
        """
        with precision(torch.float32), seeded(seed):
            if config.target == "classification":
                return cls(config)
            batches = [prior.sample(32, 64, 64, seed=seed + i) for i in range(20)]
            answers = torch.cat([batch.y_query.flatten() for batch in batches])
            borders = equal_mass_borders(answers, config.n_bars)
            # A tail's scale puts half of it into the outermost bar. Ending that at the draws'
            # extremes, a hundred scales out, would make the tail of every answer as wide.
            half = torch.tensor([0.5, len(borders) - 1.5]) / (len(borders) - 1)
            low, high = answers.quantile(half)
            borders[0] = low.where(low < borders[1], borders[0])
            borders[-1] = high.where(high > borders[-2], borders[-1])
            return cls(replace(config, n_bars=len(borders) - 1), borders)

    def extended(self, config: TabularPFNConfig) -> "TabularPFN":
        """A network of other limits that answers as this one does, to be trained further.

        Args:
            config: may have more hashes of a cell, which get weights of zero, and other limits;
                sizes, target and bars are those of this network.
        """
        is_classifier = self.config.target == "classification"
        config = replace(config, n_bars=self.config.n_bars)
        network = type(self)(config, None if is_classifier else self.borders.clone())
        widths = (network.describe.n_descriptors, self.describe.n_descriptors)
        own = network.state_dict()
        for name, weight in self.state_dict().items():
            if own[name].shape != weight.shape:
                wide = torch.zeros_like(own[name]).unflatten(1, (-1, widths[0]))
                wide[..., : widths[1]] = weight.unflatten(1, (-1, widths[1]))
                weight = wide.flatten(1)
            own[name] = weight
        network.load_state_dict(own)
        return network

    @property
    def borders(self) -> Float[Tensor, " borders"]:
        """Borders of a regression's bars."""
        return self.decoder.borders

    def _check(self, x: Tensor, y: Tensor) -> None:
        if self.config.target == "regression" or torch.compiler.is_compiling():
            return
        most = self.config.max_classes
        if x.shape[1] == 0 or not bool(((y >= 0) & (y < most) & (y == y.floor())).all()):
            raise ValueError(
                f"Expected a context of one row or more with classes 0 to {most - 1} as y_context; "
                f"got {x.shape[1]} rows and values from {y.amin().item() if y.numel() else '-'} "
                f"to {y.amax().item() if y.numel() else '-'}."
            )

    def _cells(
        self, x: Tensor, statistics: ColumnStatistics, answer: Tensor
    ) -> Float[Tensor, "batch groups rows d_model"]:
        """Tokens of rows that are told an answer: the summary first, then the groups of columns."""
        groups = column_groups(x.shape[-1], self.config.stride, _OFFSETS).to(x.device)
        described = self.describe(x, statistics).transpose(1, 2)  # (batch, columns, rows, ...)
        members = [described[:, column] for column in groups.T]
        cells = self.embed_cells(torch.cat(members, -1))
        summary, told = answer.to(cells.dtype).chunk(2, dim=-1)
        # A new network's blocks are the identity: without the mean, its summary of a query would
        # say nothing of the query, and no weight of a zero head would have a gradient.
        summary = summary + cells.mean(1)
        return torch.cat((summary[:, None], cells + told[:, None]), dim=1)

    def encode(
        self,
        x_context: Float[Tensor, "batch context features"],
        y_context: Float[Tensor, "batch context"],
        context_mask: Bool[Tensor, "batch context"] | None = None,
    ) -> EncodedTable:
        """Encode a context once, for any number of later queries."""
        self._check(x_context, y_context)
        statistics = column_statistics(x_context, context_mask)
        answers = self._answers(x_context, y_context, statistics, context_mask)
        cells = self._cells(x_context, statistics, self.embed_y(answers.described))
        cells = self._with_thinking_rows(cells)
        n_tasks, n_context = y_context.shape
        n_rows = x_context.new_full((n_tasks,), n_context)
        mask = context_mask
        if mask is not None:
            n_rows = mask.sum(-1).to(x_context.dtype)
            mask = F.pad(mask, (self.config.n_thinking, 0), value=True)
        kept = []
        for block in self.blocks.cells:
            cells = block.mix_features(cells)
            kept.append(block.rows.keys_values(cells, n_rows))
            cells = block.rows(cells, kept[-1], mask)
        summary = self.widen(cells)
        for block in self.blocks.rows:
            kept.append(block.keys_values(summary, n_rows))
            summary = block(summary, kept[-1], mask)
        retrieved = None
        if answers.slot is not None:
            state = self.norm(summary[:, 0, self.config.n_thinking :])
            retrieved = self.decoder.keep(state, answers.slot)
        return EncodedTable(statistics, tuple(kept), mask, retrieved, answers.slots)

    def _answers(
        self, x: Tensor, y: Tensor, statistics: ColumnStatistics, mask: Tensor | None
    ) -> "_Answers":
        """The context's answers as vectors; those of a classification by slots."""
        if self.config.target == "regression":
            y = y[..., None]
            return _Answers(self.describe(y, column_statistics(y, mask))[:, :, 0], None, None)
        # Any number of the row that depends neither on the labels nor on the order of columns.
        tie_break = self.describe.rank(x, statistics).square().mean(-1)
        n_classes = self.config.max_classes
        slots = class_slots(y, tie_break, n_classes, mask)
        slot = slots.slot.gather(-1, y.long())
        return _Answers(F.one_hot(slot, n_classes).to(x.dtype), slot, slots)

    def _with_thinking_rows(self, cells: Tensor) -> Tensor:
        n_tasks, n_groups, _, d = cells.shape
        summary, others = self.thinking.to(cells.dtype).split(d, dim=-1)
        rows = torch.cat((summary[None], others.expand(n_groups - 1, -1, -1)))
        return torch.cat((rows.expand(n_tasks, -1, -1, -1), cells), dim=2)

    def decode(
        self, context: EncodedTable, x_query: Float[Tensor, "batch query features"]
    ) -> Categorical | BarDistribution:
        """Posterior predictive of each query, given an encoded context."""
        unknown = self.unknown_y.expand(*x_query.shape[:2], -1)
        cells = self._cells(x_query, context.statistics, unknown)
        kept = iter(context.keys_values)
        for block in self.blocks.cells:
            cells = block.rows(block.mix_features(cells), next(kept), context.mask)
        summary = self.widen(cells)
        for block in self.blocks.rows:
            summary = block(summary, next(kept), context.mask)
        state = self.norm(summary[:, 0])
        if context.slots is None:
            return self.decoder(state)
        mask = context.mask
        mask = mask if mask is None else mask[:, self.config.n_thinking :]
        return self.decoder(state, context.retrieved, context.slots, mask)

    def forward(
        self,
        x_context: Float[Tensor, "batch context features"],
        y_context: Float[Tensor, "batch context"],
        x_query: Float[Tensor, "batch query features"],
        context_mask: Bool[Tensor, "batch context"] | None = None,
    ) -> Categorical | BarDistribution:
        """Posterior predictive of each query: a ``Categorical`` or a ``BarDistribution``."""
        if x_query.shape[-1] != x_context.shape[-1]:
            raise ValueError(
                f"Expected x_query with {x_context.shape[-1]} features, as x_context has; got "
                f"{x_query.shape[-1]}."
            )
        return self.decode(self.encode(x_context, y_context, context_mask), x_query)

    def loss(self, batch: TaskBatch) -> Tensor:
        """Mean negative log-likelihood of the query's answers, of those the context has seen."""
        predictive = self(batch.x_context, batch.y_context, batch.x_query, batch.context_mask)
        surprise = -predictive.log_prob(batch.y_query)
        counted = surprise.isfinite()  # a class that the context lacks has no probability
        if batch.query_mask is not None:
            counted = counted & batch.query_mask
        return surprise.where(counted, 0.0).sum() / counted.sum().clamp_min(1)


class _Answers(NamedTuple):
    """Answers of the context as vectors; of a classification also each row's slot and all slots."""

    described: Tensor
    slot: Tensor | None
    slots: ClassSlots | None
