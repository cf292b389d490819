"""Priors: programs that draw synthetic tasks, one a file. Imports nothing else of amortized."""

if __name__ == "priors":
    raise ImportError("Expected 'import amortized.priors'; got 'import priors'. Add 'amortized.'.")
