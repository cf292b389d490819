"""Estimators of a column of a table given the others, by pretrained networks."""
