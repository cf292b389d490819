r"""Learning curves: a weighted sum of basis curves, between 0 and 1, that ends above its start.

.. math::
    f(t) = \sum_k w_k f_k(t; \theta_k), \quad w_k \sim U(0, W_k), \qquad
    y_t = f(t) + \sigma \epsilon_t, \quad \log \sigma \sim N(-4, 1)

with :math:`\epsilon_t \sim N(0, 1)`, on steps t from 1 to T. A curve is accepted if
:math:`0 \le f(t) \le 1` at all integer steps and :math:`f(T) > f(1)`; the noise may take targets
out of [0, 1]. Real curves are not sums of three formulas: they dip and continue from there. With
``discrepancy`` a curve is therefore

.. math::
    y_t = f(t) + d(t) + \sigma \epsilon_t, \quad
    \mathrm{Cov}(d(s), d(t)) = \delta^2 \exp(-|x_s - x_t| / \ell), \quad x_t = \log t / \log T,

with log-normal priors of :math:`\delta` and :math:`\ell`.

The sampler draws many candidates at once. It first evaluates both ends, where most invalid curves
can be rejected, and then all steps of the remaining ones.

References:
    | Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks
    | (Adriaensen et al., 2023), arXiv:2310.20447
    | Bayesian Calibration of Computer Models (Kennedy and O'Hagan, 2001), for the discrepancy
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy

import pyro
import torch
from jaxtyping import Bool, Float
from pyro import distributions as dist
from torch import Tensor

from amortized.priors.curves.curve_families import PEAKED, UNIFORM, CurveFamily, ParameterPrior
from amortized.priors.prior import split
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.task import TaskBatch
from amortized.seeding import seeded
from amortized.validation import number_between, whole_number

# Candidates drawn at once: many enough to amortise the calls, few enough to fit in cache.
CHUNK = 16_384
# Number of rejected candidates after which the prior is assumed to accept none.
PATIENCE = 4_000_000
# Share of the queries that lie anywhere on the curve instead of beyond its known part.
WITHIN = 0.125


class LearningCurvePrior(ProgramPrior):
    r"""Learning curves as a prior over tasks, and as a Pyro program.

    The feature of a row is the logarithm of its step divided by that of the last step: 0 for the
    first step and 1 for the last. The context of a task is the beginning of its curve. For most
    tasks it consists of the first ``n_context`` integer steps, as a training loop reports them; for
    the others the steps are irregular real numbers, uniform in the step or in its logarithm, up to
    a random last one. Queries are later steps, and one in eight is any step.

    The latents are ``noise`` and, for each family k, its weight ``k_weight`` and its parameters,
    such as ``pow3_alpha``; also ``discrepancy`` and ``length`` if there is a discrepancy. In the
    program the acceptance rule is a factor of 0 or 1, so the evidence of data is that of `infer`
    divided by `acceptance`.

    Args:
        families: names of the basis curves, each with its largest weight; without weights it is 1.
        parameter_priors: "peaked", or "uniform" for pow3, ilog2 and janoschek.
        n_steps: T, the last step.
        noise: mean and standard deviation of :math:`\log\sigma`.
        discrepancy: mean and standard deviation of :math:`\log\delta`; None for no discrepancy.
        length: mean and standard deviation of :math:`\log\ell`.
        regular: share of tasks whose context is every integer step up to the last known one.

    Raises:
        ValueError: if a family or an argument is unknown or out of range.

    References:
        | Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks
        | (Adriaensen et al., 2023), arXiv:2310.20447

    Example:
        >>> prior = LearningCurvePrior()
        >>> batch = prior.sample(4, 20, 80, seed=0)
        >>> prior.steps(batch.x_context)[0, :5].round() # of a training that reports every step
        tensor([1., 2., 3., 4., 5.])
    """

    def __init__(
        self,
        families: Sequence[str] | Mapping[str, float] = ("pow3", "ilog2", "janoschek"),
        *,
        parameter_priors: str = "peaked",
        n_steps: int = 100,
        noise: tuple[float, float] = (-4.0, 1.0),
        discrepancy: tuple[float, float] | None = None,
        length: tuple[float, float] = (-0.5, 0.75),
        regular: float = 0.7,
    ) -> None:
        super().__init__(inputs=1)
        known = {"peaked": PEAKED, "uniform": UNIFORM}.get(parameter_priors)
        if known is None:
            raise ValueError(
                f"Expected parameter_priors 'peaked' or 'uniform'; got {parameter_priors!r}."
            )
        unknown = sorted(set(families) - set(known))
        if unknown or not families:
            raise ValueError(
                f"Expected families among {sorted(known)} for {parameter_priors} priors, one or "
                f"more; got {unknown or list(families)}."
            )
        weights = {name: 1.0 for name in families} | dict(
            families if isinstance(families, Mapping) else {}
        )
        for name, weight in weights.items():
            number_between(f"a largest weight of {name}", weight, 0, math.inf)
        for name, given in (("noise", noise), ("discrepancy", discrepancy), ("length", length)):
            if given is not None and not given[1] > 0:
                raise ValueError(
                    f"Expected {name} as (mean, sd > 0) of its logarithm; got {given!r}."
                )
        self.families: dict[str, CurveFamily] = {name: known[name] for name in weights}
        regular = number_between("regular", regular, 0, 1, least=True, most=True)
        self.weights, self.n_steps = weights, whole_number("n_steps", n_steps, 2)
        self.noise, self.discrepancy, self.length, self.regular = (
            noise,
            discrepancy,
            length,
            regular,
        )

    def features(self, steps: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows 1"]:
        """The inputs of rows at given steps in [1, T]."""
        return (steps.log() / math.log(self.n_steps)).unsqueeze(-1)

    def steps(self, x: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows"]:
        """The inverse of ``features``."""
        return (x[..., 0] * math.log(self.n_steps)).exp()

    def curve(
        self, steps: Float[Tensor, "*steps"], latents: Mapping[str, Tensor]
    ) -> Float[Tensor, "*batch n"]:
        """The sum of the basis curves without noise.

        Args:
            steps: ``(n,)``, the same for all curves, or ``(*batch, n)``.
            latents: by name, each ``(*batch,)``.
        """
        total: Tensor | float = 0.0
        for name, family in self.families.items():
            at = [latents[f"{name}_{key}"].unsqueeze(-1) for key in family.priors]
            total = total + latents[f"{name}_weight"].unsqueeze(-1) * family.formula(steps, *at)
        assert isinstance(total, Tensor)
        return total

    def accepts(self, values: Float[Tensor, "*batch n"]) -> Bool[Tensor, "*batch"]:
        """Whether curves stay in [0, 1] and end above their start; False for NaN."""
        inside = ((values >= 0) & (values <= 1)).all(-1)
        return inside & (values[..., -1] > values[..., 0])

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The prior as a Pyro program, with the acceptance rule as a factor of 0 or 1."""
        latents = {
            name: pyro.sample(name, make(*at)) for name, (make, *at) in self._sites().items()
        }
        # The rule is piecewise constant, so no gradient needs to be recorded.
        fixed = {name: value.detach() for name, value in latents.items()}
        accepted = self.accepts(self.curve(self._grid(x), fixed))
        pyro.factor("accepted", torch.where(accepted, 0.0, -torch.inf).to(x.dtype))
        mean, noise = self.curve(self.steps(x), latents), latents["noise"]
        if self.discrepancy is None:
            return pyro.sample("y", dist.Normal(mean, noise).to_event(1), obs=y)
        apart = (x - x.mT).abs() / latents["length"]
        covariance = latents["discrepancy"] ** 2 * (-apart).exp()
        covariance = covariance + noise**2 * torch.eye(len(x), dtype=x.dtype, device=x.device)
        return pyro.sample("y", dist.MultivariateNormal(mean, covariance), obs=y)

    def whole_curves(
        self, n_curves: int, *, seed: int, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "curves steps"]:
        """Targets at all steps from 1 to T; the result depends on the arguments only.

        Args:
            n_curves: number of curves.
            seed: any integer.
            device: device on which they are drawn and returned.
        """
        whole = copy(self)
        whole.regular = 1.0
        return whole.sample(n_curves, self.n_steps, 0, seed=seed, device=device).y_context

    def acceptance(self, n_candidates: int = 1_000_000, *, seed: int = 0) -> float:
        """Acceptance probability of a candidate, estimated from that many candidates."""
        n_chunks = -(-n_candidates // CHUNK)
        with seeded(seed), torch.no_grad():
            accepted = sum(len(self._candidates(CHUNK)["noise"]) for _ in range(n_chunks))
        return accepted / (n_chunks * CHUNK)

    def _sites(self) -> dict[str, ParameterPrior]:
        """The distribution of every latent."""
        sites: dict[str, ParameterPrior] = {"noise": (dist.LogNormal, *self.noise)}
        if self.discrepancy is not None:
            sites["discrepancy"] = (dist.LogNormal, *self.discrepancy)
            sites["length"] = (dist.LogNormal, *self.length)
        for name, family in self.families.items():
            sites[f"{name}_weight"] = (dist.Uniform, 0.0, self.weights[name])
            sites |= {f"{name}_{key}": prior for key, prior in family.priors.items()}
        return sites

    def _grid(self, like: Tensor) -> Tensor:
        return torch.arange(1, self.n_steps + 1, dtype=like.dtype, device=like.device)

    def _candidates(self, n: int) -> dict[str, Tensor]:
        """The accepted ones among n draws of the latents."""
        latents = {name: make(*at).sample((n,)) for name, (make, *at) in self._sites().items()}
        grid = self._grid(latents["noise"])
        for steps in (grid[[0, -1]], grid):
            left = self.accepts(self.curve(steps, latents)).nonzero()[:, 0]
            latents = {name: value[left] for name, value in latents.items()}
        return latents

    def _accepted(self, n: int) -> dict[str, Tensor]:
        """Latents of n accepted curves, each ``(n,)``."""
        parts, found, tried = [], 0, 0
        while found < n:
            # About one candidate in ten is accepted, so many are drawn for a training batch.
            size = min(CHUNK, max(256, 16 * (n - found)))
            parts.append(self._candidates(size))
            found, tried = found + len(parts[-1]["noise"]), tried + size
            if not found and tried > PATIENCE:
                raise ValueError(
                    f"Expected a prior that accepts some curves; got none of {tried} candidates. "
                    "Choose other families, or smaller weights."
                )
        return {name: torch.cat([part[name] for part in parts])[:n] for name in parts[0]}

    def _layout(self, n_tasks: int, n_context: int, n_query: int) -> Tensor:
        """Steps of the context, then of the queries, ``(n_tasks, n_context + n_query)``."""
        last, regular = self.n_steps, torch.rand(n_tasks, 1) < self.regular
        seen = torch.where(regular, float(n_context), 1 + (last - 1) * torch.rand(n_tasks, 1))
        in_log = torch.rand(n_tasks, 1) < 0.5
        u = torch.rand(n_tasks, n_context)
        irregular = torch.where(in_log, seen.clamp_min(1.0) ** u, 1 + (seen - 1) * u)
        context = torch.where(regular, torch.arange(1.0, n_context + 1), irregular)
        # An integer step k of a regular curve is drawn as a real number from k - 1 to k.
        anywhere = torch.rand(n_tasks, n_query) < WITHIN
        begin = torch.where(anywhere, torch.where(regular, 0.0, 1.0), seen.clamp_max(last - 1.0))
        v = torch.rand(n_tasks, n_query)
        asked = torch.where(
            in_log & ~regular,
            begin.clamp_min(1.0) * (last / begin.clamp_min(1.0)) ** v,
            begin + (last - begin) * v,
        )
        asked = torch.where(regular, asked.floor() + 1, asked).clamp_max(last)
        return torch.cat((context, asked), dim=1)

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        if n_context > self.n_steps:
            raise ValueError(
                f"Expected n_context of at most n_steps={self.n_steps}; got {n_context}."
            )
        latents = self._accepted(n_tasks)
        steps = self._layout(n_tasks, n_context, n_query)
        x = self.features(steps)
        y = self.curve(steps, latents) + latents["noise"].unsqueeze(-1) * torch.randn(steps.shape)
        if self.discrepancy is not None:
            off = ornstein_uhlenbeck_path(x[..., 0], latents["length"].unsqueeze(-1))
            y = y + latents["discrepancy"].unsqueeze(-1) * off
        return split(x, y, n_context, latents)


def ornstein_uhlenbeck_path(
    x: Float[Tensor, "*batch n"], length: Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch n"]:
    r"""Paths of an Ornstein-Uhlenbeck process with variance 1 at points x in any order.

    The process is a time-changed Brownian motion, :math:`e^{-x/\ell} W(e^{2x/\ell})`.
    """
    ordered, order = (x / length).double().clamp_max(300.0).sort(-1)
    time = (2 * ordered).exp()
    steps = time.diff(dim=-1, prepend=torch.zeros_like(time[..., :1]))
    path = (-ordered).exp() * (steps.sqrt() * torch.randn_like(time)).cumsum(-1)
    return path.gather(-1, order.argsort(-1)).to(x)
