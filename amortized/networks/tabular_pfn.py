"""The prior-data fitted network over cells: from a table to the posterior predictive.

A token is a row's value in a group of three columns. The first token of a row is additional: it
holds the row's target and becomes the row's summary. Blocks alternate attention across the tokens
of a row and across the rows of a token. A few learned *thinking rows* are added to the context.
Every token of a context row includes the row's target from the first layer on. The last blocks
update the summaries only, which is cheap. Cost and memory grow with rows x columns, and memory at
prediction with

    bytes of an encoded context = 8 d_model n_cell_blocks (columns / stride + 1) (rows + thinking)

plus the same for one chunk of queries, for example 66 MB for 1,000 rows of 20 columns by default.

References:
    | Accurate predictions on small data with a tabular foundation model (Hollmann et al., 2025),
    | Nature 637: cells and alternating attention.
    | TabICLv2 (Qu et al., 2026): repeated circular groups, targets in the cells from the start.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from amortized.distributions.bar_distribution import BarDistribution, equal_mass_borders
from amortized.networks.calibration import Calibration
from amortized.networks.config_fields import check_fields
from amortized.networks.layers.blocks import KeysValues, Norm
from amortized.networks.layers.cell_block import CellBlock, RowBlock
from amortized.networks.layers.cells import (
    CellDescription,
    ColumnStatistics,
    column_groups,
    column_statistics,
)
from amortized.networks.layers.decoders import BarDecoder, ClassDecoder, ClassSlots, class_slots
from amortized.priors.prior import Prior, Units
from amortized.priors.task import Mask, TaskBatch, XContext, XQuery, YContext
from amortized.program.vectorised import precision
from amortized.seeding import seeded

_OFFSETS = (0, 1, 3)


@dataclass(frozen=True)
class TabularPFNConfig:
    """Size and limits of a ``TabularPFN``, as stored in its ``config.json``.

    Attributes:
        target: type of the target, 'classification' or 'regression'.
        max_context: largest number of context rows in training.
        n_features: largest number of columns in training; more columns are accepted.
        max_classes: largest number of classes of a task.
        classes_at_once: largest number of classes that training distinguished in one pass.
        n_bars: bars of the predictive of a numeric target.
        d_model: width of a token.
        n_heads: attention heads.
        d_hidden: hidden width of the gated MLPs.
        n_cell_blocks: blocks over cells.
        n_row_blocks: blocks over the rows' summaries, after the cell blocks.
        d_row: width of a summary in these blocks.
        n_retrieval_heads: heads with which a query retrieves the classes of context rows.
        n_thinking: learned rows added to the context.
        stride: distance between the first columns of consecutive groups of three.
        n_hashes: points on the circle that identify a repeated value of a column.
        prior: name of the prior it is trained on, or None for an unnamed prior.
        units: units of the targets, always "standardised": the network sees the context's targets
            only as standardised values and ranks. `train` standardises the tasks of a raw prior.
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
                f"Expected units 'standardised', which a network over cells uses for its targets; "
                f"got {self.units!r}. For raw units take a PFNConfig."
            )
        if self.target not in ("classification", "regression"):
            raise ValueError(
                f"Expected target 'classification' or 'regression'; got {self.target!r}."
            )


class EncodedTable(NamedTuple):
    """An encoded context: everything that a query reads.

    Attributes:
        statistics: statistics of the columns.
        keys_values: for each block, those of the context and the thinking rows.
        mask: False marks padding rows, ``(batch, thinking + context)``; or None.
        retrieved: keys and slots for the class decoder; None for a regression.
        slots: slots of the classes; None for a regression.
    """

    statistics: ColumnStatistics
    keys_values: tuple[KeysValues, ...]
    mask: Tensor | None
    retrieved: tuple[Tensor, Tensor] | None
    slots: ClassSlots | None

    def contiguous(self) -> "EncodedTable":
        """The same in the memory layout that attention reads, so that queries need not copy it."""
        kept = tuple((keys.contiguous(), v.contiguous()) for keys, v in self.keys_values)
        retrieved = self.retrieved
        if retrieved is not None:
            retrieved = retrieved[0].contiguous(), retrieved[1].contiguous()
        return self._replace(keys_values=kept, retrieved=retrieved)


class Blocks(nn.Module):
    """Blocks over cells, the last of which updates summaries only, and blocks over summaries."""

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
    """Transformer from a table and queries to a distribution of each query's target.

    Exactly equivariant to the order of classes and, up to rounding, invariant to the order of
    context rows; the order of columns has a small effect, because it determines the groups. Values
    that are not finite are missing. Regression targets are standardised over the context, as those
    of the table priors are; classes are the numbers 0, 1, ... as floats.

    Args:
        config: size and limits.
        borders: borders of the bars, ``(n_bars + 1,)``; None creates equally spaced ones, to be
            overwritten by loading. Not used for classification.

    Example:
        >>> size = TabularPFNConfig(d_model=32, d_row=32, n_cell_blocks=1, n_retrieval_heads=2)
        >>> network = TabularPFN(size)
        >>> x, y = torch.randn(4, 30, 5), torch.randint(3, (4, 30)).float()
        >>> network(x, y, torch.randn(4, 7, 5)).probs.shape
        torch.Size([4, 7, 10])
    """

    calibration: Calibration | None = None  # measured after training

    def __init__(
        self, config: TabularPFNConfig, borders: Float[Tensor, " borders"] | None = None
    ) -> None:
        super().__init__()
        self.config = config
        d, d_row, is_classifier = config.d_model, config.d_row, config.target == "classification"
        self.describe = CellDescription(config.n_hashes)
        self.embed_cells = nn.Linear(len(_OFFSETS) * self.describe.n_descriptors, d)
        # Twice d: the embedding for the summary token and the one for the other tokens of a row.
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
        """Creates an untrained network; its bars, if any, have equal mass under the prior.

        The outermost bars are half-normal tails with half of their mass beyond the border.

        Args:
            prior: draws the targets whose quantiles are the borders.
            config: size of the network.
            seed: seed of the weights and of those draws.
        """
        with precision(torch.float32), seeded(seed):
            if config.target == "classification":
                return cls(config)
            batches = [prior.sample(32, 64, 64, seed=seed + i) for i in range(20)]
            answers = torch.cat([batch.y_query.flatten() for batch in batches])
            borders = equal_mass_borders(answers, config.n_bars)
            # A tail's scale puts half of it into the outermost bar. A bar that ends at the extremes
            # of the draws, a hundred scales out, would make the tail of every predictive as wide.
            half = torch.tensor([0.5, len(borders) - 1.5]) / (len(borders) - 1)
            low, high = answers.quantile(half)
            borders[0] = low.where(low < borders[1], borders[0])
            borders[-1] = high.where(high > borders[-2], borders[-1])
            return cls(replace(config, n_bars=len(borders) - 1), borders)

    def extended(self, config: TabularPFNConfig) -> "TabularPFN":
        """Copies the network with other limits and unchanged predictions, to be trained further.

        Args:
            config: may have more hashes per cell, which get weights of zero, and other limits;
                sizes, target and bars must be those of this network.
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
        """Tokens of rows with known targets: the summary first, then the groups of columns."""
        groups = column_groups(x.shape[-1], self.config.stride, _OFFSETS).to(x.device)
        described = self.describe(x, statistics).transpose(1, 2)  # (batch, columns, rows, ...)
        members = [described[:, column] for column in groups.T]
        cells = self.embed_cells(torch.cat(members, -1))
        summary, told = answer.to(cells.dtype).chunk(2, dim=-1)
        # The blocks of a new network are the identity: without this mean the summary of a query
        # would not depend on the query, and a zero-initialised head would have no gradient.
        summary = summary + cells.mean(1)
        return torch.cat((summary[:, None], cells + told[:, None]), dim=1)

    def encode(
        self, x_context: XContext, y_context: YContext, context_mask: Mask = None
    ) -> EncodedTable:
        """Encodes a context once, for any number of later queries."""
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
            cells, keys_values = block.rows.among(block.mix_features(cells), n_rows, mask)
            kept.append(keys_values)
        summary = self.widen(cells)
        for block in self.blocks.rows:
            summary, keys_values = block.among(summary, n_rows, mask)
            kept.append(keys_values)
        retrieved = None
        if answers.slot is not None:
            state = self.norm(summary[:, 0, self.config.n_thinking :])
            retrieved = self.decoder.keep(state, answers.slot)
        return EncodedTable(statistics, tuple(kept), mask, retrieved, answers.slots)

    def _answers(
        self, x: Tensor, y: Tensor, statistics: ColumnStatistics, mask: Tensor | None
    ) -> "_Answers":
        """The context's targets as vectors; classes are represented by slots."""
        if self.config.target == "regression":
            y = y[..., None]
            return _Answers(self.describe(y, column_statistics(y, mask))[:, :, 0], None, None)
        # Any number that depends neither on the labels nor on the order of columns.
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

    def decode(self, context: EncodedTable, x_query: XQuery) -> Categorical | BarDistribution:
        """Computes the posterior predictive of each query, given an encoded context."""
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
        self, x_context: XContext, y_context: YContext, x_query: XQuery, context_mask: Mask = None
    ) -> Categorical | BarDistribution:
        """Posterior predictive of each query: a ``Categorical`` or a ``BarDistribution``."""
        if x_query.shape[-1] != x_context.shape[-1]:
            raise ValueError(
                f"Expected x_query with {x_context.shape[-1]} features, as x_context has; got "
                f"{x_query.shape[-1]}."
            )
        return self.decode(self.encode(x_context, y_context, context_mask), x_query)

    def loss(self, batch: TaskBatch) -> Tensor:
        """Mean negative log-likelihood of query targets, except classes the context lacks."""
        predictive = self(batch.x_context, batch.y_context, batch.x_query, batch.context_mask)
        surprise = -predictive.log_prob(batch.y_query)
        counted = surprise.isfinite()  # a class absent from the context has probability zero
        if batch.query_mask is not None:
            counted = counted & batch.query_mask
        return surprise.where(counted, 0.0).sum() / counted.sum().clamp_min(1)


class _Answers(NamedTuple):
    """Targets of the context as vectors; for classes also each row's slot and all slots."""

    described: Tensor
    slot: Tensor | None
    slots: ClassSlots | None
