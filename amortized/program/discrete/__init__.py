"""Discrete latents of a program: their enumeration, and sums, marginals and draws."""
