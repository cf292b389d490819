r"""Laplace approximation: normals at the modes of a posterior, for a batch of datasets.

At a mode :math:`\hat u` with :math:`H = -\nabla^2 \log p(u, y)`,

.. math:: p(u \mid y) \approx N(\hat u, H^{-1}), \qquad
    \log p(y) \approx \log p(\hat u, y) + \tfrac d2 \log 2 \pi - \tfrac12 \log |H|.

Modes are found by gradient ascent. The starting points are the best draw of each of several groups
of prior draws, some arbitrary prior draws, and draws spread beyond the prior, because a mode may
lie in the tail of the prior or in a region that few draws reach; then maxima along each coordinate
through the highest end, which differ from it in one latent. The highest distinct end points
are refined by Newton steps. Second derivatives are differences of gradients: 2 d more particles in
the same vectorised run. The curvature is bounded below by a share of the prior's, so that a flat
region or a saddle point gives a wide normal instead of a failure.

References:
    Tierney and Kadane, Accurate approximations for posterior moments (1986).
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.program.density import ProgramDensity
from amortized.sampling.checks.narrow_peak import refuse_narrow_peak
from amortized.sampling.checks.pareto import smooth_weights
from amortized.sampling.draws import Draws
from amortized.sampling.start import FromMixture, Start, as_start
from amortized.sampling.steps.tempering import Path, tame

_DIFFERENCE = 1e-4  # in units of the prior's spread
_N_PRIOR = 128  # draws in all, among which the starting points are
_SPREAD_OUT = 3.0  # factor on the distance of prior draws from the median
_FAR = torch.tensor([10.0, 30.0, 100.0, 300.0, 1000.0], dtype=torch.float64)  # as the last factor
_ALONG, _N_LINES = torch.logspace(0, 3, 25, dtype=torch.float64), 4  # in spreads; maxima kept
_N_FAR, _LIGHT = 24, 40.0  # prior draws moved far away; nats that light tails fall there
_N_ASCENTS, _N_STEPS = 32, 12
_FIRST_STEP, _LAST_STEP = 0.6, 0.03  # of gradient ascent, in units of the prior's spread
_APART = 0.5  # smallest distance between distinct end points, in units of the prior's spread
_LEAST_CURVATURE = 0.1  # relative to that of the prior, in each direction of a normal
_FINISHED = 1.0  # a mode is reached where a Newton step promises to gain less, in nats
_STEPS = 0.5 ** torch.arange(0, 10, dtype=torch.float64)  # of a line search, evaluated together


def laplace(
    density: ProgramDensity,
    n_draws: int = 1000,
    *,
    n_modes: int = 4,
    start: Start | Distribution | None = None,
) -> Draws:
    """Draws from the normal at the mode of largest Laplace evidence of every dataset.

    Args:
        density: the log density to approximate.
        n_draws: draws for each dataset.
        n_modes: number of starting points.
        start: a density whose draws are the starting points; None uses the prior.

    Returns:
        draws and the Laplace evidence, without a standard error; diagnostics ``start`` and
        ``k_hat`` of the importance weights of the draws: if it is well above 0.7, the normal is far
        from the posterior. `sampling.checks.cross_check` judges whether means and standard
        deviations are right nevertheless.
    """
    modes = fit_modes(
        density, n_modes=n_modes, n_steps=50, tolerance=1e-8, inflation=1.0, start=start
    )
    best = modes.log_weights.argmax(-1, keepdim=True)
    rows = torch.arange(density.n_datasets).unsqueeze(-1)
    zero = torch.zeros_like(best, dtype=modes.means.dtype)
    chosen = GaussianMixture(zero, modes.means[rows, best], modes.scale_tril[rows, best])
    one = FromMixture(chosen)
    u = one.sample(n_draws)
    with torch.no_grad():
        smoothed = smooth_weights(density.log_density(u) - one.log_prob(u))
        evidence = (density.log_density(chosen.means) - one.log_prob(chosen.means))[:, 0]
    name = "prior" if start is None else type(start).__name__
    diagnostics = {"k_hat": smoothed.k_hat, "start": name}
    return Draws(u, None, evidence, 1, diagnostics)


def fit_modes(
    density: ProgramDensity,
    *,
    n_modes: int = 4,
    n_steps: int = 12,
    tolerance: float = 0.01,
    inflation: float = 1.1,
    start: Start | Distribution | None = None,
) -> GaussianMixture:
    """Fits a normal at each of several modes, weighted by its Laplace evidence.

    Starting points that lead to the same mode give equal components, which is harmless.

    Args:
        density: log density of the posterior.
        n_modes: groups of prior draws; the best draw of each is a starting point, and for a mixture
            prior each component has a group. Up to four more modes than this are refined.
        n_steps: largest number of Newton steps.
        tolerance: a step that gains less than this, in nats, is the last.
        inflation: factor on the standard deviations; above 1 for an importance sampling proposal.
        start: a density whose draws replace those of the prior.
    """
    path = Path(density)
    lots = tame(density.prior_lots(n_modes, _N_PRIOR // n_modes))
    draws = lots.flatten(1, 2)
    ends = draws.quantile(draws.new_tensor([0.16, 0.84]), dim=1)
    scale = ((ends[1] - ends[0]) / 2).unsqueeze(1)  # (batch, 1, dim)
    scale = torch.where(scale > 0, scale, 1.0)
    if start is not None:
        lots = tame(as_start(start).sample(_N_PRIOR)).unflatten(1, (n_modes, -1))
    scores = path.log_density(lots.flatten(1, 2)).unflatten(1, lots.shape[1:3])
    lost = scores.amax((1, 2)) == -torch.inf
    if lost.any():
        raise ValueError(
            f"Expected a density that is finite somewhere; got none at {_N_PRIOR} draws, in "
            f"dataset {int(lost.nonzero()[0])} first. The observations may be impossible under "
            "the program."
        )
    best = scores.argmax(-1, keepdim=True)
    begin = lots.gather(2, best.unsqueeze(-1).expand(-1, -1, 1, lots.shape[-1])).squeeze(2)
    everywhere = torch.ones_like(draws[:, 0], dtype=torch.bool)
    near = torch.cat([begin, _dispersed(draws, _N_ASCENTS - n_modes - len(_FAR))], 1)
    u = torch.cat([near, _distant(path, draws, scale, everywhere)], 1)
    stride = torch.cat([torch.ones(near.shape[1], dtype=u.dtype), _FAR / _SPREAD_OUT])
    u, score = _ascend(path, u, scale * stride.unsqueeze(-1))
    u, score = _with_maxima_along_lines(path, u, score, scale)
    u, score = _apart(u, score, scale, n_modes + 4)
    u, score = _newton_steps(path, u, score, scale, n_steps, tolerance)
    gradient, values, vectors = _curvature(path, u, scale)
    ahead = (vectors.mT @ (gradient * scale).unsqueeze(-1)).squeeze(-1).square() / values
    unfinished = ahead.sum(-1) > 2 * _FINISHED
    refuse_narrow_peak(density, u, score, values, scale, unfinished)
    # scale V diag(1/l) V^T scale has the square root scale V diag(l)^-1/2; QR makes it triangular.
    root = scale.unsqueeze(-1) * vectors * values.rsqrt().unsqueeze(-2)
    factor = torch.linalg.qr(root.mT).R.mT
    factor = factor * factor.diagonal(dim1=-1, dim2=-2).sign().unsqueeze(-2)
    log_det = factor.diagonal(dim1=-1, dim2=-2).log().sum(-1)
    weights = torch.softmax(score + log_det, -1).nan_to_num(1 / u.shape[1])
    log_weights = (0.9 * weights + 0.1 / u.shape[1]).log()
    return _distinct(log_weights, u, inflation * factor, scale)


def _dispersed(draws: Float[Tensor, "batch n dim"], n: int) -> Float[Tensor, "batch k dim"]:
    """A subset of the prior draws, half of them moved away from the median."""
    some = draws[:, torch.randperm(draws.shape[1])[:n]]
    centre = draws.median(1, keepdim=True).values
    factor = torch.where(torch.arange(some.shape[1]) % 2 == 0, 1.0, _SPREAD_OUT).unsqueeze(-1)
    return tame(centre + factor * (some - centre))


def _distant(
    path: Path,
    draws: Float[Tensor, "batch n dim"],
    scale: Float[Tensor, "batch 1 dim"],
    moves: Bool[Tensor, "batch dim"],
) -> Float[Tensor, "batch k dim"]:
    """From each of several distances, the point of the highest likelihood.

    Under a prior with heavy tails a mode may lie hundreds of its spreads away. Only the coordinates
    that ``moves`` names are moved there.
    """
    centre = draws.median(1, keepdim=True).values
    factor = torch.where(moves[:, None, None], _FAR[:, None, None], 1.0)
    moved = tame(centre.unsqueeze(1) + factor * (draws - centre).unsqueeze(1))
    likelihood = path.log_weights(moved.flatten(1, 2)).unflatten(1, moved.shape[1:3])
    close = ((draws - centre).abs() < 0.5 * scale).all(-1, keepdim=True).mT
    best = (
        likelihood.masked_fill(close, -torch.inf)
        .argmax(-1)[..., None, None]
        .expand(-1, -1, 1, draws.shape[-1])
    )
    return moved.gather(2, best).squeeze(2)


def far_maxima(density: ProgramDensity) -> Float[Tensor, "batch k dim"]:
    """Ends of ascents from far beyond the prior's bulk, one from each of several distances.

    There are none if all tails of the prior are so light that no likelihood makes up for them.
    """
    draws = tame(density.sample_prior(_N_FAR))
    heavy = _heavy_tails(density, draws)
    if not heavy.any():
        return draws[:, :0]
    ends = draws.quantile(draws.new_tensor([0.16, 0.84]), dim=1)
    scale = ((ends[1] - ends[0]) / 2).unsqueeze(1)
    path = Path(density)
    stride = torch.where(heavy.unsqueeze(1), (_FAR / _SPREAD_OUT).unsqueeze(-1), 1.0)
    return _ascend(path, _distant(path, draws, scale, heavy), scale * stride)[0]


def _heavy_tails(
    density: ProgramDensity, draws: Float[Tensor, "batch n dim"]
) -> Bool[Tensor, "batch dim"]:
    """Coordinates whose prior density falls slowly: where they alone are moved far away."""
    n, dim = draws.shape[1:]
    centre = draws.median(1, keepdim=True).values
    alone = 1 + (_FAR[1] - 1) * torch.eye(dim, dtype=draws.dtype)  # (dim, dim): a row a coordinate
    moved = tame((centre.unsqueeze(2) + alone * (draws - centre).unsqueeze(2)).flatten(1, 2))
    here, there = density.log_prior(draws), density.log_prior(moved).unflatten(1, (n, dim))
    return (here.unsqueeze(-1) - there).mean(1) < _LIGHT


def _with_maxima_along_lines(
    path: Path, u: Tensor, score: Tensor, scale: Float[Tensor, "batch 1 dim"]
) -> tuple[Tensor, Tensor]:
    """Adds ends of ascents from maxima along each coordinate through the highest point.

    Beside other latents with light tails, few draws that are moved far away are far in one alone.
    """
    dim = u.shape[-1]
    top = u.gather(1, score.argmax(1)[:, None, None].expand(-1, 1, dim))
    at = torch.cat([-_ALONG.flip(0), _ALONG])
    shift = at[:, None, None] * torch.eye(dim, dtype=u.dtype)  # (points, dim, dim)
    points = tame(top + scale * shift.flatten(0, 1))
    height = path.log_density(points).unflatten(1, (len(at), dim))
    inner = height[:, 1:-1]
    peak = (inner > height[:, :-2]) & (inner > height[:, 2:])
    peak[:, [len(_ALONG) - 2, len(_ALONG) - 1]] = False  # beside the point itself
    best, index = (
        torch.where(peak, inner, -torch.inf).flatten(1).topk(min(_N_LINES, peak[0].numel()))
    )
    if not best.isfinite().any():
        return u, score
    index = index + dim  # of the first row, which `inner` lacks
    begin = points.gather(1, index.unsqueeze(-1).expand(-1, -1, dim))
    stride = (at.abs() / _SPREAD_OUT)[index // dim].unsqueeze(-1)
    ends, heights = _ascend(path, begin, scale * stride)
    return torch.cat([u, ends], 1), torch.cat([score, heights], 1)


def _ascend(path: Path, u: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient ascent with Adam-like steps of decreasing length, one gradient per step.

    The highest point of each ascent is returned, because later steps may lead down again.
    """
    one = torch.ones(len(u), dtype=u.dtype)
    mean, square = torch.zeros_like(u), torch.zeros_like(u)
    best, score = u, torch.full_like(u[..., 0], -torch.inf)
    for i in range(_N_STEPS + 1):
        point = path.at(u, one)
        height = point.log_density(one)
        higher = height > score
        best = torch.where(higher.unsqueeze(-1), u, best)
        score = torch.where(higher, height, score)
        slope = point.gradient * scale
        mean, square = 0.7 * mean + 0.3 * slope, 0.7 * square + 0.3 * slope.square()
        length = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (i / _N_STEPS)
        u = u + length * scale * mean / square.sqrt().clamp(min=1e-30)
    return best, score


def _apart(u: Tensor, score: Tensor, scale: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The highest points that are distinct, padded with the highest remaining ones."""
    left, chosen = score.clone(), []
    for _ in range(n):
        top = left.argmax(1, keepdim=True)
        chosen.append(top)
        at = u.gather(1, top.unsqueeze(-1).expand(-1, -1, u.shape[-1]))
        near = ((u - at).abs() < _APART * scale).all(-1)
        # Far below all others, so that it is chosen again only when no other point is left.
        left = torch.where(near, left - 1e9, left)
        left = left.scatter(1, top, -torch.inf)
    index = torch.cat(chosen, 1)
    return u.gather(1, index.unsqueeze(-1).expand(-1, -1, u.shape[-1])), score.gather(1, index)


def _distinct(
    log_weights: Tensor, means: Tensor, factors: Tensor, scale: Tensor
) -> GaussianMixture:
    """Drops components that coincide in every dataset, because each one costs time."""
    apart = ((means.unsqueeze(2) - means.unsqueeze(1)) / scale.unsqueeze(1)).abs()
    spread = (factors.square().sum(-1).sqrt() / scale).unsqueeze(1)
    same = (apart < 0.2 * spread).all(-1)  # (batch, k, k)
    first = same.long().argmax(-1)  # index of the first equal component
    chosen = torch.zeros_like(log_weights, dtype=torch.bool).scatter(1, first, True)
    order = chosen.long().argsort(dim=1, descending=True, stable=True)
    kept = order[:, : int(chosen.sum(1).max())]
    rows = torch.arange(len(kept)).unsqueeze(-1)
    # A copy kept because another dataset has more modes does no harm.
    return GaussianMixture(
        log_weights[rows, kept], means[rows, kept], factors[rows, kept], validate_args=False
    )


def _newton_steps(
    path: Path, u: Tensor, score: Tensor, scale: Tensor, n_steps: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Newton steps with a line search; a dataset stops once a step gains nothing."""
    active = torch.arange(len(u))
    for _ in range(n_steps):
        here, at, width = path.take(active), u[active], scale[active]
        gradient, values, vectors = _curvature(here, at, width)
        slope = (vectors.mT @ (gradient * width).unsqueeze(-1)).squeeze(-1)
        step = (vectors @ (slope / values).unsqueeze(-1)).squeeze(-1)
        longest = 4 * math.sqrt(u.shape[-1])
        step = width * step * (longest / step.norm(dim=-1, keepdim=True)).clamp(max=1.0)
        tried = at.unsqueeze(2) + _STEPS[:, None] * step.unsqueeze(2)  # (batch, k, steps, dim)
        scores = here.log_density(tried.flatten(1, 2)).unflatten(1, tried.shape[1:3])
        best, index = scores.max(-1)
        better = best > score[active]
        chosen = tried.gather(2, index[..., None, None].expand(-1, -1, 1, u.shape[-1])).squeeze(2)
        gain = torch.where(better, best - score[active], 0.0)
        u = u.index_copy(0, active, torch.where(better.unsqueeze(-1), chosen, at))
        score = score.index_copy(0, active, torch.maximum(best, score[active]))
        active = active[(gain > tolerance).any(-1)]
        if not len(active):
            break
    return u, score


def _curvature(
    path: Path, u: Float[Tensor, "batch k dim"], scale: Float[Tensor, "batch 1 dim"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient, and eigenvalues and eigenvectors of minus the Hessian in units of ``scale``."""
    batch, k, dim = u.shape
    shift = _DIFFERENCE * torch.diag_embed(scale)  # (batch, 1, dim, dim): a row a direction
    here = u.unsqueeze(2)
    points = torch.cat([here + shift, here - shift, here], 2)  # (batch, k, 2 dim + 1, dim)
    one = torch.ones(batch, dtype=u.dtype)
    gradient = path.at(points.flatten(1, 2), one).gradient.unflatten(1, (k, -1))
    difference = (gradient[:, :, dim : 2 * dim] - gradient[:, :, :dim]) / (2 * _DIFFERENCE)
    hessian = difference * scale.unsqueeze(2)
    hessian = ((hessian + hessian.mT) / 2).nan_to_num(0.0, 0.0, 0.0)
    values, vectors = torch.linalg.eigh(hessian)
    return gradient[:, :, -1], values.abs().clamp(min=_LEAST_CURVATURE), vectors
