"""Draws and what belongs to them as ArviZ's own object, in the form of either of its versions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Groups = Mapping[str, Mapping[str, Tensor]]

_OF_DRAWS = ("posterior", "sample_stats", "log_likelihood", "posterior_predictive")


def inference_data(groups: Groups, n_chains: int) -> Any:
    """An ``InferenceData`` of ArviZ 0.2x, or the ``DataTree`` of ArviZ 1.

    Args:
        groups: arrays by group and name; those of draws have the draws first, chain after chain.
        n_chains: number of chains that the draws are made of.

    Raises:
        ImportError: if ArviZ is not installed.
    """
    try:
        import arviz
    except ImportError as reason:
        raise ImportError("Expected ArviZ; install it with amortized[arviz].") from reason
    arrays: dict[str, Any] = {
        group: {
            name: (value.unflatten(0, (n_chains, -1)) if group in _OF_DRAWS else value)
            .detach()
            .cpu()
            .numpy()
            for name, value in values.items()
        }
        for group, values in groups.items()
        if values
    }
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(arrays)
    return arviz.from_dict(**arrays)
