r"""The prior-data fitted network over rows: from a dataset to the posterior predictive.

Minimising :math:`-\log q(y^* | x^*, D)` over tasks from a prior moves q towards the posterior
predictive under that prior, for all datasets simultaneously. A context row is one token, (x, y); a
query is one token, x with an unknown y. Every token attends to the context only, so queries do not
see each other, the context can be encoded once and cached, and attention needs no mask.

References:
    | Transformers Can Do Bayesian Inference (Mueller et al., 2022), arXiv:2112.10510
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from amortized.distributions.bar_distribution import BarDistribution, equal_mass_borders
from amortized.networks.calibration import Calibration
from amortized.networks.config_fields import check_fields, check_positive
from amortized.networks.layers.attention import Rotation
from amortized.networks.layers.blocks import Block, KeysValues, Norm
from amortized.networks.layers.decoders import BarDecoder
from amortized.priors.prior import Prior, Units
from amortized.priors.task import Mask, TaskBatch, XContext, XQuery, YContext, check_rows
from amortized.program.vectorised import precision
from amortized.seeding import seeded


@dataclass(frozen=True)
class PFNConfig:
    """Size and limits of a ``PFN``, as stored in its ``config.json``.

    Attributes:
        n_features: largest number of features of a task; missing ones are masked.
        max_context: largest number of context rows in training.
        d_model: width of a token.
        n_heads: attention heads.
        n_layers: blocks.
        d_hidden: hidden width of the gated MLP.
        n_bars: number of bars of the predictive.
        frequencies: lowest and highest initial angular frequency of attention in x, in radians per
            unit of x or of its ``scaling``; about the inverse of the longest and of the shortest
            lengthscale.
        prior: name of the prior it is trained on, or None for an unnamed prior.
        units: "raw" if data are in the units of the prior, "standardised" if the prior is for
            standardised data; None takes the prior's own, see `Prior`.
        x_range: smallest and largest value of each feature among draws of the prior; None if not
            recorded, and for standardised data.
        scaling: location and scale of each feature and, last, of the targets, by which the network
            standardises its inputs; None if they are of order one already.

    Raises:
        ValueError: if the units are unknown.
    """

    n_features: int
    max_context: int
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 6
    d_hidden: int = 256
    n_bars: int = 1000
    frequencies: tuple[float, float] = (0.1, 20.0)
    prior: str | None = None
    units: Units | None = None
    x_range: tuple[tuple[float, float], ...] | None = None
    scaling: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, layers=("n_layers",))
        check_positive(self, "frequencies")
        for name, most in (("x_range", self.n_features), ("scaling", self.n_features + 1)):
            pairs = getattr(self, name)
            if pairs is not None and not 1 <= len(pairs) <= most:
                raise ValueError(f"Expected {name} with 1 to {most} pairs; got {len(pairs)}.")
        if any(scale <= 0 for _, scale in self.scaling or ()):
            raise ValueError(f"Expected positive scales in scaling; got {self.scaling}.")


class EncodedContext(NamedTuple):
    """An encoded context: everything that a query reads.

    Attributes:
        keys_values: for each block, keys and values ``(batch, heads, context, width)``.
        mask: False marks padding rows, ``(batch, context)``; or None.
        n_features: number of features, which queries must have as well.
        appended: for each block, keys and values of rows appended later. Their batch may be a
            multiple of the context's: each task has several continuations, number i of which has
            the context ``i % batch``.
    """

    keys_values: tuple[KeysValues, ...]
    mask: Tensor | None
    n_features: int
    appended: tuple[KeysValues, ...] = ()

    @property
    def n_tasks(self) -> int:
        """Number of tasks, or of continuations of them."""
        return len((self.appended or self.keys_values)[0][0])

    def own(self, block: int) -> KeysValues | None:
        """Keys and values of the appended rows; None if there are none."""
        return self.appended[block] if self.appended else None


class PFN(nn.Module):
    """Transformer from a context and queries to a ``BarDistribution`` for each query.

    Args:
        config: size and limits.
        borders: borders of the bars, ``(n_bars + 1,)``, from ``equal_mass_borders``, stored with
            the weights. None creates equally spaced ones, to be overwritten by loading.

    Example:
        >>> import torch
        >>> config = PFNConfig(n_features=2, max_context=20, d_model=16, n_layers=1, n_bars=10)
        >>> network = PFN(config, borders=torch.linspace(-3, 3, 11))
        >>> x, y = torch.randn(4, 7, 2), torch.randn(4, 7)
        >>> network(x, y, torch.randn(4, 3, 2)).batch_shape
        torch.Size([4, 3])
    """

    calibration: Calibration | None = None  # measured after training

    def __init__(self, config: PFNConfig, borders: Float[Tensor, " borders"] | None = None) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        if borders is None:
            borders = torch.linspace(-4.0, 4.0, config.n_bars + 1)
        if borders.shape != (config.n_bars + 1,):
            raise ValueError(
                f"Expected {config.n_bars + 1} borders; got shape {tuple(borders.shape)}."
            )
        self.embed_x = nn.Sequential(
            nn.Linear(2 * config.n_features, d), nn.GELU(), nn.Linear(d, d)
        )
        self.embed_y = nn.Sequential(nn.Linear(1, d), nn.GELU(), nn.Linear(d, d))
        self.unknown_y = nn.Parameter(torch.zeros(d))
        self.frequencies = nn.Parameter(self._initial_frequencies())
        self.blocks: Any = nn.ModuleList(  # ModuleList loses the type Block
            Block(d, config.n_heads, config.d_hidden) for _ in range(config.n_layers)
        )
        self.norm = Norm(d)
        self.decoder = BarDecoder(d, borders)

    @classmethod
    def new(cls, prior: Prior, config: PFNConfig, seed: int = 0) -> "PFN":
        """Creates an untrained network whose bars have equal mass under the prior.

        Args:
            prior: draws the targets whose quantiles are the borders.
            config: size of the network.
            seed: seed of the weights and of those draws.
        """
        with precision(torch.float32), seeded(seed):
            n_tasks = max(1000, 20 * config.n_bars)
            batches = [prior.sample(n_tasks // 10, 1, 9, seed=seed + i) for i in range(10)]
            borders = equal_mass_borders(
                torch.cat([b.y_query.flatten() for b in batches]), config.n_bars
            )
            config = replace(config, n_bars=len(borders) - 1, units=config.units or prior.units)
            if config.units == "raw":
                x = [b.x_query for b in batches]
                scaling = config.scaling or _scaling(x, torch.cat([b.y_query for b in batches]))
                config = replace(config, x_range=_ranges(x), scaling=scaling)
            return cls(config, borders)

    @property
    def borders(self) -> Float[Tensor, " borders"]:
        """Borders of the bars."""
        return self.decoder.borders

    def _initial_frequencies(self) -> Tensor:
        """Random directions with log-spaced lengths, ``(features, heads, width / 2)``."""
        config = self.config
        half = config.d_model // config.n_heads // 2
        low, high = map(math.log, config.frequencies)
        direction = torch.randn(config.n_features, config.n_heads, half)
        if direction.is_meta:  # to be loaded: arithmetic there would import torch's compiler
            return direction
        length = torch.linspace(low, high, half).exp()
        return direction * length / math.sqrt(config.n_features)

    def _embed(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens of rows, ``(batch, rows, d_model)``, and angles of attention in x.

        The angles are ``(batch, rows, heads, width / 2)``. Rows beyond the end of y are queries.
        """
        missing = self.config.n_features - x.shape[-1]
        x = x.to(self.frequencies.dtype)
        y = x[:, :0, 0] if y is None else y.to(x.dtype)
        if self.config.scaling is not None:
            location, scale = x.new_tensor(self.config.scaling).T
            n = x.shape[-1]
            x, y = (x - location[:n]) / scale[:n], (y - location[-1]) / scale[-1]
        unknown = self.unknown_y.expand(len(x), x.shape[1] - y.shape[1], -1)
        # bfloat16 keeps about three digits of x and y, and the noise may be smaller than that.
        with torch.autocast(x.device.type, enabled=False):
            exists = nn.functional.pad(torch.ones_like(x), (0, missing))
            tokens = self.embed_x(torch.cat((nn.functional.pad(x, (0, missing)), exists), dim=-1))
            tokens = tokens + torch.cat((self.embed_y(y[..., None]), unknown), dim=1)
            angles = torch.einsum("bnf,fhw->bnhw", x, self.frequencies[: x.shape[-1]])
        return tokens, angles

    def _check(self, x: Tensor, y: Tensor, mask: Tensor | None) -> None:
        """Raises an error if the context's shapes do not fit the network or each other."""
        check_rows("context", x, y, mask)
        if not 1 <= x.shape[2] <= self.config.n_features:
            raise ValueError(f"Expected 1 to {self.config.n_features} features; got {x.shape[2]}.")

    def _check_continued(self, x: Tensor, context: EncodedContext) -> None:
        """Raises an error if rows belong to no task of a context."""
        n_tasks = context.n_tasks
        if not context.appended and x.ndim == 3 and len(x) and len(x) % max(1, n_tasks) == 0:
            n_tasks = len(x)
        self._check_query(x, n_tasks, context.n_features)

    def _check_query(self, x: Tensor, n_tasks: int, n_features: int) -> None:
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != (n_tasks, n_features):
            raise ValueError(
                f"Expected x_query of shape ({n_tasks}, query, {n_features}), as the context; got "
                f"{tuple(x.shape)}."
            )

    def forward(
        self, x_context: XContext, y_context: YContext, x_query: XQuery, context_mask: Mask = None
    ) -> BarDistribution:
        """Computes the posterior predictive of each query in one pass."""
        self._check(x_context, y_context, context_mask)
        self._check_query(x_query, len(x_context), x_context.shape[2])
        n_context = x_context.shape[1]
        tokens, angles = self._embed(torch.cat((x_context, x_query), dim=1), y_context)
        rotation = Rotation.by(angles)
        context, queries = slice(n_context), slice(n_context, None)
        for block in self.blocks[:-1]:
            tokens, _ = block.among(tokens, context_mask, rotation, context=context)
        # The context's output of the last block is not needed.
        tokens, _ = self.blocks[-1].among(
            tokens, context_mask, rotation, context=context, updated=queries
        )
        return self.decoder(self.norm(tokens))

    def loss(self, batch: TaskBatch) -> Tensor:
        """Mean negative log-likelihood of the query targets."""
        predictive = self(batch.x_context, batch.y_context, batch.x_query, batch.context_mask)
        surprise = -predictive.log_prob(batch.y_query)
        return surprise.mean() if batch.query_mask is None else surprise[batch.query_mask].mean()

    def encode(
        self, x_context: XContext, y_context: YContext, context_mask: Mask = None
    ) -> EncodedContext:
        """Encodes a context once, for any number of later queries."""
        self._check(x_context, y_context, context_mask)
        tokens, angles = self._embed(x_context, y_context)
        rotation, kept = Rotation.by(angles), []
        for block in self.blocks[:-1]:
            tokens, keys_values = block.among(tokens, context_mask, rotation)
            kept.append(keys_values)
        kept.append(self.blocks[-1].keys_values(tokens, rotation))
        # In the memory layout that attention reads, so that queries need not copy it.
        laid_out = tuple((keys.contiguous(), values.contiguous()) for keys, values in kept)
        return EncodedContext(laid_out, context_mask, x_context.shape[2])

    def extend(self, context: EncodedContext, x: XContext, y: YContext) -> EncodedContext:
        """Appends rows to an encoded context without re-encoding its own rows.

        Cheaper than ``encode`` of all rows, but not equivalent: the earlier rows do not attend to
        the new ones.

        Args:
            context: the encoded context.
            x: inputs of the new rows, for each task or, when the first rows are appended, for
                several continuations of each: entry i continues task ``i % batch``.
            y: their targets.
        """
        self._check(x, y, None)
        self._check_continued(x, context)
        tokens, angles = self._embed(x, y)
        rotation, kept = Rotation.by(angles), []
        for i, block in enumerate(self.blocks):
            own = block.keys_values(tokens, rotation)
            if context.appended:
                pairs = zip(context.appended[i], own, strict=True)
                own = tuple(torch.cat(pair, dim=-2) for pair in pairs)
            kept.append(own)
            tokens = block(tokens, context.keys_values[i], context.mask, rotation, own)
        return context._replace(appended=tuple(kept))

    def decode(self, context: EncodedContext, x_query: XQuery) -> BarDistribution:
        """Computes the posterior predictive of each query, given an encoded context.

        A batch of queries may be a multiple of the context's, as in `extend`.
        """
        self._check_continued(x_query, context)
        tokens, angles = self._embed(x_query)
        rotation = Rotation.by(angles)
        for i, block in enumerate(self.blocks):
            own = context.own(i)
            tokens = block(tokens, context.keys_values[i], context.mask, rotation, own)
        return self.decoder(self.norm(tokens))


def _by_feature(inputs: list[Tensor]) -> Iterator[Tensor]:
    """All values of each feature, over batches that may differ in their number of features."""
    for feature in range(max(x.shape[-1] for x in inputs)):
        yield torch.cat([x[..., feature].flatten() for x in inputs if x.shape[-1] > feature])


def _ranges(inputs: list[Tensor]) -> tuple[tuple[float, float], ...]:
    """Smallest and largest value of each feature."""
    return tuple((x.min().item(), x.max().item()) for x in _by_feature(inputs))


def _scaling(inputs: list[Tensor], y: Tensor) -> tuple[tuple[float, float], ...] | None:
    """Median and half the width of the central 68% of each feature and, last, of the targets."""
    pairs = []
    for values in (*_by_feature(inputs), y.flatten()):
        low, middle, high = np.quantile(values.numpy(), [0.16, 0.5, 0.84])
        pairs.append((float(middle), float(high - low) / 2 if high > low else 1.0))
    if all(abs(middle) <= 3 and 0.1 <= scale <= 10 for middle, scale in pairs):
        return None  # already of order one
    return tuple(pairs)
