"""The result of every inference method: the posterior of the latents, in their own units."""

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

    The draws may be weighted. All methods then use the weights, and ``draws`` is not available.

    Args:
        draws: ``{name: (n, *batch, *event)}``, with an empty batch for one dataset. Empty if the
            model has no latents, only an evidence and a predictive.
        log_weights: of the draws, ``(n, *batch)``; None for equal weights.
        n_chains: number of chains that the draws consist of, one chain after another.
        cluster: integer labels ``(n, *batch)``, such as the first ancestor of a particle; draws
            with the same label are dependent. None if the dependence is along chains.
        log_evidence: ``log p(y | x)``, ``(*batch,)``, if the method provides it.
        log_evidence_error: its Monte Carlo standard error, 0 if exact; None if unknown.
        log_prob: normalised log density of latents, if the method provides it.
        mixture: the posterior in unconstrained space, of the batch's shape, if the method's answer
            is a Gaussian mixture.
        predictive: returns the posterior predictive at given inputs.
        diagnostics: diagnostics of the method; always includes ``method``.

    Attributes:
        diagnostics: a dictionary with ``method``, ``seconds`` and the measurements of the method,
            such as ``r_hat``, ``ess``, ``divergences`` or ``k_hat``.
        mixture: as given. Passed as ``latent_prior`` to the next call, it makes this posterior the
            prior for further data.

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

    @property
    def names(self) -> list[str]:
        """Names of the latents."""
        return list(self._draws)

    @property
    def log_weights(self) -> Tensor:
        """Normalised log weights of the draws, ``(n, *batch)``; equal if there are none."""
        if self._log_weights is None:
            dtype = next((value.dtype for value in self._draws.values()), torch.float64)
            size = torch.tensor(float(self.n_draws), dtype=dtype)
            return -size.log().expand(self.n_draws, *self.batch_shape)
        return self._log_weights

    @property
    def draws(self) -> dict[str, Tensor]:
        """All draws, ``{name: (n, *batch, *event)}``, for equally weighted draws.

        Raises:
            ValueError: if the draws are weighted; use ``sample(n)`` for equally weighted ones.
        """
        if self._log_weights is not None:
            raise ValueError(
                "Expected equally weighted draws; got weighted ones. Use sample(n), or "
                "weighted_draws() for the draws with their weights."
            )
        return dict(self._draws)

    def weighted_draws(self) -> tuple[dict[str, Tensor], Tensor]:
        """All draws and their normalised log weights."""
        return dict(self._draws), self.log_weights

    def sample(self, n: int, seed: int | None = None) -> dict[str, Tensor]:
        """Equally weighted draws, ``{name: (n, *batch, *event)}``, resampled from those here.

        Args:
            n: number of draws.
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
        """Posterior predictive of the targets at new inputs, ``(*batch, m)``.

        Args:
            x: inputs, ``(*batch, m, features)``, of any kind that `amortized.infer.infer` takes.
        """
        if self._predictive is None:
            raise ValueError(
                "Expected a posterior made from a program; this one has no predictive."
            )
        return self._predictive(x)

    def mode_shares(self, seed: int = 0) -> list[Any]:
        """Separates the draws into modes; see `amortized.sampling.modes.find_modes`.

        If a sampler found several modes, it rarely moves between them, so the shares are less
        precise than a mean within one mode.

        Returns:
            for each mode, largest first, its ``share`` and the ``mean`` of each latent in it; for a
            batch a list of such lists, one per dataset.
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
        r"""Effective sample size of each latent's mean, ``(*event)``, from replicated datasets.

        :math:`\mathrm{Var}(\theta \mid y) / \mathrm{Var}(\bar\theta)` over a batch of identical
        datasets, each of which is an independent run: a check of the effective sample size that one
        run reports. With b copies its relative error is about ``sqrt(2 / b)``.

        Raises:
            ValueError: for fewer than 8 datasets. The caller must ensure that they are identical.

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
        """Mean, standard deviation and quantiles of every scalar latent, with their precision.

        ``ess_bulk`` and ``ess_tail`` are effective sample sizes, ``mcse_mean`` and ``mcse_sd`` the
        standard errors of the mean and the standard deviation; ``r_hat`` compares chains or groups
        of draws; see `amortized.sampling.precision`. Weighted draws have no ``r_hat``.

        One entry per scalar, named like ``"weights[0]"``; for a batch the dataset index comes
        first.
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
        """Converts the draws to ArviZ's InferenceData, after resampling if they are weighted."""
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
        """Histograms of all scalar latents with their means and 90% intervals, as a figure."""
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
        """Broadcasts ``(n, *batch)`` over the event dimensions of ``(n', *batch, *event)``."""
        missing = value.ndim - per_draw.ndim
        shape = per_draw.shape + (1,) * missing
        return per_draw.reshape(shape).expand(per_draw.shape + value.shape[per_draw.ndim :])

    def _average(self, value: Tensor) -> Tensor:
        return (self._over_event(self.log_weights.exp(), value) * value).sum(0)

    def _precision(self, value: Tensor) -> dict[str, Tensor]:
        """Precision of one latent's draws ``(n, *batch, *event)``, by ``(*batch, *event)``."""
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
