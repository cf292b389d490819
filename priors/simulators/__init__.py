"""Priors of scientific simulators with a few latents: epidemics, diffusions, quantum outcomes."""
