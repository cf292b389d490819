"""The result of every inference method: the posterior of the latents, in their own units."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Distribution

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.posterior.file import read_posterior, write_posterior
from amortized.posterior.inference_data import Groups, inference_data
from amortized.posterior.summary import modes, precision_of, real, scalars, text_table
from amortized.sampling.checks.convergence import replicate_ess
from amortized.validation import generator_from, number_between, whole_number

Latents = Mapping[str, Tensor]

_KEPT = (
    "n_chains",
    "batch_shape",
    "log_evidence",
    "log_evidence_error",
    "mixture",
    "diagnostics",
)  # attributes that a file holds


class Posterior:
    """Draws of the latents given one dataset, or given each dataset of a batch.

    The draws may be weighted. All methods then use the weights, and ``draws`` is not available.

    Args:
        draws: ``{name: (n, *batch, *event)}``, with an empty batch for one dataset. Empty if the
            model has no latents, only an evidence and a predictive.
        log_weights: log weights of the draws, ``(n, *batch)``; None for equal weights.
        n_chains: number of chains that the draws are made of, chain after chain.
        cluster: draws with equal labels depend on each other, ``(n, *batch)`` integers, such as the
            first ancestor of a particle; None where they depend along chains.
        log_evidence: ``log p(y | x)``, ``(*batch,)``, where the method knows it.
        log_evidence_error: its Monte Carlo standard error, 0 where it is exact; None if unknown.
        log_prob: normalised log density of latents, where the method knows it.
        mixture: the posterior over unconstrained space, of the batch's shape, where the method
            answers by a Gaussian mixture.
        predictive: makes the posterior predictive from inputs.
        discrete: the marginal probabilities of the discrete latents that are among the draws,
            ``{name: (*batch, *shape, values)}``.
        groups: makes what belongs to equally weighted draws, by group as ArviZ names them.
        diagnostics: what the method says of itself; always has ``method``.

    Attributes:
        diagnostics: a dictionary; ``method``, ``seconds``, and what the method measured, such as
            ``r_hat``, ``ess``, ``divergences`` or ``k_hat``.
        origin: the program, data and options that `infer` computed it from; None where it was made
            otherwise, or from data by names.
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
        discrete: Latents | None = None,
        groups: Callable[[Latents], Groups] | None = None,
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
        self._probabilities: Latents = {} if discrete is None else discrete
        self._make_groups = groups
        self.diagnostics = dict(diagnostics or {})
        self.origin: Any = None  # an `amortized.infer.sequential.Origin`, set by `infer`

    def report(self, *, seed: int = 0) -> Any:
        """Method, calibration at these inputs, fit and a reference: reasons to distrust it.

        Args:
            seed: seed of the datasets and draws; see `amortized.diagnostics.report`.

        Raises:
            ValueError: if this is not a posterior of one dataset by `infer`.
        """
        # Diagnostics import this module, so they are imported on demand.
        return import_module("amortized.diagnostics").report(self, seed=seed)

    def __getitem__(self, name: str) -> Tensor:
        """Draws of one latent, equally weighted, ``(n, *batch, *event)``."""
        if name not in self._draws:
            raise KeyError(f"Expected a latent among {self.names}; got {name!r}.")
        return self._equal_draws()[name]

    @property
    def names(self) -> list[str]:
        """Names of the latents."""
        return list(self._draws)

    @property
    def log_weights(self) -> Tensor:
        """Normalised log weights of the draws, ``(n, *batch)``; equal if there are none."""
        if self._log_weights is None:
            dtypes = [v.dtype for v in self._draws.values() if v.is_floating_point()]
            dtype = dtypes[0] if dtypes else torch.float64
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
        n = whole_number("n", n, 1)
        generator = None if seed is None else generator_from(seed)
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
        q = number_between("q", q, 0, 1, least=True, most=True)
        if self._log_weights is None:
            return {name: real(v).quantile(q, dim=0) for name, v in self._draws.items()}
        result = {}
        for name, value in self._draws.items():
            ordered, order = value.sort(0)
            weights = self._over_event(self.log_weights.exp(), value).gather(0, order)
            index = (weights.cumsum(0) < q).sum(0, keepdim=True)
            there = weights > 0  # the ends are those of the draws that have a weight
            first = there.long().argmax(0, keepdim=True)
            last = self.n_draws - 1 - there.flip(0).long().argmax(0, keepdim=True)
            index = torch.minimum(torch.maximum(index, first), last)
            result[name] = ordered.gather(0, index).squeeze(0)
        return result

    def log_prob(self, latents: Latents) -> Tensor:
        """Normalised log density of latents ``{name: (..., *batch, *event)}``, in their units.

        Discrete latents may be given, for the joint density, or left out, which sums them out.
        """
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
        if self.origin is None:
            raise ValueError(
                "Expected a posterior that `infer` computed from rows x, y of a program; got one "
                "of data by names, or from elsewhere. Call infer with all data."
            )
        n_draws = self.n_draws if n_draws is None else n_draws
        updated: Posterior = self.origin.update(self, x, y, n_draws, seed)
        return updated

    def probabilities(self, name: str) -> Tensor:
        """The posterior probability of every value of a discrete latent.

        Exact given the continuous latents, and averaged over their draws; exact altogether where
        there are none.

        Args:
            name: name of the latent.

        Returns:
            ``(*batch, *shape, values)``, in the order of the distribution's ``enumerate_support``:
            0, 1, 2, ... of a categorical, Bernoulli or binomial one.

        Raises:
            ValueError: if the posterior has no discrete latent of that name.
        """
        if name not in self._probabilities:
            raise ValueError(
                f"Expected a discrete latent among {sorted(self._probabilities)}; got {name!r}."
            )
        return self._probabilities[name]

    def mode_shares(self, seed: int = 0) -> list[Any]:
        """Separates the draws into modes; see `amortized.sampling.checks.modes.find_modes`.

        If a sampler found several modes, it rarely moves between them, so the shares are less
        precise than a mean within one mode.

        Returns:
            for each mode, largest first, its ``share`` and the ``mean`` of each latent in it; for a
            batch a list of such lists, one per dataset.
        """
        draws = self._draws if self._log_weights is None else self.sample(self.n_draws, seed)
        draws = {name: value for name, value in draws.items() if name not in self._probabilities}
        if not draws:
            raise ValueError(
                "Expected continuous latents to divide into modes; this posterior has none."
            )
        many = bool(self.batch_shape)
        shares = [
            modes({k: (v.flatten(1, n_batch)[:, i] if many else v) for k, v in draws.items()})
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
        of draws; see `amortized.sampling.checks.precision`. Weighted draws have no ``r_hat``.

        One entry per scalar, named like ``"weights[0]"``; for a batch the dataset index comes
        first.
        """
        rows: dict[str, dict[str, float]] = {}
        mean, std = self.mean, self.std
        quantiles = {q: self.quantile(q) for q in (0.05, 0.5, 0.95)}
        for name, value in self._draws.items():
            checks = precision_of(
                value,
                self.batch_shape.numel(),
                self.n_chains,
                self._log_weights,
                self._cluster,
            )
            for label, at in scalars(name, value):
                rows[label] = {"mean": mean[name][at].item(), "sd": std[name][at].item()}
                rows[label] |= {f"q{q:.0%}"[:-1]: v[name][at].item() for q, v in quantiles.items()}
                rows[label] |= {key: check[at].item() for key, check in checks.items()}
        return rows

    def to_dataframe(self) -> Any:
        """The draws as a pandas table, a row for each draw; weighted ones resampled.

        Columns are named as the entries of `summary`.
        """
        import pandas  # type: ignore[import-untyped]

        return pandas.DataFrame(
            {
                label: column.detach().cpu().numpy()
                for name, value in self._equal_draws().items()
                for (label, _), column in zip(
                    scalars(name, value), value.reshape(self.n_draws, -1).T, strict=True
                )
            }
        )

    def to_inference_data(self) -> Any:
        """The draws as ArviZ's own object, weighted ones resampled; needs ``amortized[arviz]``.

        Of a program it has the groups ``posterior``, ``sample_stats`` (``lp``, the log density of
        the draws in unconstrained space), ``log_likelihood`` of every single observation,
        ``posterior_predictive``, ``observed_data`` and ``constant_data``.
        """
        draws = self._equal_draws()
        return inference_data({"posterior": draws} | dict(self._groups(draws)), self.n_chains)

    def log_likelihoods(self) -> Float[Tensor, "n_draws *batch n_observations"]:
        """Log likelihood of each single observation at equally weighted draws."""
        found = self._groups(self._equal_draws()).get("log_likelihood", {})
        if not found:
            raise ValueError("Expected the posterior of a program with a density and with latents.")
        n_outer = 1 + len(self.batch_shape)
        return torch.cat([v.reshape(*v.shape[:n_outer], -1) for v in found.values()], -1)

    def save(self, path: str | Path) -> Path:
        """Writes the draws, and what belongs to them, into one file that holds no code.

        The program is not in the file: what is loaded has no `predictive` and no `log_prob`.

        Args:
            path: new, empty, or a saved posterior, which is replaced.
        """
        draws = self._equal_draws()
        arguments = {
            "draws": self._draws,
            "discrete": self._probabilities,
            "log_weights": self._log_weights,
            "cluster": self._cluster,
            **{name: getattr(self, name) for name in _KEPT},
        }
        return write_posterior(path, arguments, self._groups(draws))

    @classmethod
    def load(cls, path: str | Path) -> "Posterior":
        """Reads a posterior that `save` has written."""
        return cls(**read_posterior(path))

    def plot(self) -> Any:
        """A histogram of every scalar latent with its mean and 90% interval, as a figure."""
        from amortized.plotting import histograms

        if not self._draws:
            raise ValueError("Expected latents to plot; this posterior has none.")
        columns = [v.reshape(self.n_draws, -1).T for v in self._equal_draws().values()]
        return histograms(self.summary(), torch.cat([each.double() for each in columns]))

    def __repr__(self) -> str:
        rows = self.summary() if not self.batch_shape else {}
        head = f"Posterior({self.diagnostics.get('method')}, {self.n_draws} draws of {self.names}"
        head += f", batch {tuple(self.batch_shape)})" if self.batch_shape else ")"
        if not rows:
            return head
        return "\n".join([head, *text_table(rows)])

    def _groups(self, draws: Latents) -> Groups:
        return {} if self._make_groups is None else self._make_groups(draws)

    def _equal_draws(self) -> Latents:
        """All draws, or as many equally weighted ones, always the same."""
        return self._draws if self._log_weights is None else self.sample(self.n_draws, seed=0)

    def _over_event(self, per_draw: Tensor, value: Tensor) -> Tensor:
        """Broadcasts ``(n, *batch)`` over the event dimensions of ``(n', *batch, *event)``."""
        missing = value.ndim - per_draw.ndim
        shape = per_draw.shape + (1,) * missing
        return per_draw.reshape(shape).expand(per_draw.shape + value.shape[per_draw.ndim :])

    def _average(self, value: Tensor) -> Tensor:
        return (self._over_event(self.log_weights.exp(), value) * value).sum(0)
