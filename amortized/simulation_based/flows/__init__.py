"""Normalising flows of a posterior or a likelihood, and the embedding of their context."""
