"""Exact forecasts of a series by many classical models: filters and regressions, vectorised."""
