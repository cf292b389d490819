"""`fit_parameters`: the `pyro.param`s of a program by marginal likelihood (empirical Bayes)."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from amortized.arrays import as_tensor
from amortized.empirical_bayes.exact import fit_exact
from amortized.empirical_bayes.importance_weighted import fit_importance_weighted
from amortized.empirical_bayes.monte_carlo_em import fit_monte_carlo_em
from amortized.empirical_bayes.parameters import Parameters, WithParameters
from amortized.one_at_a_time import gradients
from amortized.program.density import ProgramDensity
from amortized.program.vectorised import Program
from amortized.seeding import seeded
from amortized.validation import check_options

__all__ = ["FittedParameters", "fit_parameters"]

METHODS = ("auto", "exact", "iwae", "mcem")


@dataclass(frozen=True)
class FittedParameters:
    """Parameters that maximise the marginal likelihood.

    Attributes:
        values: by name.
        program: the program with these values in the place of its parameters, for `infer`.
        method: "exact", "iwae" or "mcem".
        log_evidence: of all datasets together at the values, with the latents integrated out;
            None for "mcem", which does not know it.
        diagnostics: ``doubt``, the reasons for doubt as sentences, ``seconds``, and what the
            method measured: ``gradient``, largest ``curvature`` and the log evidences at the
            ``ends`` of all starts (exact), ``k_hat``, ``log_evidence_error`` and the ``gain`` in
            nats that a further Newton step promises (iwae),
            ``accept`` and ``drift`` (mcem).
    """

    values: dict[str, Tensor]
    program: WithParameters
    method: str
    log_evidence: Tensor | None
    diagnostics: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """The value of a parameter."""
        return self.values[name]


def fit_parameters(
    program: Program,
    x: Any,
    y: Any,
    *,
    method: str = "auto",
    start: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> FittedParameters:
    r"""Fits the `pyro.param`s of a program by marginal likelihood, with its latents integrated out.

    .. math:: \hat\theta = \arg\max_\theta \sum_b \log \int p_\theta(z_b, y_b \mid x_b) \, dz_b

    The maximum may be a local one: "exact" keeps the best of several starts, the other methods take
    the one near the start. The parameters have no uncertainty in what follows; where that matters,
    give them priors and use `infer`.

    Args:
        program: a Pyro program ``program(x, y=None)`` that observes ``y`` at site "y" and has
            parameters ``pyro.param(name, start, constraint=...)``. Pyro's store is neither read
            for other names nor changed.
        x: inputs ``(n, n_features)``, or ``(batch, n, n_features)`` of several datasets, which
            share the parameters but have latents of their own.
        y: observations ``(n,)`` or ``(batch, n)``, with further dimensions where a row is an array.
        method: "exact" where all latents are discrete, by summing them out; "iwae" for continuous
            ones, by an importance-weighted bound with a normal guide for each dataset; "mcem" for
            latents of any kind, by Markov chains, best where each row of a plate has a few of its
            own. "auto" takes "exact" or "iwae".
        start: values at which to begin, by name.
        seed: equal seeds give equal results.
        **options: ``n_steps`` of every method; ``n_starts`` of "exact"; ``n_importance`` and
            ``learning_rate`` of "iwae"; ``n_chains`` and ``learning_rate`` of "mcem".

    Raises:
        ValueError: if the data do not fit the program, it has no parameters, or the method does
            not fit its latents.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from torch.distributions import constraints
        >>> def mixture(x, y=None):
        ...     share = pyro.param("share", torch.tensor(0.5), constraint=constraints.unit_interval)
        ...     with pyro.plate("rows", len(x)):
        ...         z = pyro.sample("z", dist.Bernoulli(share))
        ...         return pyro.sample("y", dist.Normal(4.0 * z, 1.0), obs=y)
        >>> y = [-0.3, 0.4, 0.1, 3.9]
        >>> fitted = fit_parameters(mixture, torch.zeros(4, 0), y)
        >>> round(fitted["share"].item(), 2)
        0.25
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"Expected a method among {list(METHODS)}; got {method!r}.")
    inputs, observed = as_tensor(x, "x"), as_tensor(y, "y")
    if inputs.ndim == 2:
        inputs, observed = inputs.unsqueeze(0), observed.unsqueeze(0)
    if inputs.ndim != 3 or observed.shape[:2] != inputs.shape[:2]:
        raise ValueError(
            "Expected x of shape (n, n_features) and y of shape (n,), or both with a batch in "
            f"front; got {tuple(inputs.shape)} and {tuple(observed.shape)}."
        )
    began = time.perf_counter()
    with gradients(), seeded(seed):
        parameters = Parameters(program, inputs[0], observed[0], start)
        theta, found, method = _fit(inputs, observed, parameters, method, options)
    values = {name: v.detach() for name, v in parameters.values(theta).items()}
    for reason in found["doubt"]:
        warnings.warn(f"The parameters are in doubt: {reason}.", UserWarning, stacklevel=2)
    evidence = found.pop("log_evidence", None)
    found["seconds"] = time.perf_counter() - began
    return FittedParameters(values, WithParameters(program, values), method, evidence, found)


def _fit(
    x: Tensor, y: Tensor, parameters: Parameters, method: str, options: dict[str, Any]
) -> tuple[Tensor, dict[str, Any], str]:
    if method == "mcem":
        options = check_options(method, fit_monte_carlo_em, given=options, skipped=3)
        theta, found = fit_monte_carlo_em(x, y, parameters, **options)
        return theta, found, method
    density = ProgramDensity(parameters.program, x, y, allow_no_latents=True)
    if method == "auto":
        method = "iwae" if density.dim else "exact"
    fit = fit_importance_weighted if method == "iwae" else fit_exact
    options = check_options(method, fit, given=options)
    theta, found = fit(density, parameters, **options)
    return theta, found, method
