r"""Training tasks for networks conditioned on the latent prior: a prior, latents, and data.

.. math:: \phi \sim \mathrm{hyperprior}, \quad u \sim p_\phi, \quad y \sim p(y \mid b(u), x)

Any Pyro program with continuous latents can be used, including a simulator whose observation has no
density. Only the program's likelihood enters the tasks; its own prior sets the units of the latents
and is one of the priors drawn.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.exchangeability import rows_are_exchangeable
from amortized.latent_priors.fitting import fit_draws
from amortized.latent_priors.hyperprior import Hyperprior
from amortized.priors.program_prior import ProgramPrior
from amortized.program.density import ProgramDensity
from amortized.program.likelihood_summary import LikelihoodSummary
from amortized.program.simulation import ProgramSimulator
from amortized.program.vectorised import precision
from amortized.seeding import seeded
from amortized.validation import number_between

_N_DRAWS = 4096
_ROUNDING = 0.01  # nats of log-likelihood curvature over the last digit of the targets


@dataclass(frozen=True)
class LatentTaskBatch:
    """A batch of inference tasks: inputs of a network, and the latents to be inferred.

    Attributes:
        latent_prior: prior over u, one mixture per task.
        u: the latents in unconstrained space, drawn from the prior; networks must not read them.
        observations: rows of each observed channel, ``{name: (batch, rows, width)}``.
        masks: False marks padding rows, ``{name: (batch, rows)}``.
        summary: the likelihood summary, if the program has one.
        density: the program's density for these observations, if u are posterior draws under it;
            networks must not read it, but a loss may.

    Raises:
        ValueError: if the parts differ in their batch.
    """

    latent_prior: GaussianMixture
    u: Float[Tensor, "batch dim"]
    observations: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    summary: LikelihoodSummary | None = None
    density: ProgramDensity | None = None

    def __post_init__(self) -> None:
        n = self.u.shape[:1]
        sizes = {self.latent_prior.batch_shape, *(v.shape[:1] for v in self.observations.values())}
        if sizes - {n}:
            raise ValueError(
                f"Expected a latent prior and observations for {n[0]} tasks; got batches "
                f"{sorted(map(tuple, sizes))}."
            )

    @property
    def n_tasks(self) -> int:
        return self.u.shape[0]

    def to(self, device: torch.device | str) -> "LatentTaskBatch":
        """The same batch on another device."""
        summary, density = self.summary, self.density
        return LatentTaskBatch(
            self.latent_prior.to(device),
            self.u.to(device),
            {name: value.to(device) for name, value in self.observations.items()},
            {name: value.to(device) for name, value in self.masks.items()},
            None if summary is None else LikelihoodSummary(*(t.to(device) for t in summary)),
            None
            if density is None
            else density.of_data(density.x.to(device), density.y.to(device)),
        )


def posterior_draws(
    answer: GaussianMixture, batch: LatentTaskBatch, n_draws: int
) -> tuple[Float[Tensor, "draws batch dim"], Float[Tensor, "draws batch"]]:
    r"""Weighted draws whose weighted mean is unbiased for the exact posterior mean.

    The latents of a task are one draw from its posterior p. They are combined with draws from an
    approximation q, each with its importance weight,

    .. math:: w_k = p(u_k, D) / q(u_k), \quad \bar w_k = w_k / \textstyle\sum_j w_j.

    Choosing one of all these draws by weight leaves p invariant, so :math:`E \sum_k \bar w_k f(u_k)
    = E_p f` for any q. If q is a poor approximation, the one exact draw has nearly all the weight.

    Args:
        answer: q, of batch shape ``(batch,)``.
        batch: tasks with a density.
        n_draws: number of draws from q; the task's own latents precede them.

    Returns:
        the draws and their log weights; for a task without usable data its own latents only.

    References:
        | Uniform Ergodicity of the Iterated Conditional SMC and Geometric Ergodicity of Particle
        | Gibbs Samplers (Andrieu, Lee & Vihola, 2018), arXiv:1312.6432
    """
    if batch.density is None:
        raise ValueError("Expected tasks of a program with a density; got a simulator's.")
    with torch.no_grad():
        u = torch.cat((batch.u.unsqueeze(0), answer.sample((n_draws,)).to(batch.u)))
        log_likelihood = batch.density.log_likelihood(u.transpose(0, 1)).T
        log_weights = batch.latent_prior.log_prob(u) + log_likelihood - answer.log_prob(u)
        log_weights = torch.where(log_weights.isfinite(), log_weights, -torch.inf)
        usable = torch.stack([mask.all(-1) for mask in batch.masks.values()]).all(0)
        usable &= log_weights[0].isfinite()
        alone = torch.eye(len(u), 1, dtype=u.dtype, device=u.device).log()
        return u, torch.where(usable, log_weights, alone)


class LatentTasks:
    """Draws inference tasks of a program under latent priors from a hyperprior.

    The only channel, "data", has rows ``(x, y)``. If a program defines
    ``likelihood_summary(x, y, mask)``, which returns a `LikelihoodSummary`, the summary is part of
    every task. If it defines ``ordered = n``, a dataset always has the same n rows, such as a time
    series, which are read in order.

    Args:
        prior: the program and its inputs.
        hyperprior: distribution of the latent priors.
        location: centre of the latents in unconstrained space; None uses the mean of the
            program's own prior.
        scale: unit of the latents there; None uses half the standard deviation of the program's
            own prior, so that the hyperprior covers about two of these on each side.
        wrong_prior: share of tasks whose latents come from a prior five times as wide as the one
            the network sees, which teaches it to discount a prior that the data contradict.
        n_rows: number of rows of every dataset; None if it varies. It becomes ``ordered`` if the
            program's rows are not exchangeable.

    Raises:
        ValueError: if an argument is invalid, or if the order of the rows matters and their
            number is not known.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def line(x, y=None):
        ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("y", dist.Normal(slope * x[:, 0], 0.1).to_event(1), obs=y)
        >>> batch = LatentTasks(ProgramPrior(line, inputs=1)).sample(4, 10, seed=0)
        >>> batch.u.shape, batch.observations["data"].shape
        (torch.Size([4, 1]), torch.Size([4, 10, 2]))
    """

    def __init__(
        self,
        prior: ProgramPrior,
        hyperprior: Hyperprior | None = None,
        *,
        location: Tensor | None = None,
        scale: Tensor | None = None,
        wrong_prior: float = 0.0,
        n_rows: int | None = None,
    ) -> None:
        if not isinstance(prior, ProgramPrior):
            raise ValueError(
                f"Expected a ProgramPrior, whose program can be run at given latents; got "
                f"{type(prior).__name__}. Wrap a Pyro program: ProgramPrior(model, inputs)."
            )
        number_between("wrong_prior", wrong_prior, 0, 1, least=True)
        self.prior, self.hyperprior = prior, hyperprior or Hyperprior()
        self.wrong_prior = wrong_prior
        self.ordered = _ordered(prior, n_rows)
        with precision(torch.float32), seeded(0), torch.no_grad():
            self._x = prior._inputs(_N_DRAWS, self.ordered or 2)
            self.simulator = ProgramSimulator(prior.model, self._x[0])
            draws = self.simulator.sample_prior(self._x)
        self.own = fit_draws(draws, self.hyperprior.n_components)
        self.location = draws.mean(0) if location is None else location.to(draws)
        self.scale = draws.std(0) / 2 if scale is None else scale.to(draws)
        if {tuple(self.location.shape), tuple(self.scale.shape)} != {(self.dim,)}:
            raise ValueError(
                f"Expected location and scale with {self.dim} latents; got "
                f"{tuple(self.location.shape)} and {tuple(self.scale.shape)}."
            )
        if not bool((self.scale > 0).all()):
            raise ValueError("Expected scale > 0 for every latent.")

    @property
    def dim(self) -> int:
        """Number of unconstrained latents."""
        return self.simulator.dim

    @property
    def names(self) -> list[str]:
        """Names of the latents, in the order of u."""
        return list(self.simulator.layout)

    @cached_property
    def row_moments(self) -> tuple[Tensor, Tensor]:
        """Median and spread of the columns of a row ``(x, y)``, used to standardise inputs."""
        batch = self.sample(_N_DRAWS, self.ordered or 2, seed=0)
        rows = batch.observations["data"]
        rows = rows.flatten(0, 1) if not self.ordered else rows
        low, middle, high = rows.quantile(torch.tensor([0.16, 0.5, 0.84]), dim=0)
        return middle, torch.where(high > low, (high - low) / 2, 1.0)

    @cached_property
    def reach(self) -> tuple[float, float, float, float]:
        """The training range of the tasks.

        Returns:
            the most distant mean and the smallest and largest standard deviation of a latent prior,
            in units of the location and the scale; and the largest number in a row, in units of
            `row_moments`.
        """
        batch = self.sample(_N_DRAWS, self.ordered or 2, seed=1)
        mean = (batch.latent_prior.mean - self.location) / self.scale
        sd = batch.latent_prior.stddev / self.scale
        centre, spread = self.row_moments
        rows = batch.observations["data"]
        rows = ((rows - centre) / spread).abs()
        farthest, largest = float(mean.abs().max()), float(rows.max())
        return farthest, float(sd.min()), float(sd.max()), largest

    @cached_property
    def n_sketch(self) -> int:
        """Number of rows of the program's likelihood summary; 0 if it has none."""
        summary = self.sample(2, self.ordered or 2, seed=0).summary
        return 0 if summary is None else summary.value.shape[-1]

    def sample(
        self,
        n_tasks: int,
        n_context: int,
        n_query: int = 0,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> LatentTaskBatch:
        """Draws tasks; the result depends on the arguments only.

        Args:
            n_tasks: tasks in the batch.
            n_context: rows of each dataset.
            n_query: ignored: the latents are to be inferred, not queries.
            seed: equal seeds give equal tasks on the same kind of device.
            device: device on which the tasks are drawn and returned.
        """
        if self.ordered and n_context != self.ordered:
            raise ValueError(f"Expected n_context = {self.ordered}; got {n_context}.")
        device = torch.device(device)
        with precision(torch.float32), seeded(seed), torch.no_grad(), device:
            latent_prior = self.hyperprior.sample(
                self.location.to(device), self.scale.to(device), n_tasks, self.own.to(device)
            )
            u = self._draw_latents(latent_prior)
            x = self.prior._inputs(n_tasks, n_context)
            _, y = self.simulator(u, x)
            batch = self.task(latent_prior, u, x, y, self._resolved(u, x, y))
            if self._density is None:
                return batch
            rows = batch.observations["data"]
            return replace(batch, density=self._density.of_data(x, rows[..., -1]))

    @cached_property
    def _density(self) -> ProgramDensity | None:
        """The program's density; None for a simulator, or if latents come from a wrong prior."""
        if self.wrong_prior:
            return None
        x = self.prior._inputs(1, self.ordered or 2)
        _, y = self.simulator(self.location.unsqueeze(0), x)
        density = ProgramDensity(self.prior.model, x, y, allow_simulator=True)
        return None if density.is_simulator else density

    def _resolved(self, u: Tensor, x: Tensor, y: Tensor) -> Bool[Tensor, "batch n"]:
        """Whether targets rounded to float32 are still consistent with these latents.

        They are not if the noise is below rounding error. The test is the curvature of the log
        likelihood over the last digit, which does not depend on the residuals: for n targets with
        normal noise it is n times the squared ratio of digit to noise. Counts are not rounded.
        """
        usable = y[y.isfinite()]
        if self._density is None or bool((usable == usable.round()).all()):
            return torch.ones_like(y, dtype=torch.bool)
        x, y, u = x.double(), y.double(), u.double().unsqueeze(1)
        digit = torch.nextafter(y.abs().float(), torch.tensor(math.inf)) - y.abs()
        below, at, above = (
            self._density.of_data(x, answers).log_likelihood(u)
            for answers in (y - digit, y, y + digit)
        )
        # At the boundary of the support one neighbour is impossible and gives no curvature.
        below, above = (torch.where(each.isfinite(), each, at) for each in (below, above))
        return ((below + above - 2 * at).abs() <= _ROUNDING).expand_as(y)

    def _draw_latents(self, latent_prior: GaussianMixture) -> Tensor:
        u = latent_prior.sample()
        if not self.wrong_prior:
            return u
        wide = GaussianMixture(
            latent_prior.log_weights, latent_prior.means, 5 * latent_prior.scale_tril, False
        )
        wrong = torch.rand(len(u), 1, device=u.device) < self.wrong_prior
        return torch.where(wrong, wide.sample(), u)

    def task(
        self,
        latent_prior: GaussianMixture,
        u: Float[Tensor, "batch dim"],
        x: Float[Tensor, "batch n features"],
        y: Float[Tensor, "batch n"],
        mask: Bool[Tensor, "batch n"] | None = None,
    ) -> LatentTaskBatch:
        """Builds a batch from data, simulated or real; u is arbitrary if it is not known."""
        mask = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
        # A program may overflow far out in a wide prior: such a dataset counts as unobserved.
        usable = y.where(mask, 0.0).isfinite().all(-1, keepdim=True)
        mask, y = mask & usable, y.where(mask & usable, 0.0)
        summarise = getattr(self.prior, "likelihood_summary", None)
        summary = None if summarise is None else summarise(x, y, mask)
        rows = torch.cat([x, y.unsqueeze(-1)], -1)
        return LatentTaskBatch(latent_prior, u, {"data": rows}, {"data": mask}, summary)


def _ordered(prior: ProgramPrior, n_rows: int | None) -> int:
    """Number of rows if they are to be read in order; 0 if they form a set."""
    if hasattr(prior, "ordered"):
        return int(prior.ordered)
    if rows_are_exchangeable(prior, n_rows):
        return 0
    if n_rows is None:
        raise ValueError(
            "Expected exchangeable rows, or a fixed number of them; got a program whose rows are "
            "not exchangeable. Train with n_context=(n, n) or set ordered = n on the prior, and "
            "the n rows are read in order; or include the position as a feature in x. Set "
            "ordered = 0 on the prior to ignore the order."
        )
    return n_rows
