"""Estimators of all columns of a table: their joint density, and their missing cells."""
