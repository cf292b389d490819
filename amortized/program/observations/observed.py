"""Pointwise log likelihoods and replicated data of a program at given latents."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from amortized.program.density import ProgramDensity
from amortized.program.observations.row_mixture import EnumerateRows
from amortized.program.support import log_prob
from amortized.program.vectorised import FunctionalSamplers, draw, is_observation


def observed_values(density: ProgramDensity) -> dict[str, Tensor]:
    """The data at the observed sites of a program, ``{name: (batch, *shape)}``."""
    anywhere = density.sample_prior(1) if density.dim else density.y.new_zeros(len(density.y), 1, 0)

    def one(u: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        del u
        with FunctionalSamplers(), _Collect() as seen:
            density.model(x, y)
        return seen.values

    with torch.no_grad():
        found = density.run_for_all(one, anywhere)
    return {name: value[:, 0] for name, value in found.items()}


def at_latents(
    density: ProgramDensity, latents: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pointwise log likelihoods and replicated data, at each of many latents.

    If one site is observed, discrete latents of single rows are summed out of the log likelihoods.

    Args:
        density: density of the program and its data.
        latents: draws of all latents, ``{name: (batch, n, *event)}``.

    Returns:
        both as ``{name of an observed site: (batch, n, *shape)}``; a site with dependent elements
        has one joint log likelihood.
    """
    of_rows = density.discrete.of_rows if density.discrete else frozenset()

    def one(at: dict[str, Tensor], x: Tensor, y: Tensor) -> Any:
        with FunctionalSamplers(), _Collect() as seen, _Put(at):
            density.model(x, y)
        if not of_rows or len(seen.log_probs) > 1:
            return seen.log_probs, seen.drawn
        at = {name: value for name, value in at.items() if name not in of_rows}
        with EnumerateRows(of_rows, -2) as rows, _Collect() as law:
            with _Put(at):
                density.model(x, y)
        ((name, (fn, value)),) = law.laws.items()
        return {name: rows.summed_out(fn, value.shape[-1]).log_prob(value)}, seen.drawn

    with torch.no_grad():
        log_probs, drawn = density.run_for_all(one, dict(latents))
    return log_probs, drawn


class _Put(Messenger):
    """Sets latents to values; unlike `pyro.poutine.condition`, it does not observe them."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, message: Any) -> None:
        if not message["is_observed"] and message["name"] in self._values:
            message["value"] = self._values[message["name"]]


class _Collect(Messenger):
    """Collects the observations, their distributions and log densities, and replicates."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}
        self.laws: dict[str, Any] = {}
        self.log_probs: dict[str, Tensor] = {}
        self.drawn: dict[str, Tensor] = {}

    def _pyro_post_sample(self, message: Any) -> None:
        if not is_observation(message):
            return
        name, fn, value = message["name"], message["fn"], message["value"]
        self.drawn[name] = draw(_unmasked(fn)) + 0
        while isinstance(fn, Independent):
            fn = fn.base_dist
        self.values[name] = value + 0
        self.laws[name] = fn, value
        each = log_prob(fn, value)
        self.log_probs[name] = scale_and_mask(each, mask=message["mask"])


def _unmasked(fn: Any) -> Any:
    """The distribution of all elements, including missing ones."""
    if isinstance(fn, Independent) and isinstance(fn.base_dist, MaskedDistribution):
        return fn.base_dist.base_dist.to_event(fn.reinterpreted_batch_ndims)
    return fn.base_dist if isinstance(fn, MaskedDistribution) else fn
