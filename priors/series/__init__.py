"""Priors of time series: parts that are simulated by filters, and their mixture."""
