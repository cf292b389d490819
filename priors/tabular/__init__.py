"""Priors over tables: what makes columns and answers, and what spoils them as life does."""
