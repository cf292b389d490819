"""Priors of scientific simulators with few latents: epidemics, diffusions, readings of sensors."""
