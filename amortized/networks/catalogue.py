"""Networks by name, as used in stored configurations and training recipes."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from amortized.latent_priors.tasks import LatentTasks
from amortized.networks.distribution_transformer import DistributionTransformer
from amortized.networks.dt_config import DistributionTransformerConfig
from amortized.networks.pfn import PFN, PFNConfig
from amortized.networks.series_pfn import SeriesPFN, SeriesPFNConfig
from amortized.networks.tabular_pfn import TabularPFN, TabularPFNConfig
from amortized.priors.prior import Prior

# Each class has ``new(prior, config, seed)``, which creates an untrained network.
NETWORKS: Mapping[str, tuple[Any, Any]] = {
    "dt": (DistributionTransformer, DistributionTransformerConfig),
    "pfn": (PFN, PFNConfig),
    "series-pfn": (SeriesPFN, SeriesPFNConfig),
    "tabular-pfn": (TabularPFN, TabularPFNConfig),
}
NETWORK_TYPES: tuple[Any, ...] = tuple(network for network, _ in NETWORKS.values())


def new_network(prior: Prior | LatentTasks, config: Any, seed: int = 0) -> nn.Module:
    """Creates an untrained network of the type that matches the configuration.

    Args:
        prior: the prior to train on, which determines the bars of the predictive.
        config: size of the network.
        seed: seed of the weights.

    Raises:
        TypeError: if no network has a configuration of this type.

    Example:
        >>> from amortized.priors.tabular.families.rules import RulePrior
        >>> new_network(RulePrior(), TabularPFNConfig(n_cell_blocks=1)).config.target
        'classification'
    """
    for network, config_class in NETWORKS.values():
        if type(config) is config_class:
            return network.new(prior, config, seed)
    names = " or ".join(config_class.__name__ for _, config_class in NETWORKS.values())
    raise TypeError(f"Expected a {names}; got {type(config).__name__}.")
