"""Runs Pyro programs: their latents, densities, draws and supports; no particular model."""
