"""Observations as tokens: named channels of rows, which are sets or series, and one summary token.

A row of a set is one token, and a series that always has the same rows in the same order is one
token. Numbers are divided by their channel's unit and transformed by asinh, so that outliers remain
distinguishable; a bounded copy gives a finer resolution near the centre. The first token is a
summary: numbers about the prior from the caller and, for each channel, whether it is present, how
many rows it has, and the mean and spread of its numbers. Attention alone would learn precise
averages only slowly.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amortized.networks.dt_config import DistributionTransformerConfig


class ObservationEncoder(nn.Module):
    """Embeds the rows of all channels and a summary of them.

    Args:
        config: channels and widths.
        n_extra: numbers that the caller adds to the summary token.
    """

    row_location: Tensor
    row_scale: Tensor

    def __init__(self, config: DistributionTransformerConfig, n_extra: int) -> None:
        super().__init__()
        self.config = config
        sizes = {name: config.numbers(name) for name in config.channels}
        n_numbers = sum(sizes.values())
        centre = torch.tensor(config.row_location or (0.0,) * n_numbers)
        unit = torch.tensor(config.row_scale or (1.0,) * n_numbers)
        self.register_buffer("row_location", centre)
        self.register_buffer("row_scale", unit)
        d = config.d_model
        read = sizes if config.reads_rows else {}
        self.embed_row = nn.ModuleDict({name: mlp(2 * size, d) for name, size in read.items()})
        n_summary = sum(
            2 + (2 * size if length == 0 else 0)
            for size, length in zip(sizes.values(), config.lengths, strict=True)
        )
        self.embed_summary = mlp(n_summary + n_extra, d)

    def forward(
        self, observations: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None, extra: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Returns tokens with the summary first, their mask, and which tasks have any data.

        Args:
            observations: ``{name: (batch, rows, width)}``.
            masks: ``{name: (batch, rows)}``; None if there are no padding rows.
            extra: additional numbers for the summary token, ``(batch, n_extra)``.

        Returns:
            ``(batch, tokens, d_model)``; ``(batch, tokens)``, or None if no token is padding; and
            ``(batch,)``.
        """
        masks = masks or {}
        self._check(observations, masks)
        n_tasks = len(extra)
        tokens, existing, about = [], [], [extra]
        has_data = torch.zeros(n_tasks, dtype=torch.bool, device=extra.device)
        at = 0
        for name, length in zip(self.config.channels, self.config.lengths, strict=True):
            size = self.config.numbers(name)
            part = slice(at, at + size)
            at += size
            given = observations.get(name)
            if given is None:
                about.append(extra.new_zeros(n_tasks, 2 + (0 if length else 2 * size)))
                continue
            mask = masks.get(name)
            if mask is None:
                mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
            if length:
                given, mask = given.flatten(1).unsqueeze(1), mask.all(-1, keepdim=True)
            value = (given.to(extra.dtype) - self.row_location[part]) / self.row_scale[part]
            value = value.where(mask.unsqueeze(-1), 0.0)
            has_data |= mask.any(-1)
            if self.config.reads_rows:
                tokens.append(self.embed_row[name](torch.cat((value.asinh(), value.tanh()), -1)))
                existing.append(mask)
            about.append(_about(value, mask, is_set=length == 0))
        existing.insert(0, torch.ones(n_tasks, 1, dtype=torch.bool, device=extra.device))
        summary = self.embed_summary(torch.cat(about, -1)).unsqueeze(1)
        mask = torch.cat(existing, 1)
        return torch.cat([summary, *tokens], 1), _or_none(mask), has_data

    def _check(self, observations: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        unknown = (set(observations) | set(masks)) - set(self.config.channels)
        if unknown:
            raise ValueError(
                f"Expected channels among {list(self.config.channels)}; got {sorted(unknown)}."
            )
        widths = zip(self.config.channels, self.config.widths, self.config.lengths, strict=True)
        for name, width, length in widths:
            given, mask = observations.get(name), masks.get(name)
            if given is None:
                continue
            rows = length or "rows"
            if given.ndim != 3 or given.shape[2] != width or (length and given.shape[1] != length):
                raise ValueError(
                    f"Expected observations of '{name}' of shape (batch, {rows}, {width}); got "
                    f"{tuple(given.shape)}."
                )
            if mask is not None and mask.shape != given.shape[:2]:
                raise ValueError(
                    f"Expected the mask of '{name}' of shape {tuple(given.shape[:2])}; got "
                    f"{tuple(mask.shape)}."
                )
            exists = given if mask is None else given.where(mask.unsqueeze(-1), 0.0)
            if not bool(exists.isfinite().all()):
                raise ValueError(
                    f"Expected finite observations of '{name}'; some are NaN or infinite. Mask "
                    "such rows, or remove them."
                )


def mlp(n_in: int, d_model: int) -> nn.Sequential:
    """An MLP from numbers to a token."""
    return nn.Sequential(nn.Linear(n_in, d_model), nn.GELU(), nn.Linear(d_model, d_model))


def _about(value: Tensor, mask: Tensor, is_set: bool) -> Tensor:
    """Presence and number of rows, and for a set the mean and log spread of its columns."""
    n = mask.sum(-1, keepdim=True).to(value.dtype)
    there = (n > 0).to(value.dtype)
    count = torch.cat((there, n.log1p()), -1)
    if not is_set:
        return count
    weight = mask.unsqueeze(-1).to(value.dtype) / n.clamp_min(1).unsqueeze(-1)
    mean = (weight * value).sum(1)
    variance = (weight * (value - mean.unsqueeze(1)).square()).sum(1)
    return torch.cat((count, mean.asinh(), (variance + 1e-6).log() * there), -1)


def _or_none(mask: Tensor) -> Tensor | None:
    """Returns None for a mask that is True everywhere, so that fused attention kernels apply."""
    return None if bool(mask.all()) else mask
