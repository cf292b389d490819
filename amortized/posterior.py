"""The answer of every inference method: the posterior of the latents, in their own units."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Distribution

from amortized.gaussian_mixture import GaussianMixture
from amortized.sampling.convergence import replicate_ess
from amortized.sampling.modes import find_modes
from amortized.sampling.precision import precision

Latents = Mapping[str, Tensor]


class Posterior:
    """Draws of the latents given one dataset, or given each dataset of a batch.

    The draws may be weighted. Then everything here uses the weights, and the bare draws cannot be
    had without them.

    Args:
        draws: ``{name: (n, *batch, *event)}``, batch being empty for one dataset. None at all
            where the model leaves nothing to infer but its evidence and its predictive.
        log_weights: of the draws, ``(n, *batch)``; None for equal weights.
        n_chains: number of chains that the draws are made of, chain after chain.
        cluster: draws with equal labels depend on each other, ``(n, *batch)`` integers, such as the
            first ancestor of a particle; None where they depend along chains.
        log_evidence: ``log p(y | x)``, ``(*batch,)``, where the method knows it.
        log_evidence_error: its Monte Carlo standard error, 0 where it is exact; None if unknown.
        log_prob: normalised log density of latents, where the method knows it.
        mixture: the posterior over unconstrained space, of the batch's shape, where the method
            answers by a Gaussian mixture.
        predictive: makes the posterior predictive from inputs.
        diagnostics: what the method says of itself; always has ``method``.

    Attributes:
        diagnostics: a dictionary; ``method``, ``seconds``, and what the method measured, such as
            ``r_hat``, ``ess``, ``divergences`` or ``k_hat``.
        mixture: as given. As ``latent_prior`` of the next call, the posterior of these data is the
            prior of further ones.

    Example:
        >>> import torch
        >>> posterior = Posterior({"mu": torch.randn(1000)}, diagnostics={"method": "exact"})
        >>> posterior.sample(5)["mu"].shape
        torch.Size([5])
    """

    def __init__(
        self,
        draws: Latents,
        *,
        log_weights: Tensor | None = None,
        n_chains: int = 1,
        cluster: Tensor | None = None,
        log_evidence: Tensor | None = None,
        log_evidence_error: Tensor | None = None,
        log_prob: Callable[[Latents], Tensor] | None = None,
        mixture: GaussianMixture | None = None,
        predictive: Callable[[Any], Distribution] | None = None,
        diagnostics: Mapping[str, Any] | None = None,
        batch_shape: Sequence[int] = (),
    ) -> None:
        sizes = {len(value) for value in draws.values()} or {1}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"Expected the same number of draws, at least 1; got {sizes}.")
        self._draws = dict(draws)
        self.n_draws = sizes.pop()
        self.batch_shape = torch.Size(batch_shape)
        if log_weights is not None:
            log_weights = log_weights - log_weights.logsumexp(0)
        self._log_weights = log_weights
        self.n_chains, self._cluster = n_chains, cluster
        self.log_evidence, self.log_evidence_error = log_evidence, log_evidence_error
        self._log_prob, self._predictive, self.mixture = log_prob, predictive, mixture
        self.diagnostics = dict(diagnostics or {})
        self.updater: Callable[..., Posterior] | None = None  # set by `infer`

    @property
    def names(self) -> list[str]:
        """Names of the latents."""
        return list(self._draws)

    @property
    def log_weights(self) -> Tensor:
        """Normalised log weights of the draws, ``(n, *batch)``; equal ones where none are kept."""
        if self._log_weights is None:
            dtype = next((value.dtype for value in self._draws.values()), torch.float64)
            size = torch.tensor(float(self.n_draws), dtype=dtype)
            return -size.log().expand(self.n_draws, *self.batch_shape)
        return self._log_weights

    @property
    def draws(self) -> dict[str, Tensor]:
        """All draws, ``{name: (n, *batch, *event)}``, if they are equally weighted.

        Raises:
            ValueError: if they are not: then ``sample(n)`` gives equally weighted ones.
        """
        if self._log_weights is not None:
            raise ValueError(
                "Expected equally weighted draws; these have weights that must not be forgotten. "
                "Use sample(n), or weighted_draws() with the weights beside them."
            )
        return dict(self._draws)

    def weighted_draws(self) -> tuple[dict[str, Tensor], Tensor]:
        """All draws and their normalised log weights."""
        return dict(self._draws), self.log_weights

    def sample(self, n: int, seed: int | None = None) -> dict[str, Tensor]:
        """Equally weighted draws, ``{name: (n, *batch, *event)}``, chosen among those there are.

        Args:
            n: how many.
            seed: for a repeatable choice; None uses torch's global generator.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        if self._log_weights is None and n <= self.n_draws:
            index = torch.randperm(self.n_draws, generator=generator)[:n]
            return {name: value[index] for name, value in self._draws.items()}
        weights = self.log_weights.exp().flatten(1) if self.batch_shape else self.log_weights.exp()
        weights = weights.movedim(0, -1)
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
        chosen = chosen.movedim(-1, 0)
        chosen = chosen.reshape(n, *self.batch_shape)
        return {
            name: value.gather(0, self._over_event(chosen, value))
            for name, value in self._draws.items()
        }

    @property
    def mean(self) -> dict[str, Tensor]:
        """Posterior mean of each latent, ``(*batch, *event)``."""
        return {name: self._average(value) for name, value in self._draws.items()}

    @property
    def std(self) -> dict[str, Tensor]:
        """Posterior standard deviation of each latent, ``(*batch, *event)``."""
        return {
            name: self._average((value - self._average(value)).square()).sqrt()
            for name, value in self._draws.items()
        }

    def quantile(self, q: float) -> dict[str, Tensor]:
        """Posterior quantile of each latent, ``(*batch, *event)``."""
        if not 0 <= q <= 1:
            raise ValueError(f"Expected a quantile between 0 and 1; got {q}.")
        if self._log_weights is None:
            return {name: value.quantile(q, dim=0) for name, value in self._draws.items()}
        result = {}
        for name, value in self._draws.items():
            ordered, order = value.sort(0)
            weights = self._over_event(self.log_weights.exp(), value).gather(0, order).cumsum(0)
            index = (weights < q).sum(0, keepdim=True).clamp(max=self.n_draws - 1)
            result[name] = ordered.gather(0, index).squeeze(0)
        return result

    def log_prob(self, latents: Latents) -> Tensor:
        """Normalised log density of latents ``{name: (..., *batch, *event)}``, in their units."""
        if self._log_prob is None:
            raise ValueError(
                "Expected a method that knows the normalised density; got "
                f"{self.diagnostics.get('method')!r}. Use 'exact', 'smc' or 'laplace'."
            )
        return self._log_prob(latents)

    def predictive(self, x: Tensor | ArrayLike) -> Distribution:
        """Posterior predictive of the answers at new inputs, ``(*batch, m)``.

        Args:
            x: inputs, ``(*batch, m, features)``, of any kind that `amortized.infer.infer` takes.
        """
        if self._predictive is None:
            raise ValueError(
                "Expected a posterior made from a program; this one has no predictive."
            )
        return self._predictive(x)

    def update(
        self, x: Any, y: Any = None, *, n_draws: int | None = None, seed: int = 0
    ) -> "Posterior":
        """The posterior given further rows too, for any program with a density.

        All rows are kept: the draws are of the posterior of all of them, found from the present
        draws, which few further rows change little. Where rows cannot be kept, or there is a
        network for the program, see `amortized.infer.streaming.update`.

        Args:
            x: inputs of the new rows, as for `amortized.infer.infer`; their observations where
                ``y`` is not given.
            y: their observations.
            n_draws: draws of the answer; None for as many as there are now.
            seed: equal seeds give equal draws.
        """
        if self.updater is None:
            raise ValueError(
                "Expected a posterior that `infer` gave for a program; this one does not know its "
                "program and rows. Call infer with all rows."
            )
        return self.updater(self, x, y, self.n_draws if n_draws is None else n_draws, seed)

    def mode_shares(self, seed: int = 0) -> list[Any]:
        """How the draws divide into separate modes; see `amortized.sampling.modes.find_modes`.

        Where a sampler found several, moves seldom lead from one to another, and the shares are
        less certain than a mean within one of them.

        Returns:
            for each mode, the largest first, its ``share`` and the ``mean`` of each latent there;
            for a batch a list of such lists, one a dataset.
        """
        draws = self._draws if self._log_weights is None else self.sample(self.n_draws, seed)
        if not draws:
            raise ValueError("Expected latents to divide into modes; this posterior has none.")
        many = bool(self.batch_shape)
        shares = [
            _modes({k: (v.flatten(1, n_batch)[:, i] if many else v) for k, v in draws.items()})
            for n_batch in [len(self.batch_shape)]
            for i in range(self.batch_shape.numel())
        ]
        return shares if many else shares[0]

    def replicate_ess(self) -> dict[str, Tensor]:
        r"""Effective draws for each latent's mean, ``(*event)``, where the batch is one dataset.

        :math:`\mathrm{Var}(\theta \mid y) / \mathrm{Var}(\bar\theta)` over the runs that a batch
        of equal datasets is: a check of the effective number that one run states. With b copies it
        is known to about ``sqrt(2 / b)``.

        Raises:
            ValueError: for fewer than 8 datasets. That they are equal is for the caller to see to.

        Example:
            >>> import torch
            >>> runs = Posterior({"mu": torch.randn(100, 400)}, batch_shape=(400,))
            >>> 75 < runs.replicate_ess()["mu"] < 125
            tensor(True)
        """
        if self.batch_shape.numel() < 8:
            raise ValueError(
                "Expected a batch of at least 8 copies of one dataset, such as x.expand(32, -1, "
                f"-1); got a batch of shape {tuple(self.batch_shape)}."
            )
        n_batch, mean, std = len(self.batch_shape), self.mean, self.std
        ess = {}
        for name in self.names:
            means = mean[name].flatten(0, n_batch - 1)
            variances = std[name].flatten(0, n_batch - 1).square()
            ess[name] = replicate_ess(means, variances.mean(0) + means.var(0))
        return ess

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean, sd, quantiles and their precision, of every scalar latent.

        ``ess_bulk`` and ``ess_tail`` are effective numbers of draws, ``mcse_mean`` and ``mcse_sd``
        the standard errors of the mean and the standard deviation, ``r_hat`` compares chains or
        groups of draws; see `amortized.sampling.precision`. Weighted draws have no ``r_hat``.

        One entry a scalar, named as in ``"weights[0]"``; for a batch the dataset comes first.
        """
        rows: dict[str, dict[str, float]] = {}
        mean, std = self.mean, self.std
        quantiles = {q: self.quantile(q) for q in (0.05, 0.5, 0.95)}
        for name, value in self._draws.items():
            checks = self._precision(value)
            for at in product(*map(range, value.shape[1:])):
                label = f"{name}[{', '.join(map(str, at))}]" if at else name
                rows[label] = {"mean": mean[name][at].item(), "sd": std[name][at].item()}
                rows[label] |= {f"q{q:.0%}"[:-1]: v[name][at].item() for q, v in quantiles.items()}
                rows[label] |= {key: check[at].item() for key, check in checks.items()}
        return rows

    def to_inference_data(self) -> Any:
        """The draws as ArviZ's own object, weighted ones resampled; needs ``amortized[arviz]``."""
        try:
            import arviz
        except ImportError as reason:
            raise ImportError("Expected ArviZ; install it with amortized[arviz].") from reason
        draws = self._draws if self._log_weights is None else self.sample(self.n_draws, seed=0)
        arrays = {
            name: value.unflatten(0, (self.n_chains, -1)).detach().cpu().numpy()
            for name, value in draws.items()
        }
        if int(arviz.__version__.split(".")[0]) >= 1:
            return arviz.from_dict({"posterior": arrays})
        return arviz.from_dict(posterior=arrays)

    def plot(self) -> Any:
        """A histogram of every scalar latent with its mean and 90% interval, as a figure."""
        from matplotlib.figure import Figure

        from amortized.plotting import plain_text

        if not self._draws:
            raise ValueError("Expected latents to plot; this posterior has none.")
        draws = self.sample(self.n_draws, seed=0)
        rows = self.summary()
        flat = {name: value.reshape(self.n_draws, -1) for name, value in draws.items()}
        columns = [column for value in flat.values() for column in value.T]
        n_columns = min(4, len(columns))
        n_rows = -(-len(columns) // n_columns)
        figure = Figure(figsize=(3 * n_columns, 2.2 * n_rows), layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axis, (label, row), column in zip(axes, rows.items(), columns, strict=False):
            axis.hist(column.detach().cpu().numpy(), bins=40, density=True, color="C0", alpha=0.6)
            axis.axvline(row["mean"], color="C1")
            axis.axvspan(row["q5"], row["q95"], color="C0", alpha=0.12)
            plain_text([axis.set_title(label, fontsize=9)])
            axis.set_yticks([])
        for axis in axes[len(columns) :]:
            axis.remove()
        return figure

    def __repr__(self) -> str:
        rows = self.summary() if not self.batch_shape else {}
        head = f"Posterior({self.diagnostics.get('method')}, {self.n_draws} draws of {self.names}"
        head += f", batch {tuple(self.batch_shape)})" if self.batch_shape else ")"
        if not rows:
            return head
        columns = list(next(iter(rows.values())))
        lines = [f"{'':>20}" + "".join(f"{column:>10}" for column in columns)]
        for label, row in list(rows.items())[:40]:
            lines.append(f"{label:>20}" + "".join(f"{row[c]:>10.4g}" for c in columns))
        return "\n".join([head, *lines])

    def _over_event(self, per_draw: Tensor, value: Tensor) -> Tensor:
        """Spreads ``(n, *batch)`` over the event of ``(n', *batch, *event)``."""
        missing = value.ndim - per_draw.ndim
        shape = per_draw.shape + (1,) * missing
        return per_draw.reshape(shape).expand(per_draw.shape + value.shape[per_draw.ndim :])

    def _average(self, value: Tensor) -> Tensor:
        return (self._over_event(self.log_weights.exp(), value) * value).sum(0)

    def _precision(self, value: Tensor) -> dict[str, Tensor]:
        """Of one latent's draws ``(n, *batch, *event)``, each ``(*batch, *event)``."""
        if self.n_draws // self.n_chains < 4:
            return {}
        n_datasets = self.batch_shape.numel()

        def rows(per_draw: Tensor | None) -> Tensor | None:
            return None if per_draw is None else per_draw.reshape(self.n_draws, n_datasets).T

        of = precision(
            value.detach().reshape(self.n_draws, n_datasets, -1).movedim(0, 1),
            rows(self._log_weights),
            self.n_chains,
            rows(self._cluster),
        )
        found = {name: part.reshape(value.shape[1:]) for name, part in of._asdict().items()}
        if self._log_weights is not None:
            del found["r_hat"]
        return found


def _modes(draws: Latents) -> list[dict[str, Any]]:
    """The modes of one dataset's draws, ``{name: (n, *event)}``."""
    columns = torch.cat([value.reshape(len(value), -1) for value in draws.values()], -1)
    modes = find_modes(columns.detach().cpu().double().numpy())
    labels = torch.as_tensor(modes.labels, device=columns.device)
    return [
        {
            "share": float(share),
            "mean": {name: value[labels == i].mean(0) for name, value in draws.items()},
        }
        for i, share in enumerate(modes.shares)
    ]
