"""The observations of a program: missing or impossible values, and the distribution of a row."""
