r"""The Distribution Transformer: from a latent prior and data to the posterior of the latents.

Prior and posterior are Gaussian mixtures over u, the latents in unconstrained space. Minimising
:math:`-\log q(u \mid D, p)` over priors p from a hyperprior, latents u from p and data D moves q
towards the posterior for all priors and datasets simultaneously. There are four steps:

1. The prior is split into K distinct components and whitened by its own mean and Cholesky factor,
   so that the network is equivariant to shifts and scalings of the prior.
2. Data rows and one summary token attend to each other; the order of rows does not matter.
3. The summary gives a Gaussian approximation of the likelihood, :math:`z = H u + e`, and the prior
   is updated by it in closed form. Most of the effect of the prior is this closed form and need not
   be learned. A program's own `LikelihoodSummary` is used here as well.
4. The components before and after the update are tokens. They attend to each other and to the data,
   and a head that is initialised to zero corrects the weights, and the means and factors in units
   of each component's own factor (above ten latents in four directions and along the diagonal).
   Without data the output is the prior itself.

References:
    | Distribution Transformers: Fast Approximate Bayesian Inference With On-The-Fly Prior
    | Adaptation (Whittle et al., 2025), arXiv:2502.02463, without step 3, whitening and residual.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.reduction import merge, split_components
from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks, posterior_draws
from amortized.networks.calibration import Calibration
from amortized.networks.dt_config import DistributionTransformerConfig
from amortized.networks.layers.blocks import Block, Norm
from amortized.networks.layers.triangular import described, n_answered, n_read, triangular
from amortized.networks.observation_encoder import ObservationEncoder, mlp
from amortized.priors.program_prior import ProgramPrior
from amortized.program.likelihood_summary import LikelihoodSummary
from amortized.program.vectorised import precision
from amortized.seeding import seeded

_FAINT = -4.0  # initial log precision of the learned likelihood summary: almost no information


class DistributionTransformer(nn.Module):
    """Transformer from a Gaussian-mixture prior and observations to the posterior mixture.

    Args:
        config: size of the network and description of the problem; see `new`.

    Example:
        >>> import torch
        >>> config = DistributionTransformerConfig(d_model=16, n_layers=1, n_components=3, dim=2,
        ...     channels=("a", "b"), widths=(1, 2), lengths=(0, 0))
        >>> prior = GaussianMixture.from_moments(torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2))
        >>> network = DistributionTransformer(config)
        >>> posterior = network(prior, {"a": torch.randn(4, 10, 1)})  # b was not observed
        >>> posterior.batch_shape, posterior.n_components
        (torch.Size([4]), 3)
    """

    calibration: Calibration | None = None  # measured after training

    location: Tensor
    scale: Tensor

    def __init__(self, config: DistributionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        d, dim = config.d_model, config.dim
        n_factor = n_answered(dim)

        def layers(n: int) -> nn.ModuleList:
            return nn.ModuleList(Block(d, config.n_heads, config.d_hidden) for _ in range(n))

        self.register_buffer("location", torch.tensor(config.location or (0.0,) * dim))
        self.register_buffer("scale", torch.tensor(config.scale or (1.0,) * dim))
        self.encoder = ObservationEncoder(config, n_extra=2 * dim + 2 * n_read(dim))
        self.blocks = nn.ModuleDict(
            {
                "data": layers(config.n_data_layers * config.reads_rows),
                "components": layers(config.n_layers),
                "observations": layers(config.n_layers * config.reads_rows),
            }
        )
        self.sketch_norm, self.norm = Norm(d), Norm(d)
        self.sketch_head = nn.Linear(d, 2 * config.n_sketch + dim + n_factor)
        self.embed_component = mlp(2 * (1 + dim + n_read(dim)), d)
        self.embed_summary = nn.Linear(d, d)
        self.head = nn.Linear(d, 1 + dim + n_factor)
        for last in (self.sketch_head, self.head):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @classmethod
    def new(
        cls, prior: LatentTasks | ProgramPrior, config: DistributionTransformerConfig, seed: int = 0
    ) -> "DistributionTransformer":
        """Creates an untrained network whose inputs fit the tasks it will be trained on.

        Args:
            prior: draws the tasks; a bare `ProgramPrior` uses the default hyperprior.
            config: size of the network; the fields that depend on the problem are filled in.
            seed: seed of the weights.
        """
        tasks = prior if isinstance(prior, LatentTasks) else LatentTasks(prior)
        with precision(torch.float32), seeded(seed):
            return cls(config.fitted_to(tasks))

    def forward(
        self,
        latent_prior: GaussianMixture,
        observations: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        summary: LikelihoodSummary | None = None,
    ) -> GaussianMixture:
        """Computes the posterior of each task.

        Args:
            latent_prior: prior over u, of batch shape ``(batch,)``, or one mixture for all tasks.
            observations: rows of the channels, ``{name: (batch, rows, width)}``.
            masks: False marks padding rows, ``{name: (batch, rows)}``.
            summary: the program's likelihood summary, if the network was trained with one.

        Raises:
            ValueError: if the arguments do not fit the network, or an observation is not finite.
        """
        given = self._for_all(latent_prior, observations)
        summary = self._check_summary(summary, len(given.means))
        # Mixture densities are sums of small numbers and need more than half precision.
        with torch.autocast(given.means.device.type, enabled=False):
            prior = split_components(
                merge(given.to(torch.float32), self.config.n_components), self.config.n_components
            )
            mean, factor = prior.whitening()
            white = prior.whiten(mean, factor)
            white_summary = LikelihoodSummary(
                summary.value - (summary.matrix @ mean.unsqueeze(-1)).squeeze(-1),
                summary.matrix @ factor,
            )
            about_prior = torch.cat(
                (self._about_whitening(mean, factor), _about_summary(white_summary)), -1
            )
        tokens, mask, has_data = self.encoder(observations, masks, about_prior)
        for block in self._layers("data"):
            tokens, _ = block.among(tokens, mask)
        token = self.sketch_norm(tokens[:, 0])
        outputs = self.sketch_head(token).float()
        with torch.autocast(given.means.device.type, enabled=False):
            start = self._conjugate(white, white_summary, outputs, mean, factor)
            features = torch.cat((_features(white), _features(start)), -1)
        rows = self.embed_component(features) + self.embed_summary(token).unsqueeze(1)
        to_data = self._layers("observations")
        for i, block in enumerate(self._layers("components")):
            rows, _ = block.among(rows)
            if to_data:
                rows = to_data[i](rows, to_data[i].keys_values(tokens), mask)
        residual = self.head(self.norm(rows)).float()
        with torch.autocast(given.means.device.type, enabled=False):
            answer = self._corrected(start, residual).unwhiten(mean, factor)
            return _where(has_data, answer.to(given.means.dtype), given)

    def loss(self, batch: LatentTaskBatch) -> Tensor:
        """Mean negative log-likelihood of the latents; see `cross_entropy`."""
        posterior = self(batch.latent_prior, batch.observations, batch.masks, batch.summary)
        with torch.autocast(batch.u.device.type, enabled=False):
            return cross_entropy(posterior, batch).mean()

    def _layers(self, name: str) -> list[Block]:
        return [block for block in self.blocks[name].children() if isinstance(block, Block)]

    def _for_all(
        self, latent_prior: GaussianMixture, observations: Mapping[str, Tensor]
    ) -> GaussianMixture:
        """The validated latent prior, with one mixture per task."""
        if latent_prior.dim != self.config.dim or len(latent_prior.batch_shape) > 1:
            raise ValueError(
                f"Expected a latent prior over {self.config.dim} latents of batch shape (batch,); "
                f"got {latent_prior.dim} and {tuple(latent_prior.batch_shape)}."
            )
        sizes = {value.shape[0] for value in observations.values()}
        sizes |= set(latent_prior.batch_shape)
        if len(sizes) > 1 and sizes - {1} != set() and len(sizes - {1}) > 1:
            raise ValueError(
                f"Expected a latent prior and observations of one batch; got batches {sizes}."
            )
        return latent_prior.expand((max(sizes, default=1),))

    def _check_summary(self, summary: LikelihoodSummary | None, n_tasks: int) -> LikelihoodSummary:
        n, dim = self.config.n_sketch, self.config.dim
        if summary is None and n == 0:
            empty = self.location.new_zeros(n_tasks, 0, dim)
            return LikelihoodSummary(empty[..., 0], empty)
        if summary is None or summary.matrix.shape != (n_tasks, n, dim):
            raise ValueError(
                f"Expected a likelihood summary with {n} rows, from the program's "
                f"likelihood_summary(x, y, mask); got "
                f"{None if summary is None else tuple(summary.matrix.shape)}."
            )
        return LikelihoodSummary(summary.value.float(), summary.matrix.float())

    def _about_whitening(self, mean: Tensor, factor: Tensor) -> Tensor:
        """Location and scale of the prior in reference units, by which the data are read."""
        mean = (mean - self.location) / self.scale
        return torch.cat((mean.asinh(), described(factor / self.scale.unsqueeze(-1))), -1)

    def _conjugate(
        self,
        white: GaussianMixture,
        summary: LikelihoodSummary,
        outputs: Tensor,
        mean: Tensor,
        factor: Tensor,
    ) -> GaussianMixture:
        """The whitened prior after exact updates by the program's and the learned summary."""
        n, dim = self.config.n_sketch, self.config.dim
        trust, shift, centre, tril = outputs.split((n, n, dim, n_answered(dim)), -1)
        trust = bounded(trust, 4.0).exp()
        # The learned summary describes (u - location) / scale, whatever the prior is.
        rows = triangular(tril, dim)
        rows = (bounded(rows.diagonal(dim1=-1, dim2=-2) + _FAINT, 8.0).exp()).unsqueeze(-1) * (
            rows.tril(-1) + torch.eye(dim).to(rows)
        )
        centre = centre - (mean - self.location) / self.scale
        value = torch.cat(
            (summary.value * trust + shift, (rows @ centre.unsqueeze(-1)).squeeze(-1)), -1
        )
        matrix = torch.cat(
            (summary.matrix * trust.unsqueeze(-1), rows @ (factor / self.scale.unsqueeze(-1))), -2
        )
        return white.update(value, matrix)[0]

    def _corrected(self, start: GaussianMixture, residual: Tensor) -> GaussianMixture:
        r""":math:`\log w + a`, :math:`\mu + L b` and :math:`L T`, with T the identity at zero."""
        dim = self.config.dim
        weight, shift, tril = residual.split((1, dim, n_answered(dim)), -1)
        tril = triangular(tril, dim)
        diagonal = bounded(tril.diagonal(dim1=-1, dim2=-2), 4.0).exp()
        turn = tril.tril(-1) + torch.diag_embed(diagonal)
        return GaussianMixture(
            start.log_weights + weight.squeeze(-1),
            start.means + (start.scale_tril @ shift.unsqueeze(-1)).squeeze(-1),
            start.scale_tril @ turn,
            validate_args=False,
        )


def cross_entropy(
    posterior: GaussianMixture, batch: LatentTaskBatch, n_draws: int = 15
) -> Float[Tensor, " batch"]:
    r"""Unbiased estimate of :math:`-E_{u \sim p(u \mid D)} \log q(u)` for each task.

    Uses `posterior_draws`. The mean score of the draws of q has expectation zero and is subtracted
    from the gradient as a control variate. As q approaches the posterior the weights become equal,
    and the variance of the gradient falls with the number of draws.

    Args:
        posterior: q, of batch shape ``(batch,)``.
        batch: the tasks that q answers.
        n_draws: number of draws from q.
    """
    if batch.density is None:
        return -posterior.log_prob(batch.u)
    u, log_weights = posterior_draws(posterior.map_tensors(torch.detach), batch, n_draws)
    log_q = posterior.log_prob(u)
    score = log_q[1:].mean(0) * n_draws / (n_draws + 1)
    return score - score.detach() - (log_weights.softmax(0) * log_q).sum(0)


def bounded(x: Tensor, limit: float) -> Tensor:
    """The identity near zero, bounded to (-limit, limit)."""
    return limit * torch.tanh(x / limit)


def _features(mixture: GaussianMixture) -> Float[Tensor, "batch k features"]:
    """Features of a component's token: log weight, mean and log-Cholesky factor."""
    log_weights = mixture.log_weights.clamp_min(-20.0).unsqueeze(-1)
    return torch.cat((log_weights, mixture.means.asinh(), described(mixture.scale_tril)), -1)


def _about_summary(summary: LikelihoodSummary) -> Tensor:
    """Mean and factor of the posterior given the summary and a standard normal prior."""
    n, dim = summary.matrix.shape[0], summary.matrix.shape[-1]
    eye = torch.eye(dim).to(summary.matrix).expand(n, dim, dim)
    posterior, _ = GaussianMixture.from_moments(eye[:, 0] * 0, eye).update(*summary)
    return torch.cat((posterior.means[:, 0].asinh(), described(posterior.scale_tril[:, 0])), -1)


def _where(has_data: Tensor, answer: GaussianMixture, given: GaussianMixture) -> GaussianMixture:
    """Selects the network's output for tasks with data, and the given prior for those without."""
    if bool(has_data.all()):
        return answer
    k = max(answer.n_components, given.n_components)

    def padded(mixture: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
        missing = k - mixture.n_components
        return (
            nn.functional.pad(mixture.log_weights, (0, missing), value=-torch.inf),
            torch.cat([mixture.means] + [mixture.means[:, :1]] * missing, 1),
            torch.cat([mixture.scale_tril] + [mixture.scale_tril[:, :1]] * missing, 1),
        )

    log_weights, means, factors = (
        torch.where(has_data.reshape(-1, *[1] * (a.ndim - 1)), a, b)
        for a, b in zip(padded(answer), padded(given), strict=True)
    )
    return GaussianMixture(log_weights, means, factors, validate_args=False)
