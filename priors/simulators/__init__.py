"""Priors of scientific simulators with few latents: epidemics, diffusions, quantum measurements."""
