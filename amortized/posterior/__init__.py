"""The result of every inference method: a posterior, its summary, and its file."""

from amortized.posterior.posterior import Posterior

__all__ = ["Posterior"]
