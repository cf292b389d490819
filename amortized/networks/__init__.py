"""Networks: modules whose forward pass returns a distribution."""

from amortized.networks.catalogue import NETWORKS, new_network
from amortized.networks.distribution_transformer import DistributionTransformer
from amortized.networks.dt_config import DistributionTransformerConfig
from amortized.networks.pfn import PFN, PFNConfig
from amortized.networks.series_pfn import SeriesPFN, SeriesPFNConfig
from amortized.networks.tabular_pfn import TabularPFN, TabularPFNConfig

__all__ = [
    "NETWORKS",
    "DistributionTransformer",
    "DistributionTransformerConfig",
    "PFN",
    "PFNConfig",
    "SeriesPFN",
    "SeriesPFNConfig",
    "TabularPFN",
    "TabularPFNConfig",
    "new_network",
]
