"""Exact posteriors: closed forms, and quadrature where there is none."""
