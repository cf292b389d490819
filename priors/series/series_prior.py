r"""A prior of time series of many kinds, for networks that forecast.

A series is a sum or a product of a trend, one season or two, cycles and noise,

.. math:: y_t = w_m m_t + w_s s_t + w_c c_t + w_e e_t \quad \text{or} \quad
    y_t = \exp(w_m m_t + w_s s_t + w_c c_t + w_e e_t),

whose parts are random walks, lines with breaks, Gaussian processes, levels that shift or alternate,
patterns that repeat or change, and autoregressions; the noise may have heavy tails, a variance that
moves and outliers. Some series are counts, and some of these are mostly zero.

References:
    | ForecastPFN: Synthetically-Trained Zero-Shot Forecasting
    | (Dooley et al., 2023), arXiv:2311.01933
"""

import torch
from torch import Tensor

from amortized.priors.prior import Prior
from amortized.priors.series.signals import (
    broken_lines,
    cycles,
    heavy_tailed,
    log_uniform,
    season,
    smooth,
    steps,
    unit,
    wandering,
)
from amortized.priors.task import TaskBatch
from amortized.validation import number_between

HORIZON = 64
PERIODS = (1, 4, 5, 7, 12, 24, 48, 52)
_SHARES = (0.25, 0.15, 0.03, 0.12, 0.25, 0.08, 0.04, 0.08)


class SeriesPrior(Prior):
    """Series observed up to a time, with queries at some of the following steps.

    A row of x is (time, period, second period); time counts steps from 0, and a period of 1 is
    none. Periods and gaps are shared by the tasks of a batch. Targets have a standard deviation of
    about one over the context.

    Args:
        gaps: probability that a batch has gaps in its context.

    Example:
        >>> batch = SeriesPrior().sample(3, 40, 8, seed=0)
        >>> tuple(batch.x_context.shape), bool((batch.x_query[..., 0] > 39).all())
        ((3, 40, 3), True)
    """

    units = "standardised"

    def __init__(self, gaps: float = 0.1) -> None:
        self.gaps = number_between("gaps", gaps, 0, 1, least=True, most=True)

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        seen = _seen(n_context, self.gaps)
        n_past, horizon = len(seen), max(HORIZON, n_query)
        periods = _periods(n_past)
        y = _series(n_tasks, n_past + horizon, periods)
        past = torch.arange(n_past)[seen]
        asked = n_past + torch.randperm(horizon)[:n_query].sort().values
        spread = y[:, past].std(-1, keepdim=True) if n_context > 1 else y.new_ones(n_tasks, 1)
        y = y / torch.where(spread > 1e-3, spread, 1.0)
        x = [
            torch.stack((t.float(), *(torch.full(t.shape, float(p)) for p in periods)), -1)
            for t in (past, asked)
        ]
        x = [rows.expand(n_tasks, -1, -1) for rows in x]
        return TaskBatch(x[0], y[:, past], x[1], y[:, asked])


def _seen(n_context: int, gaps: float) -> Tensor:
    """Which steps of the past are seen, ``n_context`` of them; the first and the last are."""
    if n_context < 8 or torch.rand(()) >= gaps:
        return torch.ones(n_context, dtype=torch.bool)
    n_missing = int(1 + 0.4 * n_context * torch.rand(()) ** 2)
    n_past = n_context + n_missing
    order = torch.randperm(n_past - 2) + 1
    if torch.rand(()) < 0.5:  # one block
        start = int(torch.randint(1, n_context, ()))
        order = torch.arange(start, start + n_missing)
    seen = torch.ones(n_past, dtype=torch.bool)
    seen[order[:n_missing]] = False
    return seen


def _periods(n_past: int) -> tuple[int, int]:
    """One period of a batch or two, which the past shows at least nearly twice."""
    which = int(torch.multinomial(torch.tensor(_SHARES), 1))
    first = PERIODS[which] if torch.rand(()) < 0.85 else int(torch.randint(2, 40, ()))
    if n_past < 1.7 * first:
        return 1, 1
    second = 7 * first if first in (4, 24, 48) else 4 * first
    two = first > 1 and n_past > 2 * second and torch.rand(()) < 0.3
    return first, second if two else 1


def _series(n_tasks: int, n: int, periods: tuple[int, int]) -> Tensor:
    """Series in units of their own, ``(n_tasks, n)``."""

    def some(share: float) -> Tensor:
        return (torch.rand(n_tasks, 1) < share).float()

    kind = torch.rand(n_tasks, 1)
    trends = torch.stack([make(n_tasks, n) for make in (wandering, broken_lines, smooth, steps)])
    which = torch.multinomial(torch.tensor([0.4, 0.25, 0.2, 0.15]), n_tasks, replacement=True)
    trend = unit(trends[which, torch.arange(n_tasks)])
    trend = trend + some(0.2) * unit(trends[which.flip(0), torch.arange(n_tasks)])
    seasons = unit(season(n_tasks, n, periods[0]))
    if periods[1] > 1:
        seasons = seasons + some(0.8) * unit(season(n_tasks, n, periods[1]))
    weight = log_uniform((0.1, 4.0), 4, n_tasks, 1)
    signal = some(0.8) * weight[0] * trend
    swing = some(0.75) * weight[1] * seasons
    rest = some(0.4) * weight[2] * unit(cycles(n_tasks, n))
    rest = rest + 0.25 * weight[3] * heavy_tailed(n_tasks, n) * _volatility(n_tasks, n)
    growing = 1 + 0.5 * (trend - trend.amin(-1, keepdim=True)) * some(0.2)  # with the level
    total = unit(signal + growing * (swing + rest))
    relative = log_uniform((0.05, 1.0), n_tasks, 1)
    offset = 3 * torch.randn(n_tasks, 1)
    sums = total + offset
    products = (relative * total).exp() / relative
    y = torch.where(kind < 0.5, sums, products)
    y = torch.where(kind > 0.88, _counts(total), y)
    spikes = (torch.rand(n_tasks, n) < log_uniform((0.001, 0.03), n_tasks, 1)) * some(0.2)
    size = 3 * heavy_tailed(n_tasks, n) * y.std(-1, keepdim=True)
    spiked = y + spikes * size
    return torch.where((kind > 0.5) & (spiked < y.amin(-1, keepdim=True)), y, spiked)


def _volatility(n_tasks: int, n: int) -> Tensor:
    """Standard deviation of the noise: constant, a slow process, or of two regimes."""
    slow = (0.5 * unit(cycles(n_tasks, n))).exp()
    regimes = 1 + 2 * steps(n_tasks, n).abs().clamp_max(1)
    kind = torch.rand(n_tasks, 1)
    return torch.where(kind < 0.7, 1.0, torch.where(kind < 0.85, slow, regimes))


def _counts(total: Tensor) -> Tensor:
    """Poisson counts, overdispersed ones, and intermittent demand."""
    n_tasks, n = total.shape
    rate = log_uniform((0.3, 100.0), n_tasks, 1) * (0.4 * total).exp()
    shape = log_uniform((1.0, 20.0), n_tasks, 1).expand(n_tasks, n)
    over = torch._standard_gamma(shape) / shape
    rate = torch.where(torch.rand(n_tasks, 1) < 0.5, rate, rate * over)
    counts = torch.poisson(rate)
    share = log_uniform((0.1, 0.9), n_tasks, 1)
    bought = torch.rand(n_tasks, n) < share * (0.3 * total).sigmoid() * 2
    return torch.where(torch.rand(n_tasks, 1) < 0.35, counts * bought, counts)
