r"""The forecasts of all models for a batch of series, for y and log y, as one set of components.

A series is read in standard units; series of positive values are also read on their logarithm,
whose evidence has the Jacobian of the map, so that all models compete for the same data.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amortized.series import lag_models, structures
from amortized.series.filter_bank import Reading, structural_readings
from amortized.series.predictive import SeriesPredictive

N_KINDS = 2 * (structures.N_KINDS + lag_models.N_KINDS)
_FEWEST = 4  # values for autoregressions
_ROUNDINGS = 4  # a spread of so many is that of a constant
_OF_CONSTANT = 1e-3  # unit of a constant series, relative to its level


@dataclass(frozen=True)
class Candidates:
    """Forecasts of C models for B series and H steps, with their evidence.

    Attributes:
        loc: location of y, or of log y, in units of the data, ``(B, C, H)``.
        scale: scale of a Student's t, likewise.
        dof: ``(B,)``.
        is_log: which models are of log y, ``(B, C)``.
        log_evidence: in standard units of y; -inf where a model cannot be used, ``(B, C)``.
        signs: signs of the innovations, ``(B, C, N_SIGNS)``.
        kind: number of each model, ``(B, C)``.
        centre: mean of each series, ``(B,)``.
        spread: its standard deviation, ``(B,)``.
        impulse: responses of the autoregressions to a shock, of y and of log y, ``(2 B, K, H)``;
            None if there are none.
    """

    loc: Tensor
    scale: Tensor
    dof: Tensor
    is_log: Tensor
    log_evidence: Tensor
    signs: Tensor
    kind: Tensor
    centre: Tensor
    spread: Tensor
    impulse: Tensor | None

    def average(self) -> SeriesPredictive:
        """The forecasts averaged by their evidence, batch ``(B, H)``."""
        weight = self.log_evidence.log_softmax(-1)[:, None]
        dof = self.dof[:, None, None].double()
        loc, scale = self.loc.double().mT, self.scale.double().mT
        return SeriesPredictive(weight.double(), loc, scale, self.is_log[:, None], dof)

    def strongest(self, n: int) -> "Candidates":
        """The n models of each series with the highest evidence."""
        if n >= self.kind.shape[1]:
            return self
        which = self.log_evidence.topk(n, -1).indices

        def chosen(value: Tensor) -> Tensor:
            index = which if value.ndim == 2 else which[..., None].expand(-1, -1, value.shape[2])
            return value.gather(1, index)

        names = ("loc", "scale", "is_log", "log_evidence", "signs", "kind")
        return replace(self, **{name: chosen(getattr(self, name)) for name in names})

    def in_standard_units(self) -> tuple[Tensor, Tensor]:
        """Centres and scales of the forecasts of y, in spreads from the mean, ``(B, C, H)``."""
        centre, spread = self.centre[:, None, None], self.spread[:, None, None]
        is_log = self.is_log[..., None]
        of_log = (self.loc - spread.log()).clamp(-60, 60).exp()
        mean = torch.where(is_log, of_log - centre / spread, (self.loc - centre) / spread)
        scale = self.scale * torch.where(is_log, of_log, 1 / spread)
        return mean.clamp(-1e3, 1e3), scale.clamp(1e-6, 1e3)


def candidates(
    y: Tensor, seen: Tensor, last: Tensor, periods: tuple[float, ...], horizon: int
) -> Candidates:
    """Run all models.

    Args:
        y: series, ``(B, T)``; what is not seen is not read.
        seen: ``(B, T)``, or ``(1, T)`` if all series share it.
        last: number of the last step of each series, ``(B,)``.
        periods: periods of the seasons.
        horizon: steps ahead.
    """
    there = (seen & (torch.arange(y.shape[1]) <= last[:, None])).expand(y.shape)
    seen = there if len(seen) == len(y) and len(y) > 1 else seen
    n = there.sum(1)
    centre, spread = _units(y, there, n)
    raw = _standard(y, there, centre, spread)
    positive = torch.where(there, y, 1.0).amin(1) > 0
    log = torch.where(there & positive[:, None], y, 1.0).log()
    log_centre, log_spread = _units(log, there, n)
    both = torch.cat((raw, _standard(log, there, log_centre, log_spread)))
    if len(seen) > 1:
        seen = seen.repeat(2, 1)
    readings = _readings(both, seen, last.repeat(2), periods, horizon)
    jacobian = n * (spread / log_spread).log() - torch.where(there, log, 0.0).sum(1)
    jacobian = jacobian.masked_fill(~positive, -torch.inf)
    parts, b = [], len(y)
    for r in readings:
        number = r.number
        for rows, c, s, shift, of_log in (
            (slice(b), centre, spread, torch.zeros_like(spread), False),
            (slice(b, None), log_centre, log_spread, jacobian, True),
        ):
            c, s = c[:, None, None], s[:, None, None]
            kind = number + (N_KINDS // 2 if of_log else 0)
            evidence = r.log_evidence[rows] + shift[:, None]
            flag = torch.full(number.shape, of_log)
            loc, scale = c + s * r.mean[rows], s * r.sd[rows]
            parts.append((loc, scale, evidence, r.signs[rows], flag, kind))
    loc, scale, evidence, signs = (torch.cat([p[i] for p in parts], 1) for i in range(4))
    is_log, kind = (torch.cat([p[i] for p in parts]).expand(b, -1) for i in (4, 5))
    dof = readings[0].dof[:b]
    impulse = readings[-1].impulse
    return Candidates(loc, scale, dof, is_log, evidence, signs, kind, centre, spread, impulse)


def _units(y: Tensor, there: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what is seen; of a constant, a small part of its size."""
    first = y.gather(1, there.int().argmax(1, keepdim=True)).double()
    # A high level costs no digits of the spread, and a constant has none at all.
    known = torch.where(there, y.double() - first, 0.0)
    mean = known.sum(1) / n
    spread = ((known - mean[:, None]).square() * there).sum(1).div(n).sqrt()
    centre = mean + first[:, 0]
    least = _ROUNDINGS * torch.finfo(y.dtype).eps * centre.abs()
    spread = torch.where(spread > least, spread, _OF_CONSTANT * centre.abs())
    return centre.to(y), torch.where(spread > 0, spread, 1.0).to(y)


def _standard(y: Tensor, there: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    return torch.where(there, (y - centre[:, None]) / spread[:, None], 0.0)


def _readings(
    y: Tensor, seen: Tensor, last: Tensor, periods: tuple[float, ...], horizon: int
) -> list[Reading]:
    """Structural models, then autoregressions of the series with its gaps filled."""
    readings, predictions = structural_readings(y, seen, last, periods, horizon)
    if not bool(seen.all()):
        evidence = torch.cat([r.log_evidence for r in readings], 1)
        best = predictions.gather(1, evidence.argmax(1).expand(len(y.T), 1, -1))[:, 0].T
        y = torch.where(seen, y, best)
    if y.shape[1] >= _FEWEST:
        lags = lag_models.lag_readings(y, last, round(periods[0]), horizon)
        number = structures.N_KINDS + lags.number
        readings.append(Reading(**{**lags.__dict__, "number": number}))
    return readings
