"""Priors over tables: random columns, targets and missing cells, and the mixtures of them."""
