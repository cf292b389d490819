"""Columns of a table: transformations that make raw columns resemble real ones.

A generator draws smooth, nearly Gaussian columns ``(batch, columns, rows)``. Real ones are skewed,
bounded, rounded, censored, coded or contaminated; each of these is one function here. Rows are the
last dimension, because every function processes whole columns.

The transformations are strictly increasing, so that trees and ranks do not see them: sinh-arcsinh
for skewness and tails, Kumaraswamy for bounded shapes, the exponential for amounts. Location and
scale are not varied, because networks see columns relative to their context.

References:
    Jones and Pewsey, Sinh-arcsinh distributions, Biometrika 2009.
    Kumaraswamy, A generalized probability density function for double-bounded random processes,
    Journal of Hydrology 1980.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def standardise(x: Float[Tensor, "*batch rows"]) -> Float[Tensor, "*batch rows"]:
    """Standardises every column to mean 0 and standard deviation 1; a constant one becomes 0.

    Example:
        >>> standardise(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    x = x - x.mean(-1, keepdim=True)
    scale = x.square().mean(-1, keepdim=True).sqrt()
    # A constant column contains only rounding error, which must not be scaled up.
    return x / torch.where(scale > 1e-5, scale, torch.inf)


def log_uniform(low: float, high: float, *shape: int) -> Tensor:
    """Draws from the log-uniform distribution on ``[low, high]``.

    Example:
        >>> draws = log_uniform(0.1, 10.0, 1000)
        >>> bool((draws >= 0.1).all() and (draws <= 10.0).all())
        True
    """
    return low * (high / low) ** torch.rand(shape)


def draw_integer(low: int, high: int) -> int:
    """Draws one integer from ``low`` to ``high`` inclusive, always on the CPU."""
    return int(torch.randint(low, high + 1, (), device="cpu"))


def level_codes(
    x: Float[Tensor, "columns rows"], n_levels: Float[Tensor, " columns"]
) -> Float[Tensor, "columns rows"]:
    """Cuts each column into at most ``n_levels`` ordered codes 0, 1, ...

    The cuts are values of random rows, so level frequencies follow a broken-stick distribution and
    values of an already discrete column are never split.
    """
    most = int(n_levels.max()) if n_levels.numel() else 2
    rows = torch.randint(x.shape[-1], (x.shape[0], max(most - 1, 1)))
    cuts = x.gather(-1, rows)
    unused = torch.arange(cuts.shape[-1]) >= (n_levels - 1)[:, None]
    cuts = cuts.masked_fill(unused, torch.inf).sort(-1).values
    return torch.searchsorted(cuts, x.contiguous()).to(x.dtype)


def dense_codes(x: Float[Tensor, "columns rows"]) -> Float[Tensor, "columns rows"]:
    """Replaces the values of each column by codes 0, 1, ... in ascending order.

    Example:
        >>> dense_codes(torch.tensor([[0.5, -1.0, 0.5, 7.0]]))
        tensor([[1., 0., 1., 2.]])
    """
    ordered, rows = x.sort(-1)
    rank = (ordered.diff(dim=-1) > 0).cumsum(-1).to(x.dtype)
    rank = torch.nn.functional.pad(rank, (1, 0))
    return torch.empty_like(x).scatter_(-1, rows, rank)


def shuffle_codes(codes: Float[Tensor, "columns rows"]) -> Float[Tensor, "columns rows"]:
    """Permutes the codes 0, 1, ... of each column at random, which makes categories unordered."""
    most = int(codes.max()) + 1 if codes.numel() else 1
    # Only codes up to the column's own largest one are permuted, so small columns stay compact.
    unused = torch.arange(most) > codes.max(-1, keepdim=True).values
    names = torch.rand(codes.shape[0], most).masked_fill(unused, torch.inf).argsort(-1).argsort(-1)
    return names.to(codes.dtype).gather(-1, codes.long())


def bend(x: Float[Tensor, "columns rows"]) -> Float[Tensor, "columns rows"]:
    r"""Transforms standardised columns by random increasing functions of three types.

    sinh-arcsinh :math:`\sinh(\delta\,\mathrm{asinh}(x) + \epsilon)`, Kumaraswamy
    :math:`1 - (1 - u^a)^b` of the column scaled to [0, 1], exponential :math:`\pm e^{\pm s x}`.
    """
    kind = torch.randint(3, x.shape[:1])
    out = torch.empty_like(x)
    for k, warp in enumerate((_sinh_arcsinh, _kumaraswamy, _exponential)):
        chosen = (kind == k).nonzero()[:, 0]
        out[chosen] = standardise(warp(x[chosen]))
    return out


def _sinh_arcsinh(x: Tensor) -> Tensor:
    tail = log_uniform(0.5, 2.3, len(x), 1)
    return torch.sinh(torch.asinh(x) * tail + 0.7 * torch.randn(len(x), 1))


def _kumaraswamy(x: Tensor) -> Tensor:
    low, high = (x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)) if len(x) else (x, x)
    u = ((x - low) / (high - low).clamp_min(1e-6)).clamp(1e-6, 1 - 1e-6)
    a, b = log_uniform(0.3, 3.0, 2, len(x), 1)
    return 1 - (1 - u**a) ** b


def _exponential(x: Tensor) -> Tensor:
    # The sign mirrors the long tail, which is usually on the right in real data.
    sign = torch.where(torch.rand(len(x), 1) < 0.85, 1.0, -1.0)
    return sign * torch.exp(sign * x * log_uniform(0.3, 2.0, len(x), 1))


def censor(x: Float[Tensor, "columns rows"]) -> Float[Tensor, "columns rows"]:
    """Censors at a random row's value: zeros of amounts, detection limits of instruments."""
    bound = x.gather(-1, torch.randint(x.shape[-1], (len(x), 1)))
    return torch.where(torch.rand(len(x), 1) < 0.75, x.maximum(bound), x.minimum(bound))


def round_to_grid(x: Float[Tensor, "columns rows"]) -> Float[Tensor, "columns rows"]:
    """Rounds to about 4 to 150 integer values, such as ages, counts, scores or coarse readings."""
    steps = log_uniform(0.8, 25.0, len(x), 1)
    low = (x * steps).amin(-1, keepdim=True) if len(x) else x
    return (x * steps - low.floor()).round()


def contaminate(x: Float[Tensor, "columns rows"]) -> Float[Tensor, "columns rows"]:
    """Moves 0.2 to 2% of the cells 3 to 30 standard deviations away."""
    hit = torch.rand_like(x) < log_uniform(0.002, 0.02, len(x), 1)
    return torch.where(hit, x + torch.randn_like(x) * log_uniform(3.0, 30.0, len(x), 1), x)


def spread(probability: float, n_tasks: int) -> Float[Tensor, "batch 1"]:
    """A fraction for each task, 0 with ``1 - probability``, else uniform; shaped to match columns.

    Real tables vary more than a constant rate would: in one all columns are categorical, in the
    next none.
    """
    return torch.rand(n_tasks, 1) * (torch.rand(n_tasks, 1) < probability)


def dress(x: Float[Tensor, "batch columns rows"]) -> Float[Tensor, "batch columns rows"]:
    """Makes smooth columns realistic: transformed, censored, rounded, categorical, contaminated.

    Each step applies to a random fraction of a task's columns; the fraction varies over tasks.
    Categorical columns hold integer codes 0, 1, ..., up to 20 levels, often two, mostly unordered.

    Args:
        x: raw columns of any scale.
    """
    n_tasks, n_columns, n_rows = x.shape
    flat = standardise(x).reshape(-1, n_rows)

    def chosen(rate: Tensor) -> Tensor:
        return (torch.rand(n_tasks, n_columns) < rate).flatten().nonzero()[:, 0]

    # Every tenth table is entirely categorical: questionnaires, votes, binned measurements.
    all_coded = (torch.rand(n_tasks, 1) < 0.1).to(x.dtype)
    for step, rate in (
        (bend, spread(0.5, n_tasks)),
        (contaminate, 0.3 * spread(0.2, n_tasks)),
        (censor, 0.5 * spread(0.4, n_tasks)),
        (round_to_grid, spread(0.45, n_tasks)),
        (_categories, spread(0.35, n_tasks).maximum(all_coded)),
    ):
        columns = chosen(rate)
        flat[columns] = step(flat[columns])
    return flat.reshape(n_tasks, n_columns, n_rows)


def _categories(x: Tensor) -> Tensor:
    n_levels = log_uniform(2.0, 21.0, len(x)).floor()
    n_levels = torch.where(torch.rand(len(x)) < 0.35, 2.0, n_levels)
    # A column that a function has used as a few levels keeps these.
    dense = dense_codes(x)
    codes = torch.where(dense.amax(-1, keepdim=True) < 20, dense, level_codes(x, n_levels))
    # A third of the categorical columns are ordered: grades, stages, bins.
    unordered = (torch.rand(len(x)) < 2 / 3).nonzero()[:, 0]
    codes[unordered] = shuffle_codes(codes[unordered])
    return codes
