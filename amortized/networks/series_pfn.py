r"""A prior-data fitted network that forecasts, and reads a series through many classical models.

A token is one model of a bank of Kalman filters and autoregressions (`amortized.series`). With its
forecast :math:`(m_k, s_k)` of the step h, which is exact under that model, and its evidence
:math:`p_k`, the predictive is the mixture

.. math:: p(y_h) = \sum_k w_k N(y_h; m_k + \delta_k s_k, (s_k e^{\tau_k})^2), \qquad
    \log w_k = \log p_k + \omega_k + \text{const},

in y or in log y. Attention among the tokens gives :math:`\omega, \delta, \tau` for each model and
step, all zero in a new network: training begins at the exact average by evidence, and learns from
the prior what it lacks. Every component comes twice, a narrow one and a wide one for rare events.

References:
    | Transformers Can Do Bayesian Inference (Mueller et al., 2022), arXiv:2112.10510
    Using Bayesian model averaging to calibrate forecast ensembles (Raftery et al., 2005).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from amortized.networks.calibration import Calibration
from amortized.networks.config_fields import check_fields
from amortized.networks.layers.blocks import Block, Norm
from amortized.priors.prior import Prior, Units
from amortized.priors.task import Mask, TaskBatch, XContext, XQuery, YContext
from amortized.program.vectorised import precision
from amortized.seeding import seeded
from amortized.series.candidates import N_KINDS, Candidates, candidates
from amortized.series.predictive import SeriesPredictive

_TAIL, _WIDER = -4.0, math.log(3.0)  # log share and log scale of the wide components
# Log shares and scales, in spreads of the average, of two components for what no model expects:
# where all models are of log y, values below zero would be impossible.
_RARE = ((-7.0, 10.0), (-12.0, 1000.0))
_LEAST = -40.0  # log probability of a model, below which it cannot come back
_N_MODEL, _N_SERIES, _N_STEP = 10, 10, 8


@dataclass(frozen=True)
class SeriesPFNConfig:
    """Size and limits of a ``SeriesPFN``, as stored in its ``config.json``.

    Attributes:
        n_features: time and periods, at least 1.
        max_context: largest number of values in training.
        horizon: largest number of steps ahead in training.
        d_model: width of a token.
        n_heads: attention heads.
        n_layers: blocks.
        d_hidden: hidden width of the gated MLP.
        d_head: hidden width of the head.
        n_models: how many models of each series are read, those of the highest evidence.
        prior: name of the prior it is trained on, or None.
        units: units of the prior; series are standardised in any case.
    """

    n_features: int = 3
    max_context: int = 512
    horizon: int = 64
    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 3
    d_hidden: int = 96
    d_head: int = 48
    n_models: int = 48
    prior: str | None = None
    units: Units | None = None

    def __post_init__(self) -> None:
        check_fields(self, layers=("n_layers",))


class SeriesPFN(nn.Module):
    """Transformer from the forecasts of classical models to one predictive for each step.

    Args:
        config: size and limits.

    Example:
        >>> network = SeriesPFN(SeriesPFNConfig(d_model=16, n_layers=1))
        >>> t = torch.arange(24.0)
        >>> x = torch.stack((t, torch.full_like(t, 4.0)), -1)[None]
        >>> predictive = network(x[:, :20], (t[:20] % 4)[None], x[:, 20:])
        >>> predictive.mean.detach().round(decimals=1)
        tensor([[0., 1., 2., 3.]])
    """

    calibration: Calibration | None = None  # measured after training

    def __init__(self, config: SeriesPFNConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.kinds = nn.Embedding(N_KINDS, d)
        nn.init.normal_(self.kinds.weight, std=0.5)
        self.embed_model = nn.Sequential(
            nn.Linear(_N_MODEL + _N_SERIES, d), nn.GELU(), nn.Linear(d, d)
        )
        self.blocks: Any = nn.ModuleList(
            Block(d, config.n_heads, config.d_hidden) for _ in range(config.n_layers)
        )
        self.norm = Norm(d)
        self.of_model = nn.Linear(d, config.d_head)
        self.of_step = nn.Linear(_N_STEP, config.d_head, bias=False)
        self.mix = nn.Linear(config.d_head, config.d_head)
        self.out = nn.Linear(config.d_head, 4)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @classmethod
    def new(cls, prior: Prior, config: SeriesPFNConfig, seed: int = 0) -> "SeriesPFN":
        """Creates an untrained network, which averages the models by their evidence.

        Args:
            prior: training prior, whose units are recorded.
            config: size of the network.
            seed: seed of the weights.
        """
        with precision(torch.float32), seeded(seed):
            return cls(replace(config, units=config.units or prior.units))

    def forward(
        self, x_context: XContext, y_context: YContext, x_query: XQuery, context_mask: Mask = None
    ) -> SeriesPredictive:
        """The predictive of each query, steps after the last value.

        Args:
            x_context: times in whole steps, the same for all tasks, and periods; in any order.
            y_context: values; steps that are not among the times are missing.
            x_query: later times, in any order.
            context_mask: must be None; leave missing steps out.

        Raises:
            ValueError: if times are not whole, distinct, shared and before those of the query.
        """
        if context_mask is not None:
            raise ValueError("Expected no context_mask; leave steps that are missing out.")
        order = x_context[..., 0].argsort(-1)
        y_context = y_context.gather(1, order)
        t, asked = _shared_times(x_context[..., 0].gather(1, order)), _shared_times(x_query[..., 0])
        if not len(t) or (len(asked) and asked.min() <= t[-1]) or bool((t.diff() <= 0).any()):
            raise ValueError(
                "Expected distinct times and queries after the last of them; got times "
                f"{t.tolist()[-3:]} and queries {asked.tolist()[:3]}."
            )
        t, asked = t - t[0], asked - t[0]
        n = int(t[-1]) + 1
        y = y_context.new_zeros(len(y_context), n)
        y[:, t] = y_context
        seen = torch.zeros(1, n, dtype=torch.bool)
        seen[:, t] = True
        last = torch.full((len(y),), n - 1)
        steps = asked - (n - 1)
        horizon = int(steps.max()) if len(steps) else 1
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            found = candidates(y, seen, last, _periods(x_context), horizon)
            found = found.strongest(self.config.n_models)
        return self.decide(found, y, seen, last, _periods(x_context), steps)

    def decide(
        self,
        found: Candidates,
        y: Float[Tensor, "batch time"],
        seen: Bool[Tensor, "patterns time"],
        last: Tensor,
        periods: tuple[float, ...],
        steps: Tensor,
    ) -> SeriesPredictive:
        """The predictive of some steps ahead, given what the models say.

        Args:
            found: result of `candidates`.
            y: series.
            seen: steps with a value, ``(batch, time)`` or ``(1, time)``.
            last: last step of each series, ``(batch,)``.
            periods: periods of the seasons.
            steps: ahead, 1 or more, ``(n,)``.
        """
        usable = found.log_evidence.isfinite()
        log_weight = found.log_evidence.log_softmax(-1).clamp_min(_LEAST)
        series = _series_signs(found, y, seen, last, periods)
        model = _model_signs(found, log_weight, usable, series)
        dtype = self.kinds.weight.dtype  # the models may be run in double precision
        tokens = self.embed_model(model.to(dtype)) + self.kinds(found.kind)
        for block in self.blocks:
            tokens, _ = block.among(tokens, usable)
        tokens = self.of_model(self.norm(tokens))
        features = _step_signs(found, log_weight, steps, last, periods)
        hidden = F.gelu(tokens[:, :, None] + self.of_step(features.to(dtype)))
        change = self.out(F.gelu(self.mix(hidden)).float()).permute(3, 0, 2, 1).to(found.loc)
        prior = log_weight.masked_fill(~usable, -torch.inf)[:, None]
        weight = (prior + change[0]).log_softmax(-1)
        at = steps - 1
        scale = found.scale[..., at].mT
        dof = found.dof[:, None, None]
        scale = (
            scale * (dof / (dof - 2).clamp_min(0.5)).sqrt()
        )  # the normal of a Student's variance
        loc = found.loc[..., at].mT + 3 * (change[1] / 3).tanh() * scale
        scale = scale * (2 * (change[2] / 2).tanh()).exp()
        tail = _TAIL + change[3]
        rare = torch.tensor(_RARE, dtype=loc.dtype)
        middle, spread = (part[:, 0, :, None] for part in _average(found, log_weight, steps))
        middle = found.centre[:, None, None] + found.spread[:, None, None] * middle
        spread = found.spread[:, None, None] * spread
        shape = (*middle.shape[:2], len(rare))
        usual = (-rare[:, 0].exp().sum()).log1p()
        return SeriesPredictive(
            torch.cat(
                (weight + F.logsigmoid(-tail) + usual, weight + F.logsigmoid(tail) + usual,
                 rare[:, 0].expand(shape)), -1,
            ),
            torch.cat((loc, loc, middle.expand(shape)), -1),
            torch.cat((scale, scale * math.exp(_WIDER), spread * rare[:, 1]), -1),
            F.pad(found.is_log.repeat(1, 2), (0, len(rare)))[:, None],
        )  # fmt: skip

    def loss(self, batch: TaskBatch) -> Tensor:
        """Mean negative log-likelihood of the query targets; a surprise counts at most 20 nats."""
        predictive = self(batch.x_context, batch.y_context, batch.x_query, batch.context_mask)
        return -predictive.log_prob(batch.y_query).clamp_min(-20.0).mean()


def _shared_times(times: Tensor) -> Tensor:
    """Whole times that all tasks share."""
    t = times[0].round().long()
    if bool((times != t).any()):
        raise ValueError(
            "Expected times in whole steps and the same for all tasks; got others. "
            "PFNForecaster reads series of different times."
        )
    return t


def _periods(x: Tensor) -> tuple[float, ...]:
    """Periods above one, or a one if there is none."""
    found = dict.fromkeys(p for p in x[0, 0, 1:].tolist() if p >= 2)
    return tuple(found) or (1.0,)


def _series_signs(
    found: Candidates, y: Tensor, seen: Tensor, last: Tensor, periods: tuple[float, ...]
) -> Tensor:
    """What is known of each series without a model, ``(B, _N_SERIES)``."""
    there = (seen & (torch.arange(y.shape[1]) <= last[:, None])).expand(y.shape)
    n = there.sum(1).to(y)
    z = torch.where(there, (y - found.centre[:, None]) / found.spread[:, None], 0.0)
    size = n.sqrt()
    ties = ((y[:, 1:] == y[:, :-1]) & there[:, 1:] & there[:, :-1]).sum(1) / n
    zeros = ((y == 0) & there).sum(1) / n
    period = torch.full_like(n, periods[0])
    level = (found.centre / found.spread).clamp(-20, 20)
    repeats = (n / period.clamp_min(2)).log()
    half = torch.arange(y.shape[1]) > last[:, None] / 2
    later = ((z * half).sum(1) / (there & half).sum(1).clamp_min(1)).clamp(-2, 2)
    skew = (z**3).sum(1).div(n).clamp(-5, 5)
    tails = (z**4).sum(1).div(n).clamp_min(0.1).log()
    return torch.stack(
        (size.log(), period.log(), repeats, ties, zeros, level / 10, later, skew / 2, tails,
         (n / (last + 1)).to(y)), -1,
    )  # fmt: skip


def _model_signs(found: Candidates, log_weight: Tensor, usable: Tensor, series: Tensor) -> Tensor:
    """What is known of each model of each series, ``(B, C, _N_MODEL + _N_SERIES)``."""
    best = log_weight.amax(-1, keepdim=True)
    behind = (best - log_weight)[..., None]
    signs = found.signs.clamp(-20, 20)
    # Scores of the last steps, and scales, against their mean under the evidence.
    average = (log_weight.exp()[..., None] * signs[..., :2]).sum(1, keepdim=True)
    relative = (signs[..., :2] - average).clamp(-5, 5)
    steep = (behind + 1).log()
    own = torch.cat(
        (behind / 20, steep, log_weight.exp()[..., None], relative, signs[..., 2:],
         found.is_log[..., None].to(signs)), -1,
    )  # fmt: skip
    own = own.masked_fill(~usable[..., None], 0.0)
    return torch.cat((own, series[:, None].expand(-1, own.shape[1], -1)), -1)


def _average(found: Candidates, log_weight: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and spread of the average by evidence, in standard units, ``(B, 1, n)``."""
    mean, scale = (part[..., steps - 1] for part in found.in_standard_units())
    weight = log_weight.exp()[..., None]
    middle = (weight * mean).sum(1, keepdim=True)
    spread = (weight * (scale.square() + (mean - middle).square())).sum(1, keepdim=True).sqrt()
    return middle, spread.clamp_min(1e-4)


def _step_signs(
    found: Candidates, log_weight: Tensor, steps: Tensor, last: Tensor, periods: tuple[float, ...]
) -> Tensor:
    """What is known of each model's forecast of each step, ``(B, C, n, _N_STEP)``."""
    mean, scale = (part[..., steps - 1] for part in found.in_standard_units())
    middle, spread = _average(found, log_weight, steps)
    ahead = steps.to(mean).expand(mean.shape)
    n = (last + 1).to(mean)[:, None, None]
    return torch.stack(
        (
            ((mean - middle) / spread).clamp(-5, 5),
            (scale / spread).clamp(1e-3, 1e3).log().clamp(-4, 4),
            spread.log().expand_as(mean).clamp(-6, 4) / 2,
            mean.clamp(-6, 6) / 3,
            middle.expand_as(mean).clamp(-6, 6) / 3,
            ahead.log() / 2,
            (ahead / n).clamp_max(2),
            (ahead / max(periods[0], 2.0)).clamp_max(6) / 3,
        ),
        -1,
    )
