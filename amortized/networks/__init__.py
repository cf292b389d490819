"""Networks: each is a module whose forward returns a distribution."""

from amortized.networks.pfn import PFN, PFNConfig

__all__ = ["PFN", "PFNConfig"]
