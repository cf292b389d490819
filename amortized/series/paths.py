r"""Joint draws of the coming steps of a series, with the dependence of the models.

A path of model k is :math:`l_{kh} + s_{kh} z_h`, where z has the correlation of that model's
forecasts over the steps h and a variance of one. Where the weights of a mixture change with the
step, one uniform number of a path chooses the component of every step, so that each step has
exactly its own mixture.
"""

import math

import torch
from torch import Tensor

from amortized.series import structures
from amortized.series.candidates import N_KINDS, Candidates
from amortized.series.gains import complete_gains, gains
from amortized.series.predictive import SeriesPredictive


def joint_draws(
    law: SeriesPredictive,
    found: Candidates,
    row: int,
    seen: Tensor,
    periods: tuple[float, ...],
    steps: Tensor,
    n: int,
) -> Tensor:
    """Draw paths of one series, ``(n, H)``, from torch's current generator.

    Args:
        law: predictive of each step, batch ``(B, H)``, whose components are one copy or more of
            the models of ``found``, and perhaps some more, whose steps depend on each other as
            those of the first model.
        found: what the models say.
        row: number of the series.
        seen: its steps up to the last one, ``(1, T)``.
        periods: periods of the seasons.
        steps: ahead, those of ``law``, ``(H,)``.
        n: paths.
    """
    c, dtype = found.kind.shape[1], law.loc.dtype
    n_copies, size = law.loc.shape[-1] // c, law.loc.shape[-1]
    order = torch.arange(c * n_copies).view(n_copies, c).T.flatten()  # copies of a model together
    order = torch.cat((order, torch.arange(c * n_copies, size)))
    model_of = torch.where(torch.arange(size) < c * n_copies, torch.arange(size) % c, 0)
    weight = law.log_weights[row][:, order].exp()
    levels = weight.cumsum(-1) / weight.sum(-1, keepdim=True)
    u = torch.rand(n, 1, dtype=dtype)
    which = torch.searchsorted(levels, u.expand(n, len(steps)).T.contiguous())
    which = order[which.clamp_max(len(order) - 1)].T  # (n, H)
    anchor = model_of[which[:, len(steps) // 2]]
    z = torch.empty(n, len(steps), dtype=dtype)
    for model in anchor.unique().tolist():
        paths = anchor == model
        correlated = _standard_paths(found, row, model, seen, periods, int(steps.max()))
        white = torch.randn(int(paths.sum()), correlated.shape[1], dtype=torch.float64)
        z[paths] = (white @ correlated[steps - 1].T).to(dtype)
    if law.dof is not None:
        dof = law.dof[row].flatten()[:1].double().expand(n, 1)
        z = z * (dof / (2 * torch._standard_gamma(dof / 2))).sqrt().to(dtype)
    step = torch.arange(len(steps))
    y = law.loc[row][step, which] + law.scale[row][step, which] * z
    most = math.log(torch.finfo(dtype).max) - 1.0
    return torch.where(law.is_log[row][step, which], y.clamp_max(most).exp(), y)


def _standard_paths(
    found: Candidates, row: int, model: int, seen: Tensor, periods: tuple[float, ...], horizon: int
) -> Tensor:
    """A root of the correlation of one model's forecasts, ``(horizon, shocks)``."""
    number = int(found.kind[row, model]) % (N_KINDS // 2)
    if number >= structures.N_KINDS:
        assert found.impulse is not None
        is_log = bool(found.is_log[row, model])
        response = found.impulse[row + len(found.centre) * is_log, number - structures.N_KINDS]
        lag = torch.arange(horizon)[:, None] - torch.arange(horizon)
        root = torch.where(lag >= 0, response.double()[lag.clamp_min(0)], 0.0)
    else:
        root = torch.linalg.cholesky(_covariance(number, seen, periods, horizon))
    return root / root.square().sum(1, keepdim=True).sqrt()


def _covariance(number: int, seen: Tensor, periods: tuple[float, ...], horizon: int) -> Tensor:
    """Covariance of a structural model's forecasts over the steps, relative to its scale."""
    spaces = structures.structures(periods)
    which = next(i for i, space in enumerate(spaces) if number in space.number)
    model = spaces[which]
    k, last = int((model.number == number).nonzero()), seen.shape[1] - 1
    if bool(seen.all()):
        p = complete_gains(periods, which, last + 1, [last]).cov[0, 0, k]
    else:
        p = gains(model, seen, [last]).cov[0, 0, k]
    a, q, h = model.transition[k], model.step_cov[k], model.observation
    ahead, rows = [], []
    for _ in range(horizon):
        p = a @ p @ a.T + q
        ahead.append(p)
    for p in ahead:
        course, row = p @ h, []
        for _ in range(horizon):
            row.append(course @ h)
            course = a @ course
        rows.append(torch.stack(row))
    lag = torch.arange(horizon) - torch.arange(horizon)[:, None]
    upper = torch.stack(rows).gather(1, lag.clamp_min(0))
    cov = torch.where(lag >= 0, upper, upper.T)
    return cov + (model.noise[k] + 1e-9) * torch.eye(horizon, dtype=cov.dtype)
